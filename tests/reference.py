"""The package's formulas as plain numpy loops, one value at a time."""

import numpy as np


def gaps(observed):
    """Return (steps since, steps until an observation) of one channel; the window's ends count as observed outside."""
    n = len(observed)
    since = [0 if observed[t] else t - max([s for s in range(t) if observed[s]], default=-1) for t in range(n)]
    until = [0 if observed[t] else min([s for s in range(t, n) if observed[s]], default=n) - t for t in range(n)]
    return since, until


def interpolate(x, observed):
    """Return one channel with its gaps filled linearly, its ends by the nearest value, 0 if it has none."""
    known = np.flatnonzero(observed)
    return np.interp(np.arange(len(x)), known, x[known]) if len(known) else np.zeros(len(x))


def interpolate_seasonal(x, observed, season):
    """Return one channel with its gaps filled by a line, the mean of the phase and the interpolated remainder."""
    time = len(x)
    known = np.flatnonzero(observed)
    centre = known.mean() if len(known) else 0.0
    enough = len(known) > 0 and known.var() >= (1.5 * season) ** 2 / 12
    slope = np.polyfit(known, x[known], 1)[0] if enough else 0.0
    line = slope * (np.arange(time) - centre)
    profile, seen = np.zeros(season), np.zeros(season, dtype=bool)
    for phase in range(season):
        values = [x[t] - line[t] for t in range(time) if (time - 1 - t) % season == phase and observed[t]]
        seen[season - 1 - phase] = bool(values)
        profile[season - 1 - phase] = np.mean(values) if values else 0.0
    profile = interpolate(profile, seen)
    wave = line + np.array([profile[season - 1 - (time - 1 - t) % season] for t in range(time)])
    return np.where(observed, x, wave + interpolate(x - wave, observed))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(x, w_ih, w_hh, b_ih, b_hh):
    """Return the states of a GRU (Cho et al. 2014, in torch's form) over ``(time, features)``, from a zero state."""
    hidden = w_hh.shape[1]
    h, states = np.zeros(hidden), []
    for x_t in x:
        i, r = w_ih @ x_t + b_ih, w_hh @ h + b_hh
        reset = sigmoid(i[:hidden] + r[:hidden])
        update = sigmoid(i[hidden : 2 * hidden] + r[hidden : 2 * hidden])
        candidate = np.tanh(i[2 * hidden :] + reset * r[2 * hidden :])
        h = (1 - update) * candidate + update * h
        states.append(h)
    return np.array(states)


def lstm(x, w_ih, w_hh, b_ih, b_hh):
    """Return the states of an LSTM (Hochreiter & Schmidhuber 1997, with a forget gate) over ``(time, features)``."""
    hidden = w_hh.shape[1]
    h, c, states = np.zeros(hidden), np.zeros(hidden), []
    for x_t in x:
        i, f, g, o = (w_ih @ x_t + b_ih + w_hh @ h + b_hh).reshape(4, hidden)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.array(states)


def rnn(x, w_ih, w_hh, b_ih, b_hh):
    """Return the states of an Elman network over ``(time, features)``."""
    h, states = np.zeros(w_hh.shape[1]), []
    for x_t in x:
        h = np.tanh(w_ih @ x_t + b_ih + w_hh @ h + b_hh)
        states.append(h)
    return np.array(states)


CELLS = {"GRU": gru, "LSTM": lstm, "RNN": rnn}


def merge(name, f, b, weight=None, bias=None):
    """Return one step's merged state; `weight` and `bias` are the gate's."""
    if name == "gate":
        gate = sigmoid(weight @ np.concatenate([f, b]) + bias)
        g, r = gate[: len(f)], gate[len(f) :]
        return np.concatenate([(1 - g) * f + g * b, (1 - r) * b + r * f])
    return {"concat": np.concatenate([f, b]), "sum": f + b, "mean": (f + b) / 2, "mul": f * b}[name]


def attention(states, query, w, u, c, v):
    """Return Bahdanau's context of ``(time, state)``."""
    energy = np.array([v @ np.tanh(w @ h + u @ query + c) for h in states])
    weight = np.exp(energy - energy.max())
    weight /= weight.sum()
    return sum(a * h for a, h in zip(weight, states, strict=True))


