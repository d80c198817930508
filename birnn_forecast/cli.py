"""The console script ``birnn-forecast``."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from birnn_forecast import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status.

    Parameters
    ----------
    argv
        Arguments without the program's name; default: those of the process.
    """
    args = _parser().parse_args(argv)
    try:
        _make_folder(args.out)
    except OSError as error:
        args.refuse(f"argument --out: must be a folder to write into, got '{args.out}' ({error.strerror})")
    # Darts and torch take seconds to import: not for `--help`
    from birnn_forecast.demo import run_demo

    run_demo(args.out, epochs=args.epochs, seed=args.seed)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="birnn-forecast", description="Forecasting and imputing time series with gaps.")
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
    demo.add_argument("--seed", type=_seed, default=0, help="seed of everything random")
    demo.set_defaults(refuse=demo.error)
    return parser


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        usage = " ".join(self.format_usage().split())
        self.exit(2, f"{self.prog}: error: {message} ({usage})\n")


def _make_folder(path: Path) -> None:
    """Make the folder, and write into it to see that it can be done."""
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        pass


def _positive(text: str) -> int:
    return _whole(text, 1)


def _seed(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, minimum: int) -> int:
    if not text.strip().isdecimal() or int(text) < minimum:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {minimum}, got {text!r}")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
