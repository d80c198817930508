"""A training step of the recurrence with feedback against GRIN's authors' code, in one process, in turns.

    python -m benchmarks.speed_grin [--reference DIR] [--repeats 7]

Both have the same weights and read the same made-up windows on one thread. DIR is a checkout of
https://github.com/Graph-Machine-Learning-Group/grin, which is on no package index, and needs ``einops``; without it
ours is timed alone. Exit status 1 where outputs or gradients differ, or the goal is missed.
"""

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.goals import of_speed
from benchmarks.speed_windows import interleaved
from birnn_forecast.nn.cells import FeedbackGRIN

BATCH, TIME, NODES, HIDDEN, DEGREE = 32, 36, 36, 64, 8
GOAL = of_speed()["GRIN with feedback, training step"]
LARGEST_DIFFERENCE = 1e-6
NETWORK = "lib/nn/models/grin.py"
DIRECTIONS = ("fwd_rnn", "bwd_rnn")


class Result(NamedTuple):
    """Median seconds of a training step of both, and how far they differ at most, relative to the largest value.

    What only a reference can tell is None without one.
    """

    ours: float
    reference: float | None
    outputs: float | None
    gradients: float | None


def load_reference(folder: Path) -> Any:
    """Return the class of the authors' network.

    Its packages are put in place empty: what they import of their own accord is data sets and trainers.

    Raises
    ------
    FileNotFoundError
        If `folder` is no checkout of their repository.
    """
    if not (folder / NETWORK).is_file():
        raise FileNotFoundError(
            f"{folder} must be a checkout of https://github.com/Graph-Machine-Learning-Group/grin: no {NETWORK} there."
        )
    for name in ("lib", "lib.utils", "lib.nn", "lib.nn.utils", "lib.nn.layers", "lib.nn.models"):
        package = ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    names: Any = sys.modules
    names["lib"].epsilon = 1e-8
    names["lib.nn.layers"].BiGRIL = importlib.import_module("lib.nn.layers.gril").BiGRIL
    return importlib.import_module("lib.nn.models.grin").GRINet


