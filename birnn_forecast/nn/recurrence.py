"""Recurrent layers on the CPU, several times as fast as torch's at small batches.

What :func:`states` does not know how to run faster, it leaves to torch; :class:`use` leaves everything to torch.
"""

import functools
import importlib
import logging
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from birnn_forecast.eager import is_eager
from birnn_forecast.nn.threads import in_threads

logger = logging.getLogger(__name__)

MODES = ("auto", "torch")
# a task runs all steps of so many rows
TASK_ROWS = 32
# beyond this the weights do not fit the cache
LARGEST_HIDDEN = 256


class use:  # noqa: N801
    """Choose who runs recurrent layers: "auto", the fastest that can, or "torch".

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
    initial: Sequence[Float[Tensor, "batch hidden"] | None] | None = None,
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
        For each of them, the states it starts from, constants without a gradient; 0 where None. Those of a row that a
        layer reading forward starts later than at step 0 must be 0.
    """
    if not can_run(rnns, x):
        return None
    parameters: list[Any] = [p for rnn in rnns for p in rnn._flat_weights]
    gradient = torch.is_grad_enabled() and any(p.requires_grad for p in (x, *parameters))
    module = kernels(x.dtype, gradient)
    if module is None:
        return None
    if start is None:
        start = x.new_zeros(x.shape[1], dtype=torch.long)
    start = start.long().contiguous()
    initial = tuple(initial or [None] * len(rnns))
    if not any(backwards):
        # what is not a number would turn weights into NaN, even times a gradient of 0
        before = torch.arange(len(x))[:, None] < start
        x = x.masked_fill(before[:, :, None], 0.0) if before.any() else x
    if gradient:
        return list(GRULayers.apply(x, start, tuple(backwards), initial, *parameters))
    hidden = rnns[0].hidden_size
    return [s[..., :hidden] for s in run_forward(module, x, start, backwards, initial, parameters, keep=False)[0]]


def can_run(rnns: Sequence[nn.RNNBase], x: Tensor) -> bool:
    """Return whether the kernels know how to run these layers here."""
    return (
        use.mode == "auto"
        and is_eager(x)
        and x.dtype in (torch.float32, torch.float64)
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and all(is_plain(rnn, x) for rnn in rnns)
    )


def is_plain(rnn: nn.RNNBase, x: Tensor) -> bool:
    """Return whether `rnn` is one GRU layer as torch makes it, with nothing attached."""
    return (
        type(rnn) is nn.GRU
        and rnn.num_layers == 1
        and rnn.bias
        and not rnn.bidirectional
        and rnn.hidden_size <= LARGEST_HIDDEN
        and rnn.input_size == x.shape[-1]
        and not (rnn._forward_hooks or rnn._forward_pre_hooks or rnn._backward_hooks or rnn._backward_pre_hooks)
        and all(type(p) in (Tensor, nn.Parameter) and p.dtype == x.dtype and p.is_cpu for p in rnn._flat_weights)
    )


@functools.cache
def kernels(dtype: torch.dtype, gradient: bool) -> ModuleType | None:
    """Return the compiled kernels once they have shown that they work here; None where they do not."""
    try:
        module = importlib.import_module("birnn_forecast.nn.kernels")
        return module if agrees(module, dtype, gradient) else None
    except Exception:  # whatever is the matter with numba here, torch still works
        logger.debug("No GRU kernels here, torch runs the layers.", exc_info=True)
        return None


@torch.no_grad()
def agrees(module: ModuleType, dtype: torch.dtype, gradient: bool) -> bool:
    """Return whether two steps of the kernels are what torch's formula gives, and their gradient its slope."""
    rows = module.ROWS + 1
    parameters = [torch.linspace(-1, 1, n).view(shape) for n, *shape in ((12, 6, 2), (12, 6, 2), (6, 6), (6, 6))]
    x, start = torch.linspace(-1, 1, 4 * rows).view(2, rows, 2), torch.zeros(rows, dtype=torch.long)

    def last_state(x: Tensor) -> Tensor:
        weights = [p.double() for p in parameters]
        return torch.gru_cell(x[1], torch.gru_cell(x[0], x.new_zeros(rows, 2), *weights), *weights)

    own = [t.to(dtype) for t in (x, *parameters)]
    outputs, kept = run_forward(module, own[0], start, [False], [None], own[1:], gradient)
    agree = torch.allclose(outputs[0][1, :, :2].double(), last_state(x.double()), atol=1e-5)
    if gradient:
        grad = torch.stack([torch.zeros(rows, 2, dtype=dtype), torch.ones(rows, 2, dtype=dtype)])
        found = run_backward(module, [grad], own[0], start, [False], [None], own[1:], outputs, kept, True)[0]
        step = torch.zeros_like(x, dtype=torch.double)
        step[0, :, 0] = 1e-5
        slope = (last_state(x + step) - last_state(x - step)).sum(dim=1) / 2e-5
        agree &= found is not None and torch.allclose(found[0, :, 0].double(), slope, atol=1e-5)
    return agree


