"""Recurrent layers on the CPU, several times as fast as torch's at small batches.

What :func:`states` does not know how to run faster, it leaves to torch; :class:`use` leaves everything to torch.
``python -m benchmarks.speed_recurrence`` measures every cell: torch is to be preferred at none of its shapes. Beyond
them, LSTM layers of few rows or more than 128 units may take a tenth longer than torch's, in inference. What is
infinite may turn all units of its row into NaN, not only those that read it.
"""

import functools
import importlib
import logging
import math
import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from birnn_forecast.eager import is_eager
from birnn_forecast.nn.threads import in_threads

logger = logging.getLogger(__name__)

MODES = ("auto", "torch", "graph")
# a task runs all steps of so many rows
TASK_ROWS = 32
# beyond this the weights do not fit the cache
LARGEST_HIDDEN = 256


class Cell(NamedTuple):
    """What tells one recurrent cell from another.

    Parameters
    ----------
    mode
        torch's name of it.
    gates
        How many gates torch's weights are of.
    apart
        How many of them, the last ones, take what comes from the state apart from what comes from the input.
    parts
        What a state consists of: 2 if it has a cell beside it.
    step
        From a step's input, the parts of the last state and torch's weights to the parts of the next.
    """

    mode: str
    gates: int
    apart: int
    parts: int
    step: Callable[..., Sequence[Tensor]]

    @property
    def slots(self) -> int:
        """How many numbers a unit are kept for the gradient: one a gate, two where its parts are apart."""
        return self.gates + self.apart


# by the number of gates
CELLS = {
    cell.gates: cell
    for cell in (
        Cell("RNN_TANH", 1, 0, 1, lambda x, state, *weights: [torch.rnn_tanh_cell(x, state[0], *weights)]),
        Cell("GRU", 3, 1, 1, lambda x, state, *weights: [torch.gru_cell(x, state[0], *weights)]),
        Cell("LSTM", 4, 0, 2, torch.lstm_cell),
    )
}


class use:  # noqa: N801
    """Choose who runs recurrent layers: "auto", the fastest that can, or "torch".

    With "graph", all is as with "auto", but on a CUDA device the loops of networks that feed their estimates back
    (``BRITSModel``, ``GRINModel(recurrence="feedback")``) are replayed in training: see
    :mod:`birnn_forecast.nn.replay`.

    Counts from the call on, or within a ``with`` block. The environment variable ``BIRNN_FORECAST_RECURRENCE`` sets the
    first choice.
    """

    mode = "auto"

    def __init__(self, mode: str):
        if mode not in MODES:
            raise ValueError(f"`mode` must be one of {', '.join(map(repr, MODES))}, got {mode!r}.")
        self.before, use.mode = use.mode, mode

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        use.mode = self.before


use(os.environ.get("BIRNN_FORECAST_RECURRENCE", "auto"))


def states(
    rnns: Sequence[nn.RNNBase],
    backwards: Sequence[bool],
    x: Float[Tensor, "time batch features"],
    start: Int[Tensor, " batch"] | None = None,
    initial: Sequence[Float[Tensor, "batch carried"] | None] | None = None,
) -> list[Tensor] | None:
    """Return the states ``(time, batch, hidden)`` of each of `rnns`, or None where torch is to run them.

    Parameters
    ----------
    rnns
        Single layers of one cell and one hidden size.
    backwards
        For each of them, whether it reads from the end to the beginning.
    x
        What all of them read.
    start
        The first step of each row, 0 if None. A layer that reads forward starts there, with states of 0 before it.
    initial
        For each of them, the states it starts from (an LSTM's with the cells beside them), constants without a
        gradient; 0 where None. Those of a row that a layer reading forward starts later than at step 0 must be 0.
    """
    if not can_run(rnns, x):
        return None
    parameters: list[Any] = [p for rnn in rnns for p in rnn._flat_weights]
    gradient = torch.is_grad_enabled() and any(p.requires_grad for p in (x, *parameters))
    module = kernels(cell_of(parameters).gates, x.dtype, gradient)
    if module is None:
        return None
    x, start = prepared(x, start, backwards)
    initial = tuple(initial or [None] * len(rnns))
    if gradient:
        return list(Layers.apply(x, start, tuple(backwards), initial, *parameters))
    buffers, _, _ = run_forward(module, x, start, backwards, initial, parameters, keep=False)
    return visible(buffers, backwards, parameters)


