"""Recurrent imputation for time series: an LSTM that is fed its own estimates and forgets during gaps.

All steps' decays and input projections are computed before the loop over time, losses after it. Within it, both
directions run side by side, and the gradient is written out: the weights' is one product over all steps.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from birnn_forecast.eager import is_transformed
from birnn_forecast.masks import neighbours
from birnn_forecast.nn import recurrence
from birnn_forecast.nn.cells import PairedLinear, aligned, both_ways

# far enough below 0 to close a gate
CLOSED = -1e9


class Steps(NamedTuple):
    """What the loop over time returns of each step; the directions side by side, each in its own order of time.

    Attributes
    ----------
    history
        Estimate from the steps before.
    cross
        Estimate of each component from the others at that step.
    combined
        The two combined.
    before, after
        The (decayed) state before the step is read, and the one after it.
    """

    history: Float[Tensor, "time 2 batch components"]
    cross: Float[Tensor, "time 2 batch components"]
    combined: Float[Tensor, "time 2 batch components"]
    before: Float[Tensor, "time 2 batch hidden"]
    after: Float[Tensor, "time 2 batch hidden"]


class RITS(nn.Module):
    """Recurrent imputation of several components that depend on each other, in two directions that do not meet.

    One step of a direction, with input ``x``, mask ``m``, steps since the last observation ``d``, covariates ``u``,
    state ``h`` and cell ``c``; ``g_h = exp(-relu(W_h d + b_h))``, ``g_x = exp(-relu(w_x d + b_x))``:

    1. the state decays, ``h = g_h h``; estimate from the history, ``p = W_p h + b_p``; filled, ``v = m x + (1 - m) p``;
    2. estimate from the other components, ``q = W_q v + b_q`` with a diagonal of 0; combined,
       ``r = a q + (1 - a) p`` with ``a = sigmoid(W_a [g_x; m] + b_a)``; filled, ``v = m x + (1 - m) r``;
    3. ``h, c = LSTM([v; m; u], h, c)``.

    No estimate of a value depends on that value itself. A lone component has no step 2: ``r = p``.

    Parameters
    ----------
    n_components
        Number of components.
    exogenous_size
        Covariates per step.
    hidden_size
        Units of a direction's state.

    References
    ----------
    W. Cao et al., "BRITS: Bidirectional Recurrent Imputation for Time Series", NeurIPS 2018,
    https://arxiv.org/abs/1805.10572, section 4.3.
    """

    others: Tensor

    def __init__(self, n_components: int, exogenous_size: int, hidden_size: int):
        super().__init__()
        inputs = n_components + exogenous_size
        self.state_decay = PairedLinear(n_components, hidden_size)
        self.history = PairedLinear(hidden_size, n_components)
        self.cross = self.share = None
        if n_components > 1:
            self.cross = PairedLinear(n_components, n_components)
            self.share = PairedLinear(2 * n_components, n_components)
            self.input_decay = nn.ParameterList([torch.empty(2, 1, 1, n_components).uniform_(-1, 1) for _ in range(2)])
        # input, forget and output gate, candidate
        self.known = PairedLinear(inputs, 4 * hidden_size, fan_in=hidden_size)
        self.filled = PairedLinear(n_components, 4 * hidden_size, bias=False, fan_in=hidden_size)
        self.state = PairedLinear(hidden_size, 4 * hidden_size, bias=False, fan_in=hidden_size)
        self.state_size = self.final_size = 2 * hidden_size
        self.register_buffer("others", 1 - torch.eye(n_components), persistent=False)

    def forward(
        self,
        x: Float[Tensor, "batch time components"],
        observed: Bool[Tensor, "batch time components"],
        exogenous: Float[Tensor, "batch time features"] | None,
        start: Int[Tensor, " batch"],
    ) -> Steps:
        """Return the estimates and states of each step; nothing before a row's `start` reaches what comes later."""
        hidden = self.state.weight.shape[1]
        values, seen = both_ways(x), both_ways(observed)
        mask = seen.to(x.dtype)
        known = mask if exogenous is None else torch.cat([mask, both_ways(exogenous)], dim=-1)
        since = torch.stack([steps_since_others(observed, start), steps_since_others(seen[1], torch.zeros_like(start))])
        since = since.to(x.dtype)
        decay = torch.exp(-torch.relu(self.state_decay(since)))
        gates = self.known(known)
        # the forward direction starts anew at the first valid step: no state, and no cell
        begun = torch.arange(x.shape[1], device=x.device) > start[:, None]
        begun = torch.stack([begun, torch.ones_like(begun)])[..., None]
        decay = decay * begun
        forget = gates[..., hidden : 2 * hidden].masked_fill(~begun, CLOSED)
        gates = torch.cat([gates[..., :hidden], forget, gates[..., 2 * hidden :]], dim=-1)
        if self.cross is None or self.share is None:
            share, cross = torch.zeros_like(values), (self.others.expand(2, 1, 1), self.others.expand(2, 1, 1))
        else:
            weight, bias = self.input_decay
            input_decay = torch.exp(-torch.relu(since * weight + bias))
            share = torch.sigmoid(self.share(torch.cat([input_decay, mask], dim=-1)))
            cross = self.cross.weight * self.others, self.cross.bias
        loop = (a.permute(2, 0, 1, 3).contiguous() for a in (values, seen, decay, share, gates))
        history = self.history.weight, self.history.bias
        return steps(*loop, *history, *cross, self.filled.weight, self.state.weight)


