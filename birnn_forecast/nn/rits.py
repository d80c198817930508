"""Recurrent imputation for time series: an LSTM that is fed its own estimates and forgets during gaps.

All steps' decays and input projections are computed before the loop over time, losses after it. Within it, both
directions run side by side, and the gradient is written out: the weights' is one product over all steps.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from birnn_forecast.eager import is_transformed
from birnn_forecast.nn import recurrence, replay
from birnn_forecast.nn.cells import PairedLinear, aligned
from birnn_forecast.nn.recurrent import begin_at_once

# far enough below 0 to close a gate, in half precision, too
CLOSED = -1e4


class Steps(NamedTuple):
    """What the loop over time returns of each step; each direction in its own order of time.

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

    history: Float[Tensor, "2 time batch components"]
    cross: Float[Tensor, "2 time batch components"]
    combined: Float[Tensor, "2 time batch components"]
    before: Float[Tensor, "2 time batch hidden"]
    after: Float[Tensor, "2 time batch hidden"]


class RITS(nn.Module):
    """Recurrent imputation of several components that depend on each other, in two directions that do not meet.

    One step of a direction, with input ``x``, mask ``m``, steps since the last observation ``d``, covariates ``u``,
    state ``h`` and cell ``c``; ``g_h = exp(-relu(W_h d + b_h))``, ``g_x = exp(-relu(w_x d + b_x))``:

    1. the state decays, ``h = g_h h``; estimate from the history and from what the covariates say at the step,
       ``p = W_p h + W_u u + b_p``; filled, ``v = m x + (1 - m) p``;
    2. estimate from the other components, ``q = W_q v + b_q`` with a diagonal of 0; combined,
       ``r = a q + (1 - a) p`` with ``a = sigmoid(W_a [g_x; m] + b_a)``; filled, ``v = m x + (1 - m) r``;
    3. ``h, c = LSTM([v; m; u], h, c)``.

    No estimate of a value depends on that value itself. A lone component has no step 2: ``r = p``. Without covariates
    these are the paper's formulas.

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
    forget: Tensor

    def __init__(self, n_components: int, exogenous_size: int, hidden_size: int):
        super().__init__()
        inputs = n_components + exogenous_size
        self.state_decay = PairedLinear(n_components, hidden_size)
        self.history = PairedLinear(hidden_size, n_components)
        self.present = None
        if exogenous_size:
            self.present = PairedLinear(exogenous_size, n_components, bias=False, fan_in=inputs)
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
        forget = torch.arange(4 * hidden_size) // hidden_size == 1
        self.register_buffer("forget", CLOSED * forget, persistent=False)

    def forward(
        self,
        x: Float[Tensor, "batch time components"],
        observed: Bool[Tensor, "batch time components"],
        exogenous: Float[Tensor, "batch time features"] | None,
        start: Int[Tensor, " batch"],
    ) -> Steps:
        """Return the estimates and states of each step; nothing before a row's `start` reaches what comes later."""
        values, seen = both_ways_by_step(x), both_ways_by_step(observed)
        mask = seen.to(x.dtype)
        # the backward direction begins with the window's end; the forward one, without state and cell, with its start
        begun = torch.arange(x.shape[1], device=x.device)[:, None, None] > start[:, None]
        begun = torch.stack([begun, torch.ones_like(begun)])
        since = steps_since_others(seen, begun).to(x.dtype)
        decay = faded(self.state_decay.bias, since, self.state_decay.weight)
        if not begin_at_once(start):
            decay = decay * begun
        known, offset = [mask], self.history.bias[:, None].expand(*values.shape)
        if exogenous is not None and self.present is not None:
            known.append(both_ways_by_step(exogenous))
            rows = known[1].flatten(1, 2)
            offset = torch.baddbmm(self.history.bias, rows, self.present.weight).view(values.shape)
        known.append(~begun)
        weight = torch.cat([self.known.weight, self.forget.expand(2, 1, -1)], dim=1)
        if self.cross is None or self.share is None:
            share, cross = torch.zeros_like(values), (self.others.expand(2, 1, 1), self.others.expand(2, 1, 1))
        else:
            factor, bias = self.input_decay
            input_decay = torch.addcmul(-bias, since, -factor).clamp(max=0).exp()
            rows = torch.cat([input_decay, mask], dim=-1).flatten(1, 2)
            share = torch.baddbmm(self.share.bias, rows, self.share.weight).sigmoid().view(values.shape)
            cross = self.cross.weight * self.others, self.cross.bias
        return steps(
            self,
            *(values, seen, decay, share, torch.cat(known, dim=-1)),
            *(weight, self.known.bias, self.history.weight, offset, *cross),
            *(self.filled.weight, self.state.weight),
        )