@torch.no_grad()
def run_on(
    rnn: nn.RNNBase,
    backward: bool,
    x: Float[Tensor, "time batch features"],
    start: Int[Tensor, " batch"],
    initial: Float[Tensor, "batch carried"] | None,
) -> tuple[Float[Tensor, "time batch hidden"], Float[Tensor, "batch carried"]] | None:
    """Return what :func:`states` does of one layer, without a gradient, and what it hands on to a layer after it."""
    if not can_run([rnn], x):
        return None
    parameters: list[Any] = list(rnn._flat_weights)
    module = kernels(cell_of(parameters).gates, x.dtype, False)
    if module is None:
        return None
    x, start = prepared(x, start, [backward])
    buffers, cells, _ = run_forward(module, x, start, [backward], [initial], parameters, keep=False)
    ends = [buffers[0][0 if backward else -1], *cells[0]]
    return visible(buffers, [backward], parameters)[0], torch.cat([end[:, : rnn.hidden_size] for end in ends], dim=-1)


def cell_of(parameters: Sequence[Tensor]) -> Cell:
    """Return the cell whose weights these are."""
    return CELLS[len(parameters[1]) // parameters[1].shape[1]]


def prepared(x: Tensor, start: Tensor | None, backwards: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """Return what is read and where it starts, as the kernels want it."""
    if start is None:
        start = x.new_zeros(x.shape[1], dtype=torch.long)
    start = start.long().contiguous()
    if not any(backwards):
        # what is not a number would turn weights into NaN, even times a gradient of 0
        before = torch.arange(len(x))[:, None] < start
        x = x.masked_fill(before[:, :, None], 0.0) if before.any() else x
    return x, start


def visible(buffers: Sequence[Tensor], backwards: Sequence[bool], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the states of each layer, without the initial ones and the units that were filled up."""
    hidden = parameters[1].shape[1]
    pairs = zip(buffers, backwards, strict=True)
    return [(buffer[:-1] if backward else buffer[1:])[..., :hidden] for buffer, backward in pairs]


def can_run(rnns: Sequence[nn.RNNBase], x: Tensor) -> bool:
    """Return whether the kernels know how to run these layers here."""
    return (
        use.mode != "torch"
        and is_eager(x)
        and x.dtype in (torch.float32, torch.float64)
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and all(is_plain(rnn, x) for rnn in rnns)
    )


def is_plain(rnn: nn.RNNBase, x: Tensor) -> bool:
    """Return whether `rnn` is one layer of a cell of ``CELLS`` as torch makes it, with nothing attached."""
    return (
        type(rnn) in (nn.RNN, nn.GRU, nn.LSTM)
        and rnn.mode in [cell.mode for cell in CELLS.values()]
        and rnn.num_layers == 1
        and not rnn.proj_size
        and rnn.bias
        and not rnn.bidirectional
        and rnn.hidden_size <= LARGEST_HIDDEN
        and rnn.input_size == x.shape[-1]
        and not (rnn._forward_hooks or rnn._forward_pre_hooks or rnn._backward_hooks or rnn._backward_pre_hooks)
        and all(type(p) in (Tensor, nn.Parameter) and p.dtype == x.dtype and p.is_cpu for p in rnn._flat_weights)
    )


@functools.cache
def kernels(gates: int, dtype: torch.dtype, gradient: bool) -> ModuleType | None:
    """Return the compiled kernels once they have shown that they work here for a cell; None where they do not."""
    try:
        module = importlib.import_module("birnn_forecast.nn.kernels")
        return module if agrees(module, CELLS[gates], dtype, gradient) else None
    except Exception:  # whatever is the matter with numba here, torch still works
        logger.debug("No kernels for %s here, torch runs the layers.", CELLS[gates].mode, exc_info=True)
        return None


@torch.no_grad()
def agrees(module: ModuleType, cell: Cell, dtype: torch.dtype, gradient: bool) -> bool:
    """Return whether two steps of the kernels are what torch's formula gives, and their gradient its slope."""
    rows, n = module.ROWS[cell.gates] + 1, 2 * cell.gates
    parameters = [torch.linspace(-1, 1, math.prod(shape)).view(shape) for shape in ((n, 2), (n, 2), (n,), (n,))]
    x, start = torch.linspace(-1, 1, 4 * rows).view(2, rows, 2), torch.zeros(rows, dtype=torch.long)

    def last_state(x: Tensor) -> Tensor:
        state: Sequence[Tensor] = [x.new_zeros(rows, 2)] * cell.parts
        for row in x:
            state = cell.step(row, state, *(p.double() for p in parameters))
        return state[0]

    own = [t.to(dtype) for t in (x, *parameters)]
    buffers, cells, kept = run_forward(module, own[0], start, [False], [None], own[1:], gradient)
    agree = torch.allclose(buffers[0][2, :, :2].double(), last_state(x.double()), atol=1e-5)
    if gradient:
        grad = torch.stack([torch.zeros(rows, 2, dtype=dtype), torch.ones(rows, 2, dtype=dtype)])
        found = run_backward(module, [grad], own[0], start, [False], own[1:], buffers, cells, kept, True)[0]
        step = torch.zeros_like(x, dtype=torch.double)
        step[0, :, 0] = 1e-5
        slope = (last_state(x + step) - last_state(x - step)).sum(dim=1) / 2e-5
        agree &= found is not None and torch.allclose(found[0, :, 0].double(), slope, atol=1e-5)
    return agree


class Layers(torch.autograd.Function):
    """Recurrent layers that read the same steps; see :func:`states`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        start: Tensor,
        backwards: tuple[bool, ...],
        initial: tuple[Tensor | None, ...],
        *parameters: Tensor,
    ) -> Any:
        module = kernels(cell_of(parameters).gates, x.dtype, True)
        buffers, cells, kept = run_forward(module, x, start, backwards, initial, parameters, keep=True)
        # `kept` is not an attribute: checkpointing drops what is saved here
        ctx.save_for_backward(x, start, *parameters, *buffers, *cells, *kept)
        ctx.backwards, ctx.initial, ctx.fresh = backwards, initial, True
        return tuple(visible(buffers, backwards, parameters))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, start, *rest = ctx.saved_tensors
        n = len(ctx.backwards)
        parameters, (buffers, cells, kept) = rest[: 4 * n], (rest[i * n : (i + 1) * n] for i in (4, 5, 6))
        if torch.is_grad_enabled():
            layers = x, start, ctx.backwards, ctx.initial, parameters
            return tuple(twice_differentiable(grads, *layers, ctx.needs_input_grad))
        # the gradients overwrite what was kept: to come here a second time takes another forward pass
        module = kernels(cell_of(parameters).gates, x.dtype, True)
        if not ctx.fresh:
            kept = run_forward(module, x, start, ctx.backwards, ctx.initial, parameters, keep=True)[2]
        ctx.fresh = False
        done = x, start, ctx.backwards, parameters, buffers, cells, kept
        d_x, *d_parameters = run_backward(module, grads, *done, ctx.needs_input_grad[0])
        return d_x, None, None, None, *d_parameters


def run_forward(
    module: Any,
    x: Tensor,
    start: Tensor,
    backwards: Sequence[bool],
    initial: Sequence[Tensor | None],
    parameters: Sequence[Tensor],
    keep: bool,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the states with the initial ones, the cells and what is kept for the gradient of each layer.

    They are filled up to a multiple of the kernels' units: ``(1 + time, batch, size)``; of the cells the latest ones
    only, ``(1, batch, size)``, unless they are kept; and ``(time * batch, slots * size)``, none unless kept.
    """
    time, batch, features = x.shape
    hidden, cell = parameters[1].shape[1], cell_of(parameters)
    size, width = module.sizes(hidden, x.dtype)
    flat = x.detach().contiguous()
    stride = cell.slots * size
    buffers, cells, kept, tasks = [], [], [], []
    for i, backward in enumerate(backwards):
        w, bias = x.new_empty(size // width, features + size, cell.gates, width), x.new_empty(cell.slots, size)
        own = [p.detach().contiguous() for p in parameters[4 * i : 4 * i + 4]]
        module.lay_out(*(p.numpy() for p in (*own, w, bias)))
        buffer = x.new_empty(time * batch if keep else 0, stride)
        states = x.new_empty(1 + time, batch, size)
        own_cells = x.new_empty((1 + time if keep else 1) * (cell.parts - 1), batch, size)
        for number, whole in enumerate((states, own_cells)[: cell.parts]):
            first = whole[-1 if backward else 0].zero_()
            if initial[i] is not None:
                first[:, :hidden] = initial[i].detach()[:, number * hidden : (number + 1) * hidden]
        arrays = [a.numpy().reshape(-1) for a in (flat, w, bias, start, states, own_cells, buffer)]
        place = (stride, features, time, batch, width)
        tasks += [((size,) * cell.gates, *arrays, *place, *rows, backward, keep) for rows in row_blocks(batch)]
        buffers.append(states)
        cells.append(own_cells)
        kept.append(buffer)
    in_threads(module.layer_forward, tasks)
    return buffers, cells, kept


def run_backward(
    module: Any,
    grads: Sequence[Tensor],
    x: Tensor,
    start: Tensor,
    backwards: Sequence[bool],
    parameters: Sequence[Tensor],
    buffers: Sequence[Tensor],
    cells: Sequence[Tensor],
    kept: Sequence[Tensor],
    needs_x: bool,
) -> list[Tensor | None]:
    """Return the gradients of `x` and of all parameters; overwrites `kept`."""
    time, batch, features = x.shape
    hidden, cell = parameters[1].shape[1], cell_of(parameters)
    size, width = module.sizes(hidden, x.dtype)
    vectors = width * (2 if size % (2 * width) == 0 else 1)
    stride, n = cell.slots * size, cell.gates
    blocks = row_blocks(batch)
    all_sums = x.new_zeros(len(backwards), len(blocks), stride)
    tasks = []
    for i, backward in enumerate(backwards):
        grad = pad(grads[i], (0, size - hidden)) if size > hidden else grads[i]
        if grad.stride(2) != 1:
            grad = grad.contiguous()
        strides = grad.stride()[:2]
        line = grad.as_strided(((time - 1) * strides[0] + (batch - 1) * strides[1] + size,), (1,))
        # in the order of what is kept: what is apart comes first
        w = filled(parameters[4 * i + 1], hidden, size, size).view(n, size, size).roll(cell.apart, 0)
        w = w.reshape(n * size, size // vectors, vectors).transpose(0, 1)
        arrays = [a.reshape(-1).numpy() for a in (w, start, buffers[i], cells[i], kept[i])]
        for rows, sums in zip(blocks, all_sums[i], strict=True):
            place = (time, batch, width, *rows, backward)
            tasks.append(((size,) * n, *arrays, stride, line.numpy(), *strides, sums.numpy(), *place))
    in_threads(module.layer_backward, tasks)

    flat = x.detach().reshape(time * batch, features)
    d_x, d_parameters = None, []
    for i, backward in enumerate(backwards):
        d_in, d_state = kept[i][:, cell.apart * size :], kept[i][:, : n * size]
        # the narrow side first is faster
        d_w_ih = (flat.t() @ d_in).t() if features < n * size else d_in.t() @ flat
        before = (buffers[i][1:] if backward else buffers[i][:-1]).view(time * batch, size)
        d_w_hh = (before.t() @ d_state).t().reshape(n, size, size).roll(-cell.apart, 0)[:, :, :hidden]
        sums = all_sums[i].sum(0).view(cell.slots, size)
        d_b_ih, d_b_hh = sums[cell.apart :], sums[:n].roll(-cell.apart, 0)
        for d_parameter in (d_w_ih.reshape(n, size, features), d_w_hh, d_b_ih, d_b_hh):
            d_parameters.append(d_parameter[:, :hidden].flatten(0, 1))
        if needs_x:
            w_ih = filled(parameters[4 * i], hidden, size, features)
            d_x = d_in @ w_ih if d_x is None else d_x.addmm_(d_in, w_ih)
    return [None if d_x is None else d_x.view(x.shape), *d_parameters]


def filled(weight: Tensor, hidden: int, size: int, columns: int) -> Tensor:
    """Return the weights of all gates, each with rows of 0 up to `size`, and with columns of 0 up to `columns`."""
    weight = weight.detach().unflatten(0, (-1, hidden))
    if (hidden, weight.shape[2]) != (size, columns):
        weight = pad(weight, (0, columns - weight.shape[2], 0, size - hidden))
    return weight.flatten(0, 1)


def row_blocks(batch: int) -> list[tuple[int, int]]:
    """Return the first row of each task and the one after its last."""
    return [(first, min(first + TASK_ROWS, batch)) for first in range(0, batch, TASK_ROWS)]


def twice_differentiable(
    grads: Sequence[Tensor],
    x: Tensor,
    start: Tensor,
    backwards: Sequence[bool],
    initial: Sequence[Tensor | None],
    parameters: Sequence[Tensor],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients of :class:`Layers`' inputs by torch's own operations."""
    inputs: list[Any] = [x, None, None, None, *parameters]
    outputs = []
    valid = (torch.arange(len(x))[:, None] >= start)[:, :, None]
    hidden, cell = parameters[1].shape[1], cell_of(parameters)
    for i, backward in enumerate(backwards):
        own, first = list(parameters[4 * i : 4 * i + 4]), initial[i]
        first = x.new_zeros(x.shape[1], cell.parts * hidden) if first is None else first.detach().to(x.dtype)
        state: Sequence[Tensor] = first.split(hidden, dim=-1)
        rows = x.flip(0) if backward else x
        steps = []
        for row, keep in zip(rows, valid, strict=True):
            state = cell.step(row, state, *own)
            state = state if backward else [torch.where(keep, part, 0.0) for part in state]
            steps.append(state[0])
        output = torch.stack(steps)
        outputs.append(output.flip(0) if backward else output)
    return gradients(outputs, inputs, needed, grads)


def gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Any], needed: Sequence[bool], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Return the gradients, to be differentiated again, of the inputs that need one, and None for the others."""
    pairs = [(output, grad) for output, grad in zip(outputs, grads, strict=True) if grad is not None]
    wanted = [i for i, need in enumerate(needed) if need]
    found = torch.autograd.grad(
        [output for output, _ in pairs],
        [inputs[i] for i in wanted],
        [grad for _, grad in pairs],
        create_graph=True,
        allow_unused=True,
    )
    results: list[Tensor | None] = [None] * len(inputs)
    for i, gradient in zip(wanted, found, strict=True):
        results[i] = gradient
    return results