def steps_since_others(
    observed: Bool[Tensor, "batch time components"], start: Int[Tensor, " batch"]
) -> Int[Tensor, "batch time components"]:
    """Return the number of steps to the last observation before each step, or to the row's first step."""
    steps = torch.arange(observed.shape[1], device=observed.device)[None, :, None]
    return (steps - torch.maximum(neighbours(observed)[0], start[:, None, None])).clamp(min=0)


def steps(*inputs: Any) -> Steps:
    """Run the loop over time: in one operation with a gradient of its own, or as :func:`plain_steps` where asked."""
    plain = (
        recurrence.use.mode == "torch"
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or is_transformed()
    )
    if plain:
        return plain_steps(*inputs)
    weight = inputs[-1]
    # half precision would round the states that are handed on from step to step
    with torch.autocast(weight.device.type, enabled=False):
        return Steps(*StepsFunction.apply(*(a if a.dtype is torch.bool else a.to(weight.dtype) for a in inputs)))


def plain_steps(
    x: Float[Tensor, "time 2 batch components"],
    observed: Bool[Tensor, "time 2 batch components"],
    decay: Float[Tensor, "time 2 batch hidden"],
    share: Float[Tensor, "time 2 batch components"],
    gates: Float[Tensor, "time 2 batch gates"],
    w_history: Float[Tensor, "2 hidden components"],
    b_history: Float[Tensor, "2 1 components"],
    w_cross: Float[Tensor, "2 components components"],
    b_cross: Float[Tensor, "2 1 components"],
    w_filled: Float[Tensor, "2 components gates"],
    w_state: Float[Tensor, "2 hidden gates"],
) -> Steps:
    """Return all steps by torch's own operations.

    `share` weighs the estimate from the other components; `gates` is what they receive from what is known beforehand.
    """
    h = c = torch.zeros_like(decay[0])
    found = []
    for x_t, observed_t, decay_t, share_t, gates_t in zip(x, observed, decay, share, gates, strict=True):
        before = h * decay_t
        history = torch.baddbmm(b_history, before, w_history)
        cross = torch.baddbmm(b_cross, torch.where(observed_t, x_t, history), w_cross)
        combined = history + share_t * (cross - history)
        filled = torch.where(observed_t, x_t, combined)
        i, f, o, candidate = (gates_t + filled @ w_filled + before @ w_state).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(candidate)
        h = torch.sigmoid(o) * torch.tanh(c)
        found.append((history, cross, combined, before, h))
    return Steps(*(torch.stack(one) for one in zip(*found, strict=True)))