def faded(bias: Any, since: Tensor, weight: Tensor) -> Tensor:
    """Return ``exp(-relu(since @ weight + bias))``."""
    below = torch.baddbmm(bias, since.flatten(1, 2), weight, beta=-1, alpha=-1)
    return below.clamp(max=0).exp().unflatten(1, since.shape[1:3])


def both_ways_by_step(x: Tensor) -> Tensor:
    """Stack ``(batch, time, ...)`` as it is and with its time reversed, and bring time before the batch."""
    x = x.transpose(0, 1)
    return torch.stack([x, x.flip(0)])


def in_time(x: Float[Tensor, "2 time batch features"]) -> tuple[Tensor, Tensor]:
    """Undo :func:`both_ways_by_step`: return ``(batch, time, features)`` of either, both in the order of time."""
    return aligned(x.transpose(1, 2))


def steps_since_others(
    observed: Bool[Tensor, "2 time batch components"], begun: Bool[Tensor, "2 time batch 1"]
) -> Float[Tensor, "2 time batch components"]:
    """Return the number of steps to the last observation before each step, or to the one before the first `begun`.

    Step by step, which is several times as fast as the running maximum of :func:`birnn_forecast.masks.steps_since`.
    """
    since = [torch.zeros(observed[:, 0].shape, device=observed.device)]
    for seen, on in zip(observed.unbind(1)[:-1], begun.unbind(1)[1:], strict=True):
        since.append(torch.where(seen, 1.0, since[-1] + 1) * on)
    return torch.stack(since, dim=1)


def steps(owner: RITS, *inputs: Any) -> Steps:
    """Run the loop over time: in one operation with a gradient of its own, or as :func:`plain_steps` where asked."""
    plain = (
        recurrence.use.mode == "torch" or torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed()
    )
    if plain:
        return plain_steps(*inputs)
    weight = inputs[-1]
    # half precision would round the states that are handed on from step to step
    with torch.autocast(weight.device.type, enabled=False):
        inputs = tuple(a if a.dtype is torch.bool else a.to(weight.dtype) for a in inputs)
        if replay.is_wanted(weight):
            return Steps(*replay.replayed(owner, StepsFunction.apply, inputs))
        return Steps(*StepsFunction.apply(*inputs))


def plain_steps(
    x: Float[Tensor, "2 time batch components"],
    observed: Bool[Tensor, "2 time batch components"],
    decay: Float[Tensor, "2 time batch hidden"],
    share: Float[Tensor, "2 time batch components"],
    known: Float[Tensor, "2 time batch known"],
    w_known: Float[Tensor, "2 known gates"],
    b_known: Float[Tensor, "2 1 gates"],
    w_history: Float[Tensor, "2 hidden components"],
    offset: Float[Tensor, "2 time batch components"],
    w_cross: Float[Tensor, "2 components components"],
    b_cross: Float[Tensor, "2 1 components"],
    w_filled: Float[Tensor, "2 components gates"],
    w_state: Float[Tensor, "2 hidden gates"],
) -> Steps:
    """Return all steps by torch's own operations.

    `share` weighs the estimate from the other components; `known` is what the gates receive beside values and state,
    `offset` what the estimate from the history begins with.
    """
    h = c = torch.zeros_like(decay[:, 0])
    found = []
    for t in range(x.shape[1]):
        before = h * decay[:, t]
        history = offset[:, t] + before @ w_history
        cross = b_cross + torch.where(observed[:, t], x[:, t], history) @ w_cross
        combined = history + share[:, t] * (cross - history)
        filled = torch.where(observed[:, t], x[:, t], combined)
        gates = b_known + known[:, t] @ w_known + filled @ w_filled + before @ w_state
        i, f, o, candidate = gates.chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(candidate)
        h = torch.sigmoid(o) * torch.tanh(c)
        found.append((history, cross, combined, before, h))
    return Steps(*(torch.stack(one, dim=1) for one in zip(*found, strict=True)))


