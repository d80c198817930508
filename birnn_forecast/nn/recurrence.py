"""Recurrences on the CPU, several times as fast as torch's at small batches."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

ROWS_AT_ONCE = 32


class GRUDirections(torch.autograd.Function):
    """GRUs that read the same steps, each from one end; see :func:`gru`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, start: Tensor, backwards: tuple[bool, ...], *parameters: Tensor) -> Any:
        keep = any(ctx.needs_input_grad)
        states, kept, flat = gru_states(x, start, backwards, parameters, keep)
        if keep:
            ctx.save_for_backward(x, flat, start, *parameters, *states)
            ctx.backwards, ctx.kept = backwards, kept
        hidden = parameters[1].shape[1]
        return tuple(s[..., :hidden] for s in states)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, flat, start, *rest = ctx.saved_tensors
        n = 4 * len(ctx.backwards)
        parameters, states = rest[:n], rest[n:]
        if torch.is_grad_enabled():
            raise RuntimeError("double")
        kept, ctx.kept = ctx.kept, None
        if kept is None:
            _, kept, _ = gru_states(x, start, ctx.backwards, parameters, True)
        return gru_gradients(ctx, grads, flat, x.shape, start, parameters, states, kept)


def gru_states(x, start, backwards, parameters, keep):
    from birnn_forecast.nn import _kernels

    time, batch, features = x.shape
    hidden = parameters[1].shape[1]
    size = -(-hidden // _kernels.UNITS) * _kernels.UNITS
    width = 8 * _kernels.BYTES // torch.finfo(x.dtype).bits
    flat = x.detach().reshape(time * batch, features)
    slots, at = (4, size) if keep else (3, 0)
    states, kept = [], []
    starts = start.numpy()
    for backward, (w_ih, w_hh, b_ih, b_hh) in zip(backwards, zip(*[iter(parameters)] * 4, strict=True), strict=True):
        w_in = by_gate(w_ih.detach(), hidden, size)
        bias = torch.cat([b_ih.detach(), b_hh.detach()]).view(2, 3, hidden)
        bias = torch.cat([bias[0, :2] + bias[1, :2], bias[:, 2]])
        if size > hidden:
            bias = pad(bias, (0, size - hidden))
        w = by_gate(w_hh.detach(), hidden, size, inner=True).view(3, size // width, width, size)
        w = w.permute(1, 3, 0, 2).reshape(-1)
        buffer = x.new_empty(time * batch, slots * size)
        torch.mm(flat, w_in.t(), out=buffer[:, at:])
        out = x.new_empty(time, batch, size)
        arrays = [a.view(-1).numpy() for a in (bias, w)] + [starts, out.view(-1).numpy(), buffer.view(-1).numpy()]
        for first in range(0, batch, ROWS_AT_ONCE):
            last = min(first + ROWS_AT_ONCE, batch)
            _kernels.gru_forward(*arrays, time, batch, size, width, first, last, backward, keep)
        states.append(out)
        kept.append(buffer)
    return states, kept, flat


def by_gate(weight, hidden, size, inner=False):
    if size == hidden:
        return weight
    return pad(weight.view(-1, hidden, weight.shape[1]), (0, size - hidden if inner else 0, 0, size - hidden)).view(-1, size if inner else weight.shape[1])


def gru_gradients(ctx, grads, flat, shape, start, parameters, states, kept):
    from birnn_forecast.nn import _kernels

    time, batch, features = shape
    hidden = parameters[1].shape[1]
    size = states[0].shape[-1]
    dtype = flat.dtype
    width = 8 * _kernels.BYTES // torch.finfo(dtype).bits
    starts = start.numpy()
    vectors = width * (2 if size % (2 * width) == 0 else 1)
    results: list = []
    d_x = None
    for i, backward in enumerate(ctx.backwards):
        w_ih, w_hh, _, _ = parameters[4 * i : 4 * i + 4]
        grad, d = grads[i], kept[i]
        if size > hidden:
            grad = pad(grad, (0, size - hidden))
        elif grad.stride(2) != 1:
            grad = grad.contiguous()
        extent = (time - 1) * grad.stride(0) + (batch - 1) * grad.stride(1) + size
        line = grad.as_strided((extent,), (1,))
        w = by_gate(w_hh.detach(), hidden, size, inner=True).view(3, size, size).roll(1, 0)
        w = w.reshape(3 * size, size // vectors, vectors).transpose(0, 1).reshape(-1)
        sums = flat.new_zeros(4 * size)
        arrays = [starts, states[i].view(-1).numpy(), d.view(-1).numpy(), sums.numpy()]
        for first in range(0, batch, ROWS_AT_ONCE):
            last = min(first + ROWS_AT_ONCE, batch)
            _kernels.gru_backward(line.numpy(), grad.stride(0), grad.stride(1), w.numpy(), *arrays, time, batch, size, width, first, last, backward)
        d_in = d[:, size:]
        d_w_ih = (flat.t() @ d_in).t() if features < 64 else d_in.t() @ flat
        h = states[i].view(time * batch, size)
        some = (time - 1) * batch
        now, before = (d[:some], h[batch:]) if backward else (d[batch:], h[:some])
        d_w_hh = now[:, : 3 * size].t() @ before
        d_w_hh = d_w_hh.view(3, size, size).roll(-1, 0)[:, :hidden, :hidden].reshape(3 * hidden, hidden)
        d_w_ih = d_w_ih.reshape(3, size, features)[:, :hidden].reshape(3 * hidden, features)
        sums = sums.view(4, size)[:, :hidden]
        results += [d_w_ih, d_w_hh, sums[1:].reshape(-1), sums[[1, 2, 0]].reshape(-1)]
        if ctx.needs_input_grad[0]:
            w_in = by_gate(w_ih.detach(), hidden, size)
            d_x = d_in @ w_in if d_x is None else d_x.addmm_(d_in, w_in)
    return (None if d_x is None else d_x.view(shape), None, None, *results)