def seasonal(x, observed, season, horizon, shift, log_weight):
    """Return the seasonal skip path of one channel (`x` already filled)."""
    out, length = [], len(x)
    for h in range(horizon):
        t, candidates = length + shift + h, []
        while t >= length:
            t -= season
        while t >= 0:
            candidates.append(t)
            t -= season
        chosen = [(k, t) for k, t in enumerate(candidates) if observed[t]] or list(enumerate(candidates))
        weight = np.array([np.exp(log_weight[k]) for k, _ in chosen])
        out.append(sum(w * x[t] for w, (_, t) in zip(weight / weight.sum(), chosen, strict=True)))
    return np.array(out)


def messages(adjacency, v, order):
    """Return ``[S v; S^2 v; ...; R v; R^2 v; ...]`` of ``(nodes, features)``: weighted means of the neighbours."""
    terms = []
    for weights in (adjacency, adjacency.T):
        sent = v
        for _ in range(order):
            sent = np.array(
                [
                    sum((w * sent[j] for j, w in enumerate(row)), np.zeros(v.shape[1])) / (row.sum() or 1.0)
                    for row in weights
                ]
            )
            terms.append(sent)
    return np.concatenate(terms, axis=1)


def grin_direction(x, observed, context, adjacency, w, order):
    """Return one direction's first and second estimates ``(time, nodes)`` and representations.

    `context` are the mask and the covariates ``(time, nodes, features)``; `w` maps the names of the maps to pairs
    (weight, bias), and "start" and "slope" to the start states of the layers and the slope of the PReLU.
    """

    def linear(name, v):
        weight, bias = w[name]
        return v @ weight + bias

    def diffusion(v):
        return np.concatenate([v, messages(adjacency, v, order)], axis=1)

    states, firsts, seconds, representations = list(w["start"]), [], [], []
    for x_t, m, c in zip(x, observed, context, strict=True):
        h = states[-1]
        first, second = (linear("first", h)[:, 0], 0.0)
        if "present" in w:
            said = linear("present", c[:, 1:])
            first, second = first + said[:, 0], said[:, 1]
        z = linear("message", np.column_stack([np.where(m, x_t, first), c, h]))
        p = linear("decoder", np.column_stack([linear("neighbours", messages(adjacency, z, 1)), h]))
        representation = np.column_stack([np.where(p > 0, p, w["slope"] * p), h])
        second = second + linear("second", representation)[:, 0]
        value = np.where(m, x_t, second)[:, None]
        v = np.column_stack([diffusion(value), diffusion(c)])
        for layer, below in enumerate(states):
            gates = linear(f"layers.{layer}.input", v)
            size = below.shape[1]
            gates_h = linear(f"layers.{layer}.gates", diffusion(below))
            r, u = np.split(sigmoid(gates[:, : 2 * size] + gates_h), 2, axis=1)
            candidate = np.tanh(gates[:, 2 * size :] + linear(f"layers.{layer}.candidate", diffusion(r * below)))
            states[layer] = u * below + (1 - u) * candidate
            v = diffusion(states[layer])
        firsts.append(first)
        seconds.append(second)
        representations.append(representation)
    return np.array(firsts), np.array(seconds), np.array(representations)


def grin(x, observed, exogenous, adjacency, directions, embedding, hidden, output, order):
    """Return GRIN's output (Cini et al. 2022) and its four estimates for one window ``(time, nodes)``."""
    context = np.concatenate([observed[..., None].astype(float), exogenous], axis=2)
    forward = grin_direction(x, observed, context, adjacency, directions[0], order)
    reverse = grin_direction(x[::-1], observed[::-1], context[::-1], adjacency, directions[1], order)
    backward = [part[::-1] for part in reverse]
    out = np.zeros((*x.shape, len(output[1])))
    for t, i in np.ndindex(*x.shape):
        inputs = np.concatenate([forward[2][t, i], backward[2][t, i], [observed[t, i]], embedding[i], exogenous[t, i]])
        out[t, i] = np.maximum(inputs @ hidden[0] + hidden[1], 0) @ output[0] + output[1]
    return out, np.array([forward[0], forward[1], backward[0], backward[1]])


def cross_gate(f, b, context, weight, bias):
    """Return one step's two states after each took from the other what its gate let through."""
    g, r = np.split(sigmoid(weight @ np.concatenate([f, b, context]) + bias), 2)
    return (1 - g) * f + g * b, (1 - r) * b + r * f
