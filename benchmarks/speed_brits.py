"""The loop over time of BRITS: ours against that of PyPOTS, with the same weights on the same data.

    python -m benchmarks.speed_brits [--features 36 7] [--length 48 96]

A row a shape: the CPU milliseconds of a training step (the network, the losses of its estimates, the gradient) of
either, their ratio, and the largest differences of estimates and gradients. Five steps of either in turn, medians, one
thread. Needs an environment with PyPOTS (see ``benchmarks/README.md``).
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.models.pypots_imputers import library, silent
from birnn_forecast.nn.brits import BRITSNetwork
from birnn_forecast.nn.rits import RITS, both_ways_by_step, in_time

BATCH, HIDDEN = 32, 64
STEPS = 5
SHAPES = ((36, 36), (36, 48), (7, 96))
WAYS = ("forward", "backward")
# torch's LSTM has forget gate and candidate in other places
GATES = (0, 1, 3, 2)


def copy_weights(ours: RITS, theirs: Any) -> None:
    """Give `ours` the weights of PyPOTS' backbone."""
    hidden, components = ours.history.weight.shape[1:]
    with torch.no_grad():
        for i, rits in enumerate((theirs.rits_f, theirs.rits_b)):

            def put(linear: Any, weight: Tensor, bias: Tensor | None = None, i: int = i) -> None:
                linear.weight[i] = weight.T
                if bias is not None:
                    linear.bias[i] = bias

            def gates(x: Tensor) -> Tensor:
                return x.unflatten(0, (4, hidden))[[*GATES]].flatten(0, 1)

            put(ours.state_decay, rits.temp_decay_h.W, rits.temp_decay_h.b)
            put(ours.history, rits.hist_reg.weight, rits.hist_reg.bias)
            put(ours.cross, rits.feat_reg.W, rits.feat_reg.b)
            put(ours.share, rits.combining_weight.weight, rits.combining_weight.bias)
            for parameter, value in zip(
                ours.input_decay, (rits.temp_decay_x.W.diagonal(), rits.temp_decay_x.b), strict=True
            ):
                parameter[i] = value
            cell = rits.rnn_cell
            put(ours.known, gates(cell.weight_ih[:, components:]), gates(cell.bias_ih + cell.bias_hh))
            put(ours.filled, gates(cell.weight_ih[:, :components]))
            put(ours.state, gates(cell.weight_hh))


def errors(estimates: Sequence[Tensor], x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean absolute errors over the observed values of each step, averaged over steps, as PyPOTS has it."""
    off = ((torch.stack([*estimates]) - x).abs() * mask).sum(dim=(-1, -2))
    return (off / (mask.sum(dim=(-1, -2)) + 1e-12)).mean(dim=-1)


def networks(features: int, length: int) -> tuple[Callable[[], list[Tensor]], Callable[[], list[Tensor]]]:
    """Return a training step of PyPOTS' network and of ours: estimates, then gradients of weights that both have."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, length, features, generator=generator)
    observed = torch.rand(x.shape, generator=generator) < 0.75
    mask = observed.float()
    x = x * mask
    with silent():
        pots = library().imputation
        from pypots.imputation.brits.data import DatasetForBRITS

        peer: Any = pots.BRITS(length, features, HIDDEN, batch_size=BATCH, device="cpu", verbose=False).model.model
    gappy = x.masked_fill(~observed, float("nan")).numpy()
    loader = torch.utils.data.DataLoader(DatasetForBRITS({"X": gappy}, False, False), batch_size=BATCH)
    names = ("X", "missing_mask", "deltas")
    _, *arrays = next(iter(loader))
    inputs = {way: dict(zip(names, arrays[3 * i : 3 * i + 3], strict=True)) for i, way in enumerate(WAYS)}
    ours = RITS(features, 0, HIDDEN)
    copy_weights(ours, peer)
    start = torch.zeros(BATCH, dtype=torch.long)

    def gradients(network: nn.Module, loss: Tensor) -> list[Tensor]:
        network.zero_grad()
        loss.backward()
        return [p.grad for p in network.parameters() if p.grad is not None]

    def step_of_peer() -> list[Tensor]:
        _, f, b, _, _, consistency, reconstruction = peer(inputs)
        gradients(peer, consistency + reconstruction)
        found = [peer.rits_f.rnn_cell.weight_hh, peer.rits_b.feat_reg.W]
        return [f.detach(), b.detach(), *(p.grad for p in found)]

    def step() -> list[Tensor]:
        found = ours(x, observed, None, start)
        f, b = in_time(found.combined)
        loss = errors(found[:3], both_ways_by_step(x), both_ways_by_step(mask)).sum() / 3
        loss = loss + BRITSNetwork.disagreement_weight * ((f - b) * (1 - mask)).abs().mean()
        gradients(ours, loss)
        own = ours.state.weight.grad[0].T.unflatten(0, (4, HIDDEN))[[*np.argsort(GATES)]].flatten(0, 1)
        return [f.detach(), b.detach(), own, ours.cross.weight.grad[1].T]

    return step_of_peer, step


def compare(features: int, length: int, repeats: int = 9) -> tuple[float, float, float, float]:
    """Return the median CPU seconds of PyPOTS and of ours, and the largest differences of estimates and gradients."""
    peer, ours = networks(features, length)
    seconds: tuple[list[float], list[float]] = ([], [])
    for round_ in range(repeats + 1):
        results = []
        for function, own in zip((peer, ours), seconds, strict=True):
            start = time.process_time()
            for _ in range(STEPS):
                found = function()
            results.append(found)
            if round_:
                own.append((time.process_time() - start) / STEPS)
    off = [float((a - b).abs().max()) for a, b in zip(*results, strict=True)]
    return float(np.median(seconds[0])), float(np.median(seconds[1])), max(off[:2]), max(off[2:])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, nargs="+", default=[s[0] for s in SHAPES])
    parser.add_argument("--length", type=int, nargs="+", default=[s[1] for s in SHAPES])
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"batch {BATCH}, hidden {HIDDEN}")
    print(f"{'features':>8}{'length':>7}{'PyPOTS, ms':>12}{'ours, ms':>10}{'ratio':>7}  off by (estimates, gradients)")
    for features, length in zip(args.features, args.length, strict=True):
        peer, ours, estimates, slopes = compare(features, length, args.repeats)
        times = f"{1e3 * peer:12.1f}{1e3 * ours:10.1f}{peer / ours:7.2f}"
        print(f"{features:8}{length:7}{times}  {estimates:.1e}, {slopes:.1e}", flush=True)


if __name__ == "__main__":
    main()