class GRULayers(torch.autograd.Function):
    """GRU layers that read the same steps; see :func:`states`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        start: Tensor,
        backwards: tuple[bool, ...],
        initial: tuple[Tensor | None, ...],
        *parameters: Tensor,
    ) -> Any:
        outputs, kept = run_forward(kernels(x.dtype, True), x, start, backwards, initial, parameters, keep=True)
        hidden = parameters[1].shape[1]
        # `kept` is not an attribute: checkpointing drops what is saved here
        ctx.save_for_backward(x, start, *parameters, *outputs, *kept)
        ctx.backwards, ctx.initial, ctx.fresh = backwards, initial, True
        return tuple(output[..., :hidden] for output in outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, start, *rest = ctx.saved_tensors
        n = len(ctx.backwards)
        parameters, outputs, kept = rest[: 4 * n], rest[4 * n : 5 * n], rest[5 * n :]
        layers = x, start, ctx.backwards, ctx.initial, parameters
        if torch.is_grad_enabled():
            return tuple(twice_differentiable(grads, *layers, ctx.needs_input_grad))
        # the gradients overwrite what was kept: to come here a second time takes another forward pass
        module = kernels(x.dtype, True)
        if not ctx.fresh:
            kept = run_forward(module, *layers, keep=True)[1]
        ctx.fresh = False
        d_x, *d_parameters = run_backward(module, grads, *layers, outputs, kept, ctx.needs_input_grad[0])
        return d_x, None, None, None, *d_parameters


def run_forward(
    module: Any,
    x: Tensor,
    start: Tensor,
    backwards: Sequence[bool],
    initial: Sequence[Tensor | None],
    parameters: Sequence[Tensor],
    keep: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the states, filled up to a multiple of the kernels' units, and what is kept for the gradient."""
    time, batch, features = x.shape
    hidden = parameters[1].shape[1]
    size, width = module.sizes(hidden, x.dtype)
    flat = x.detach().reshape(time * batch, features)
    slots, gates_at = (4, size) if keep else (3, 0)
    outputs, kept, tasks = [], [], []
    for i, backward in enumerate(backwards):
        w_ih, w_hh, b_ih, b_hh = (p.detach() for p in parameters[4 * i : 4 * i + 4])
        b_ih, b_hh = (pad(b.view(3, hidden), (0, size - hidden)) for b in (b_ih, b_hh))
        bias = torch.cat([b_ih[:2] + b_hh[:2], b_ih[2:], b_hh[2:]])
        w = filled(w_hh, hidden, size, size).view(3, size // width, width, size).permute(1, 3, 0, 2)
        buffer = x.new_empty(time * batch, slots * size)
        torch.mm(flat, filled(w_ih, hidden, size, features).t(), out=buffer[:, gates_at:])
        output = x.new_empty(time, batch, size)
        first = filled_states(initial[i], x, size)
        arrays = [a.reshape(-1).numpy() for a in (bias, w, start, first, output, buffer)]
        tasks += [(*arrays, time, batch, size, width, *rows, backward, keep) for rows in row_blocks(batch)]
        outputs.append(output)
        kept.append(buffer)
    in_threads(module.gru_forward, tasks)
    return outputs, kept


def run_backward(
    module: Any,
    grads: Sequence[Tensor],
    x: Tensor,
    start: Tensor,
    backwards: Sequence[bool],
    initial: Sequence[Tensor | None],
    parameters: Sequence[Tensor],
    outputs: Sequence[Tensor],
    kept: Sequence[Tensor],
    needs_x: bool,
) -> list[Tensor | None]:
    """Return the gradients of `x` and of all parameters; overwrites `kept`."""
    time, batch, features = x.shape
    hidden = parameters[1].shape[1]
    size, width = module.sizes(hidden, x.dtype)
    vectors = width * (2 if size % (2 * width) == 0 else 1)
    blocks = row_blocks(batch)
    all_sums = x.new_zeros(len(backwards), len(blocks), 4 * size)
    tasks = []
    for i, backward in enumerate(backwards):
        grad = pad(grads[i], (0, size - hidden)) if size > hidden else grads[i]
        if grad.stride(2) != 1:
            grad = grad.contiguous()
        strides = grad.stride()[:2]
        line = grad.as_strided(((time - 1) * strides[0] + (batch - 1) * strides[1] + size,), (1,))
        # in the order of what is kept: the candidate comes first
        w = filled(parameters[4 * i + 1], hidden, size, size).view(3, size, size).roll(1, 0)
        w = w.reshape(3 * size, size // vectors, vectors).transpose(0, 1)
        first = filled_states(initial[i], x, size)
        arrays = [a.reshape(-1).numpy() for a in (w, start, first, outputs[i], kept[i])]
        for rows, sums in zip(blocks, all_sums[i], strict=True):
            place = (time, batch, size, width, *rows, backward)
            tasks.append((line.numpy(), *strides, *arrays, sums.numpy(), *place))
    in_threads(module.gru_backward, tasks)

    flat = x.detach().reshape(time * batch, features)
    d_x, d_parameters = None, []
    for i, backward in enumerate(backwards):
        d_in = kept[i][:, size:]
        # the narrow side first is faster
        d_w_ih = (flat.t() @ d_in).t() if features < 3 * size else d_in.t() @ flat
        h, all_but_one = outputs[i].view(time * batch, size), (time - 1) * batch
        d, h = (kept[i][:all_but_one], h[batch:]) if backward else (kept[i][batch:], h[:all_but_one])
        d_w_hh = h.t() @ d[:, : 3 * size]
        if initial[i] is not None:
            d = kept[i][all_but_one:] if backward else kept[i][:batch]
            d_w_hh.addmm_(filled_states(initial[i], x, size).t(), d[:, : 3 * size])
        d_w_hh = d_w_hh.t().reshape(3, size, size).roll(-1, 0)[:, :, :hidden]
        sums = all_sums[i].sum(0).view(4, size)
        for d_parameter in (d_w_ih.reshape(3, size, features), d_w_hh, sums[1:], sums[[1, 2, 0]]):
            d_parameters.append(d_parameter[:, :hidden].flatten(0, 1))
        if needs_x:
            w_ih = filled(parameters[4 * i], hidden, size, features)
            d_x = d_in @ w_ih if d_x is None else d_x.addmm_(d_in, w_ih)
    return [None if d_x is None else d_x.view(x.shape), *d_parameters]


def filled(weight: Tensor, hidden: int, size: int, columns: int) -> Tensor:
    """Return the weights of three gates, each with rows of 0 up to `size`, and with columns of 0 up to `columns`."""
    weight = weight.detach().view(3, hidden, -1)
    return pad(weight, (0, columns - weight.shape[2], 0, size - hidden)).view(3 * size, columns)


def filled_states(states: Tensor | None, x: Tensor, size: int) -> Tensor:
    """Return the states that the rows of `x` start from, with zeros up to `size`."""
    if states is None:
        return x.new_zeros(x.shape[1], size)
    return pad(states.detach().to(x.dtype), (0, size - states.shape[1]))


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
    """Return the gradients of :class:`GRULayers`' inputs by torch's own operations."""
    inputs: list[Any] = [x, None, None, None, *parameters]
    outputs = []
    valid = (torch.arange(len(x))[:, None] >= start)[:, :, None]
    for i, backward in enumerate(backwards):
        own = list(parameters[4 * i : 4 * i + 4])
        h = filled_states(initial[i], x, own[1].shape[1])
        rows = x.flip(0) if backward else x
        steps = []
        for row, keep in zip(rows, valid, strict=True):
            h = torch.gru_cell(row, h, *own)
            h = h if backward else torch.where(keep, h, 0.0)
            steps.append(h)
        output = torch.stack(steps)
        outputs.append(output.flip(0) if backward else output)
    wanted = [i for i, need in enumerate(needed) if need]
    found = torch.autograd.grad(outputs, [inputs[i] for i in wanted], grads, create_graph=True)
    results: list[Tensor | None] = [None] * len(inputs)
    for i, gradient in zip(wanted, found, strict=True):
        results[i] = gradient
    return results