class StepsFunction(torch.autograd.Function):
    """:func:`plain_steps` with fewer operations a step, and its gradient."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Any:
        x, observed, decay, share, gates, w_history, b_history, w_cross, b_cross, w_filled, w_state = inputs
        components, hidden = w_history.shape[2], w_history.shape[1]
        weight = torch.cat([w_history, w_state], dim=2)
        # estimate from the history, and gates: they read the same state
        joint = torch.cat([b_history.expand_as(x), gates], dim=-1)
        cross, combined = torch.empty_like(x), torch.empty_like(x)
        first, second = torch.empty_like(x), torch.empty_like(x)  # the input, filled once and again
        before, after, cell, bounded = (torch.empty_like(decay) for _ in range(4))
        h = c = torch.zeros_like(decay[0])
        for t in range(len(x)):
            state = torch.mul(h, decay[t], out=before[t])
            row = joint[t].baddbmm_(state, weight)
            history, gate = row[..., :components], row[..., components:]
            value = torch.where(observed[t], x[t], history, out=first[t])
            torch.baddbmm(b_cross, value, w_cross, out=cross[t])
            torch.lerp(history, cross[t], share[t], out=combined[t])
            value = torch.where(observed[t], x[t], combined[t], out=second[t])
            gate.baddbmm_(value, w_filled)
            i, f, o = gate[..., : 3 * hidden].sigmoid_().chunk(3, dim=-1)
            c = torch.addcmul(f * c, i, gate[..., 3 * hidden :].tanh_(), out=cell[t])
            h = torch.mul(o, torch.tanh(c, out=bounded[t]), out=after[t])
        ctx.save_for_backward(*inputs, joint, cross, first, second, before, after, cell, bounded)
        return joint[..., :components].clone(), cross, combined, before, after

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        inputs, kept = ctx.saved_tensors[:11], ctx.saved_tensors[11:]
        if torch.is_grad_enabled():
            return tuple(twice_differentiable(inputs, grads, ctx.needs_input_grad))
        x, observed, decay, share, _, w_history, _, w_cross, _, w_filled, w_state = inputs
        joint, cross, first, second, before, after, cell, bounded = kept
        d_history, d_cross, d_combined, d_before, d_after = (g.clone() for g in grads)
        components, hidden = w_history.shape[2], w_history.shape[1]
        history, gates = joint[..., :components], joint[..., components:]
        i, f, o, n = gates.chunk(4, dim=-1)
        # of the gates by the cell (the output gate: by the state), and of the state by the cell
        none = torch.zeros_like(cell[:1])
        last = torch.cat([none, cell[:-1]])
        slopes = torch.cat([n * (i - i * i), last * (f - f * f), bounded * (o - o * o), i * (1 - n * n)], dim=-1)
        slope = o * (1 - bounded * bounded)
        d_gates, d_x = slopes.new_empty(slopes.shape), torch.empty_like(x)
        back = torch.cat([w_filled, w_state], dim=1).transpose(1, 2)
        from_cross, from_history = w_cross.transpose(1, 2), w_history.transpose(1, 2)
        missing = (~observed).to(x.dtype)
        d_c = d_h = torch.zeros_like(cell[0])
        for t in reversed(range(len(x))):
            d_h = d_after[t].add_(d_h)
            d_c = torch.addcmul(d_c, d_h, slope[t])
            d_row = torch.mul(slopes[t], torch.cat([d_c, d_c, d_h, d_c], dim=-1), out=d_gates[t]) @ back
            d_c = d_c * f[t]
            d_second, d_state = d_row[..., :components], d_row[..., components:]
            d_r = d_combined[t].addcmul_(d_second, missing[t])
            d_q = d_cross[t].addcmul_(d_r, share[t])
            d_first = torch.matmul(d_q, from_cross, out=d_x[t])
            d_p = d_history[t].add_(d_r).addcmul_(d_r, share[t], value=-1).addcmul_(d_first, missing[t])
            d_h = d_before[t].add_(d_state).baddbmm_(d_p, from_history) * decay[t]
            d_first.add_(d_second)
        d_decay = d_before * torch.cat([none, after[:-1]])
        d_share = d_combined * (cross - history)

        def product(a: Tensor, b: Tensor) -> Tensor:
            return a.transpose(0, 1).flatten(1, 2).transpose(1, 2) @ b.transpose(0, 1).flatten(1, 2)

        return (
            d_x.masked_fill_(~observed, 0.0), None, d_decay, d_share, d_gates,
            product(before, d_history), d_history.sum(dim=(0, 2))[:, None],
            product(first, d_cross), d_cross.sum(dim=(0, 2))[:, None],
            product(second, d_gates), product(before, d_gates),
        )  # fmt: skip


def twice_differentiable(inputs: Any, grads: Any, needed: Any) -> list[Tensor | None]:
    """Return the gradients of :class:`StepsFunction`'s inputs by torch's own operations."""
    wanted = [i for i, need in enumerate(needed) if need]
    found = torch.autograd.grad(plain_steps(*inputs), [inputs[i] for i in wanted], grads, create_graph=True)
    results: list[Tensor | None] = [None] * len(inputs)
    for i, gradient in zip(wanted, found, strict=True):
        results[i] = gradient
    return results


def in_time(x: Float[Tensor, "time 2 batch features"]) -> tuple[Tensor, Tensor]:
    """Return the forward and the backward part, ``(batch, time, features)``, both in the order of time."""
    return aligned(x.permute(1, 2, 0, 3))
