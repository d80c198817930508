"""The console script ``birnn-forecast``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from birnn_forecast import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status.

    Parameters
    ----------
    argv
        Arguments without the program's name; default: those of the process.
    """
    args = _parser().parse_args(argv)
    # Darts and torch take seconds to import: not for `--help`
    from birnn_forecast.demo import run_demo

    run_demo(args.out, epochs=args.epochs, seed=args.seed)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="birnn-forecast", description="Forecasting and imputing time series with gaps."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="forecast the weekly CO2 of Mauna Loa through its gaps, then fill them, beside other models",
        description="Forecast the weekly CO2 of Mauna Loa (ships with statsmodels) through its gaps with a "
        "bidirectional GRU beside four other models; fill its gaps, and some that are made for the purpose, with a "
        "gated bidirectional network beside Kalman smoothing and interpolation. Two tables and two pictures.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--out", type=Path, default=Path("birnn_forecast_demo"), help="folder for the pictures")
    demo.add_argument(
        "--epochs", type=_positive, default=None, help="training epochs of the networks, instead of their own"
    )
    demo.add_argument("--seed", type=int, default=0, help="seed of everything random")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


if __name__ == "__main__":
    raise SystemExit(main())
