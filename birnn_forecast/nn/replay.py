"""Loops over time as CUDA graphs: on a GPU, to launch their many small operations takes longer than to compute them.

A function of tensors is recorded for the shapes that it is called with again and again: its forward pass, and its
backward pass together with another forward pass, so that nothing but inputs need be kept from one to the other. A
recording is compared with the function, on other values, before it is used, and not used where they differ; where a
device cannot record, nothing is tried a second time.

Chosen by ``birnn_forecast.nn.recurrence.use("graph")``. New, and not yet measured on a device:
``python -m benchmarks.gpu_check`` compares and times it.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from birnn_forecast.eager import is_transformed
from birnn_forecast.nn import recurrence

logger = logging.getLogger(__name__)

# shapes are recorded when they come for so many times, and so many of one owner
CALLS, SHAPES = 3, 4
TOLERANCE = 1e-3


def record_on_cuda(run: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
    """Return what `run` returned while it was recorded, and what computes the same tensors again."""
    stream, before = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(before)
    with torch.cuda.stream(stream):  # libraries set themselves up in the first runs
        for _ in range(3):
            run()
    before.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        # other threads, such as one that pins batches, may go on
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = run()
    finally:
        torch.cuda.set_stream(before)
    return outputs, graph.replay


# by type of device
RECORD = {"cuda": record_on_cuda}


class Recordings:
    """What has been recorded: per owner, by the signature of the inputs, a recording, None, or the calls so far."""

    made: ClassVar[WeakKeyDictionary[Any, dict[tuple, Any]]] = WeakKeyDictionary()
    busy = False
    failed = False  # a device that could not record once is not asked again

    @classmethod
    def count(cls) -> int:
        """Return how many are in use."""
        return sum(isinstance(one, Recording) for known in cls.made.values() for one in known.values())


def is_wanted(x: Tensor) -> bool:
    """Return whether a loop over `x` is to be replayed: in training, where asked for, on a device that records."""
    return (
        recurrence.use.mode == "graph"
        and x.device.type in RECORD
        and not Recordings.busy
        and not Recordings.failed
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled(x.device.type)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not is_transformed()
        # checkpointing counts what is saved, and must find the same a second time
        and torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    )


@contextmanager
def plainly() -> Iterator[None]:
    """Record nothing meanwhile."""
    before, Recordings.busy = Recordings.busy, True
    try:
        yield
    finally:
        Recordings.busy = before


def replayed(owner: Any, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return ``function(*inputs)``.

    Parameters
    ----------
    owner
        Whom its recordings belong to.
    function
        Depends on nothing but its inputs, and draws no random numbers.
    inputs
        Tensors on one device.
    """
    known = Recordings.made.setdefault(owner, {})
    key = tuple((x.shape, x.dtype, x.device, x.requires_grad) for x in inputs)
    found = known.get(key, 0)
    if isinstance(found, int) and found >= CALLS:
        recorded = sum(isinstance(one, Recording) for one in known.values())
        found = known[key] = recording_of(function, inputs) if recorded < SHAPES else None
    if isinstance(found, Recording):
        return Replay.apply(found, function, *inputs)
    if found is not None:
        known[key] = found + 1
    with plainly():
        return function(*inputs)


class Recording:
    """A function's passes for certain shapes, with inputs, outputs and gradients of their own."""

    def __init__(self, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]):
        device = inputs[0].device
        record = RECORD[device.type]
        self.inputs = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
        self.wanted = [i for i, x in enumerate(inputs) if x.requires_grad]

        def forward() -> Sequence[Tensor]:
            with torch.no_grad():
                return tuple(function(*self.inputs))

        def backward() -> Sequence[Tensor]:
            with torch.enable_grad():
                outputs = function(*self.inputs)
            found = torch.autograd.grad(outputs, [self.inputs[i] for i in self.wanted], self.grads, allow_unused=True)
            return tuple(
                torch.zeros_like(self.inputs[i]) if g is None else g for i, g in zip(self.wanted, found, strict=True)
            )

        with plainly(), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            self.reached = self._reached(function(*self.inputs))
            self.outputs, self.replay_forward = record(forward)
            self.grads = [torch.ones_like(o) for o in self.outputs]
            self.d_inputs, self.replay_backward = record(backward)

    def _reached(self, outputs: Sequence[Tensor]) -> list[set[int]]:
        """Return which inputs have a gradient from each output."""
        wanted = [self.inputs[i] for i in self.wanted]
        slopes = [
            torch.autograd.grad(o, wanted, torch.ones_like(o), retain_graph=True, allow_unused=True) for o in outputs
        ]
        return [{i for i, slope in zip(self.wanted, one, strict=True) if slope is not None} for one in slopes]

    @torch.no_grad()
    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the outputs."""
        for own, x in zip(self.inputs, inputs, strict=True):
            own.copy_(x)
        self.replay_forward()
        return tuple(o.clone() for o in self.outputs)

    @torch.no_grad()
    def backward(self, inputs: Sequence[Tensor], grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the gradient of each input, None of those that have none."""
        for own, x in zip(self.inputs, inputs, strict=True):
            own.copy_(x)
        for own, grad in zip(self.grads, grads, strict=True):
            own.zero_() if grad is None else own.copy_(grad)
        self.replay_backward()
        reached = set().union(*(own for own, grad in zip(self.reached, grads, strict=True) if grad is not None))
        found: list[Tensor | None] = [None] * len(inputs)
        for i, d in zip(self.wanted, self.d_inputs, strict=True):
            found[i] = d.clone() if i in reached else None
        return found


def recording_of(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> Recording | None:
    """Return a recording that has shown to do what the function does, or None."""
    try:
        recording = Recording(function, inputs)
    except Exception:  # whatever a device has against it, the function itself may still work
        Recordings.failed = True
        logger.warning("Loops cannot be replayed here, and are run as they are.", exc_info=True)
        return None
    # with other values than those that were recorded
    others = [(0.9 * x.detach() + 0.05 if x.is_floating_point() else x).requires_grad_(x.requires_grad) for x in inputs]
    with plainly(), torch.enable_grad():
        outputs = tuple(function(*others))
        grads = [torch.linspace(-1, 1, o.numel(), dtype=o.dtype, device=o.device).view(o.shape) for o in outputs]
        slopes = torch.autograd.grad(outputs, [others[i] for i in recording.wanted], grads, allow_unused=True)
    with torch.no_grad():
        for own in (*recording.outputs, *recording.d_inputs):
            own.fill_(float("nan"))
    found = recording.backward(others, grads)
    pairs = [*zip(recording.forward(others), outputs, strict=True)]
    pairs += [(found[i], g) for i, g in zip(recording.wanted, slopes, strict=True) if g is not None]
    if all(agree(a, b) for a, b in pairs):
        return recording
    logger.warning("A loop is run as it is: replayed, it gave other results.")
    return None


def agree(a: Tensor | None, b: Tensor) -> bool:
    """Return whether two tensors are equal in relation to the largest value."""
    return a is not None and bool((a - b).abs().max() <= TOLERANCE * b.abs().max())


class Replay(torch.autograd.Function):
    """A recording's outputs, and their gradient."""

    @staticmethod
    def forward(ctx: Any, recording: Recording, function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> Any:
        ctx.recording, ctx.function = recording, function
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        return recording.forward(inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        inputs = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return None, None, *ctx.recording.backward(inputs, grads)
        # to be differentiated again
        with plainly():
            outputs = ctx.function(*inputs)
        return None, None, *recurrence.gradients(outputs, inputs, ctx.needs_input_grad[2:], grads)