def weight_pairs(ours: FeedbackGRIN, tensors: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return each of our parameters, and the same of the reference's `tensors` by name.

    Theirs have the output first, no second direction, and `[v; m; h]` within each term of the diffusion; ours have
    the terms of each input side by side.
    """

    def both(read: Callable[[str], Tensor]) -> Tensor:
        return torch.stack([read(f"bigrill.{direction}.") for direction in DIRECTIONS])

    def weight(*names: str) -> Tensor:
        return both(lambda d: torch.cat([tensors[f"{d}{name}.weight"].flatten(1) for name in names]).T)

    def bias(*names: str) -> Tensor:
        return both(lambda d: torch.cat([tensors[f"{d}{name}.bias"] for name in names])[None])

    pairs: list[tuple[Tensor | None, Tensor]] = []
    for linear, name in (
        (ours.first, "first_stage"),
        (ours.message, "spatial_decoder.lin_in"),
        (ours.neighbours, "spatial_decoder.graph_conv.mlp"),
        (ours.decoder, "spatial_decoder.lin_out"),
        (ours.second, "spatial_decoder.read_out"),
    ):
        pairs += [(linear.weight, weight(name)), (linear.bias, bias(name))]
    (gru,) = ours.layers
    assert isinstance(gru, nn.Module)
    gates = [f"cells.0.{gate}.mlp" for gate in ("forget_gate", "update_gate", "c_gate")]
    terms = weight(*gates).unflatten(1, (1 + 2 * ours.kernel_size, -1))
    value, mask, state = (part.flatten(1, 2) for part in terms.split([1, 1, HIDDEN], dim=2))
    parameters: dict[str, Tensor] = dict(gru.named_parameters())
    pairs += [
        (parameters["input.weight"], torch.cat([value, mask], dim=1)),
        (parameters["input.bias"], bias(*gates)),
        (parameters["gates.weight"], state[..., : 2 * HIDDEN]),
        (parameters["candidate.weight"], state[..., 2 * HIDDEN :]),
        (ours.slope, both(lambda d: tensors[f"{d}spatial_decoder.activation.weight"])[:, :, None, None]),
        (ours.start, both(lambda d: tensors[f"{d}h0.0"].T[None])[None]),
        (ours.embedding, tensors["bigrill.emb"].T),
    ]
    for i in (0, 3):
        pairs.append((ours.output.get_parameter(f"{i}.weight"), tensors[f"bigrill.out.{i}.weight"].flatten(1)))
        pairs.append((ours.output.get_parameter(f"{i}.bias"), tensors[f"bigrill.out.{i}.bias"]))
    return [(own, theirs) for own, theirs in pairs if own is not None]


def compare(reference: Path | None = None, repeats: int = 7, batch: int = BATCH, time: int = TIME) -> Result:
    """Time a training step: the forward pass, the absolute errors of all estimates, the backward pass."""
    generator = torch.Generator().manual_seed(0)
    adjacency = torch.rand(NODES, NODES, generator=generator)
    adjacency *= torch.rand(NODES, NODES, generator=generator) < DEGREE / (NODES - 1)
    adjacency.fill_diagonal_(0.0)
    x = torch.randn(batch, time, NODES, generator=generator)
    observed = torch.rand(batch, time, NODES, generator=generator) < 0.75
    torch.manual_seed(0)
    ours = FeedbackGRIN(NODES, hidden_size=HIDDEN, ff_size=HIDDEN)

    def step(network: nn.Module, run: Callable[[], tuple[Tensor, Tensor]], of: Callable = torch.abs) -> list[Tensor]:
        network.zero_grad(set_to_none=True)
        output, estimates = run()
        errors = (of(output - x) * observed).sum() + (of(estimates - x) * observed).sum()
        (errors / observed.sum()).backward()
        return [output.detach(), estimates.detach()]

    def run_ours() -> tuple[Tensor, Tensor]:
        found = ours(x, observed, None, adjacency)
        return found.output[..., 0], found.estimates

    if reference is None:
        seconds, _ = interleaved(lambda: step(ours, run_ours), lambda: None, repeats)
        return Result(seconds, None, None, None)

    network = load_reference(reference)
    theirs = network(adjacency.numpy(), 1, HIDDEN, HIDDEN, 0.0, d_emb=8).train()
    with torch.no_grad():
        for own, other in weight_pairs(ours, dict(theirs.named_parameters())):
            own.copy_(other)

    def run_theirs() -> tuple[Tensor, Tensor]:
        output, estimates = theirs(x[..., None], observed[..., None])
        return output[..., 0], estimates[..., 0][[2, 0, 3, 1]]  # theirs: second estimates first

    slow, fast = interleaved(lambda: step(theirs, run_theirs), lambda: step(ours, run_ours), repeats)
    # in float64 and of squared errors: rounding chooses the slope of an absolute error or a PReLU near 0
    x, adjacency = x.double(), adjacency.double()
    ours.double()
    weights = theirs.state_dict()
    theirs = (
        network(adjacency.numpy(), 1, HIDDEN, HIDDEN, 0.0, d_emb=8).double().train()
    )  # it keeps what it made of the graph
    theirs.load_state_dict(weights)
    outputs = zip(step(ours, run_ours, torch.square), step(theirs, run_theirs, torch.square), strict=True)
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    pairs = weight_pairs(ours, gradients)
    return Result(fast, slow, furthest(list(outputs)), furthest([(p.grad, g) for p, g in pairs if p.grad is not None]))


def furthest(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """Return the largest difference of a pair, relative to the largest value of its second."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        result = compare(options.reference, options.repeats)
    except FileNotFoundError as error:
        parser.error(str(error))
    print(f"ours       {1e3 * result.ours:8.1f} ms")
    if result.reference is None or result.outputs is None or result.gradients is None:
        return 0
    ratio = result.reference / result.ours
    print(f"reference  {1e3 * result.reference:8.1f} ms")
    print(f"ratio      {ratio:8.2f}, goal {GOAL}")
    print(f"largest relative difference: outputs {result.outputs:.1e}, gradients {result.gradients:.1e}")
    return int(ratio < GOAL or max(result.outputs, result.gradients) > LARGEST_DIFFERENCE)


if __name__ == "__main__":
    sys.exit(main())