class StepsFunction(torch.autograd.Function):
    """:func:`plain_steps` with fewer operations a step, and its gradient."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Any:
        x, observed, decay, share, known, w_known, b_known, w_history, offset, *rest = inputs
        w_cross, b_cross, w_filled, w_state = rest
        components, hidden = w_history.shape[2], w_history.shape[1]
        # the estimate from the history and the gates read the same state
        weight = torch.cat([w_history, w_state], dim=2)
        joint = torch.baddbmm(pad(b_known, (components, 0)), known.flatten(1, 2), pad(w_known, (components, 0))).view(
            *x.shape[:3], weight.shape[2]
        )
        joint[..., :components] = offset
        first, cross, combined, second = (torch.empty_like(x) for _ in range(4))  # input, filled once and again
        before, cell, bounded, after = (torch.empty_like(decay) for _ in range(4))
        h = c = torch.zeros_like(decay[:, 0])
        columns = (x, observed, decay, share, joint, first, cross, combined, second, before, cell, bounded, after)
        for step in zip(*(column.unbind(1) for column in columns), strict=True):
            x_t, seen, fade, part, row, once, q, r, again, state, c_out, level, h_out = step
            row.baddbmm_(torch.mul(h, fade, out=state), weight)
            p, gates, candidate = row.split([components, 3 * hidden, hidden], dim=-1)
            torch.baddbmm(b_cross, torch.where(seen, x_t, p, out=once), w_cross, out=q)
            torch.lerp(p, q, part, out=r)
            row[..., components:].baddbmm_(torch.where(seen, x_t, r, out=again), w_filled)
            i, f, o = gates.sigmoid_().chunk(3, dim=-1)
            c = torch.addcmul(f * c, i, candidate.tanh_(), out=c_out)
            h = torch.mul(o, torch.tanh(c, out=level), out=h_out)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, joint, cross, first, second, before, after, cell, bounded)
        return joint[..., :components].clone(), cross, combined, before, after

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        saved = ctx.saved_tensors  # which may be asked for once
        inputs, kept = saved[:13], saved[13:]
        outputs = kept[1], kept[1], kept[1], kept[4], kept[4]
        if torch.is_grad_enabled():
            return tuple(recurrence.gradients(plain_steps(*inputs), inputs, ctx.needs_input_grad, grads))
        _, observed, decay, share, known, w_known, _, w_history, _, w_cross, _, w_filled, w_state = inputs
        joint, cross, first, second, before, after, cell, bounded = kept
        d_history, d_cross, d_combined, d_before, d_after = (
            torch.zeros_like(o) if g is None else g.clone(memory_format=torch.contiguous_format)
            for g, o in zip(grads, outputs, strict=True)
        )
        components, hidden = w_history.shape[2], w_history.shape[1]
        history, gates = joint.split([components, 4 * hidden], dim=-1)
        i, f, o, n = gates.chunk(4, dim=-1)
        # slopes of the gates, then their gradients
        d_gates = torch.addcmul(gates, gates, gates, value=-1)
        torch.mul(n, n, out=d_gates[..., 3 * hidden :]).neg_().add_(1)
        slope = o - o * bounded * bounded
        partner = torch.cat([n, pad(cell[:, :-1], (0, 0, 0, 0, 1, 0)), bounded, i], dim=-1)
        d_x, missing = torch.empty_like(d_cross), (~observed).to(d_cross.dtype)
        back = torch.cat([w_filled, w_state], dim=1).transpose(1, 2).contiguous()
        from_cross, from_history = w_cross.transpose(1, 2).contiguous(), w_history.transpose(1, 2).contiguous()
        d_c = d_h = torch.zeros_like(cell[:, 0])
        columns = (missing, share, decay, f, slope, partner)
        d_columns = (d_x, d_history, d_cross, d_combined, d_before, d_after, d_gates)
        rows = zip(*(column.unbind(1) for column in (*columns, *d_columns)), strict=True)
        for step in reversed([*rows]):
            gap, part, fade, forget, slope_t, partner_t, d_once, d_p, d_q, d_r, d_state, d_out, row = step
            d_h = d_out.add_(d_h)
            d_c = torch.addcmul(d_c, d_h, slope_t)
            row.mul_(partner_t).mul_(torch.cat([d_c, d_c, d_h, d_c], dim=-1))
            d_again, from_gates = (row @ back).split([components, hidden], dim=-1)
            d_c = d_c * forget
            d_q.addcmul_(d_r.addcmul_(d_again, gap), part)
            torch.bmm(d_q, from_cross, out=d_once)
            d_p.add_(d_r).addcmul_(d_r, part, value=-1).addcmul_(d_once, gap)
            d_h = d_state.add_(from_gates).baddbmm_(d_p, from_history) * fade
            d_once.add_(d_again)
        d_decay = d_before * pad(after[:, :-1], (0, 0, 0, 0, 1, 0))
        d_share = (cross - history).mul_(d_combined)
        d_known = d_gates @ w_known.transpose(1, 2)[:, None] if ctx.needs_input_grad[4] else None

        def product(a: Tensor, b: Tensor) -> Tensor:
            return a.flatten(1, 2).transpose(1, 2) @ b.flatten(1, 2)

        def total(a: Tensor) -> Tensor:
            return a.sum(dim=(1, 2))[:, None]

        return (
            d_x.mul_(observed), None, d_decay, d_share, d_known, product(known, d_gates), total(d_gates),
            product(before, d_history), d_history, product(first, d_cross), total(d_cross),
            product(second, d_gates), product(before, d_gates),
        )  # fmt: skip
