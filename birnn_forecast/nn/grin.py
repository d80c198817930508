"""The graph recurrent imputation network: every component of the target is a node, with a recurrence of its own."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from birnn_forecast.masks import fill, first_step, neighbours, observed_mask
from birnn_forecast.nn.candidates import Candidates
from birnn_forecast.nn.cells import FeedbackGRIN
from birnn_forecast.nn.decoders import SKIPS, HorizonDecoder
from birnn_forecast.nn.merge import CrossGate
from birnn_forecast.nn.networks import Encoding, Sizes, Window, fill_gaps, with_mask
from birnn_forecast.nn.node_graph import Exchange, NodeGraph, NodeLinear
from birnn_forecast.nn.normalization import ShrunkInstanceNorm
from birnn_forecast.nn.pooling import POOLINGS
from birnn_forecast.nn.recurrent import CELLS, reset_recurrent_parameters, shift_time, valid_steps

# where the sharpness of the graph's heads starts
SHARPNESS = {"distance": (16.0, 2.8)}
OTHER_SHARPNESS = (4.0, 2.0)
# beyond this many numbers in a layer's states, what is needed for the gradient is computed again instead of kept
KEPT_STATES = 20_000_000
RECURRENCES = ("stacked", "feedback")
# with known correlations of few nodes, all of them together estimate each
LARGEST_KRIGING = 128
MIXTURE_VALUES_PER_CANDIDATE = 20
# few nodes, of which more is learnt one by one
FEW_NODES = 64


class StackedEncoder(nn.Module):
    """Recurrent layers over each node, in two directions that stay apart, with gates and messages between.

    After each layer the directions take from each other what a :class:`CrossGate` lets through; before the next one,
    each node hears from its neighbours (:class:`Exchange`), each direction on its own.

    Parameters
    ----------
    cell
        One of ``CELLS``.
    input_size
        Features per step and node.
    hidden_size, num_layers
        As in ``torch.nn.GRU``.
    cross_gate
        "none", "scalar" or "vector".
    message_size
        Size of a message.
    sharpness, n_nodes, own_maps
        As in :class:`Exchange`; without `sharpness` nothing is sent.
    dropout
        Share of units dropped after each layer.
    """

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        cross_gate: str,
        message_size: int,
        sharpness: Sequence[float],
        n_nodes: int | None,
        own_maps: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.forwards, self.backwards, self.gates, self.exchanges = (nn.ModuleList() for _ in range(4))
        self.dropouts = nn.ModuleList()
        size = input_size
        for layer in range(num_layers):
            self.forwards.append(NodeScan(cell, size, hidden_size))
            self.backwards.append(NodeScan(cell, size, hidden_size, backward=True))
            if cross_gate != "none":
                self.gates.append(CrossGate(hidden_size, 3, cross_gate))
            self.dropouts.append(nn.Dropout(dropout) if dropout else nn.Identity())
            size = hidden_size
            if sharpness and (layer < num_layers - 1 or num_layers == 1):
                pair = [Exchange(hidden_size, message_size, sharpness, n_nodes, own_maps) for _ in range(2)]
                self.exchanges.append(nn.ModuleList(pair))
        self.state_size = self.final_size = 2 * hidden_size

    def forward(
        self,
        x: Float[Tensor, "batch time nodes features"],
        context: Float[Tensor, "batch time nodes context"],
        start: Int[Tensor, " batch"],
        graph: NodeGraph | None,
    ) -> Float[Tensor, "batch time nodes state"]:
        """Return both directions' states side by side, 0 before the start."""
        # time first, as the recurrences want it
        x, context = x.transpose(0, 1), context.transpose(0, 1)
        padded = torch.compiler.is_compiling() or bool(start.any())
        valid = valid_steps(start, len(x)).T[:, :, None, None].to(x.dtype) if padded else None

        def masked(state: Tensor) -> Tensor:
            return state if valid is None else state * valid

        f = b = x.contiguous()
        for layer, (forward, backward) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            f, b = (
                masked(self.dropouts[layer](scan(x, start if padded else None)))
                for scan, x in ((forward, f), (backward, b))
            )
            if self.gates:
                f, b = (masked(state) for state in self.gates[layer](f, b, context))
            if layer < len(self.exchanges) and graph is not None:
                adjacency = graph()
                to_f, to_b = self.exchanges[layer]
                f, b = f + masked(to_f(f, adjacency)), b + masked(to_b(b, adjacency))
        return torch.cat([f, b], dim=-1).transpose(0, 1)


class NodeScan(nn.Module):
    """A recurrence over each node of each window, in one direction; of a very large batch it keeps only its input."""

    def __init__(self, cell: str, input_size: int, hidden_size: int, backward: bool = False):
        super().__init__()
        self.backward = backward
        self.rnn = CELLS[cell](input_size, hidden_size)
        reset_recurrent_parameters(self.rnn)

    def forward(
        self, x: Float[Tensor, "time batch nodes features"], start: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "time batch nodes hidden"]:
        """Return the states; what stands before `start` (None: nothing does) is unspecified."""
        time, batch, nodes, _ = x.shape
        if torch.is_grad_enabled() and time * batch * nodes * self.rnn.hidden_size > KEPT_STATES:
            parts = x.split(max(nodes * KEPT_STATES // (time * batch * nodes * self.rnn.hidden_size) // 2, 1), dim=2)
            return torch.cat([checkpoint(self._run, part, start, use_reentrant=False) for part in parts], dim=2)
        return self._run(x, start)

    def _run(self, x: Tensor, start: Tensor | None) -> Tensor:
        rows = x.flatten(1, 2)
        if self.backward:
            states = self.rnn(rows.flip(0))[0].flip(0)
        elif start is None:
            states = self.rnn(rows)[0]
        else:
            by = start.repeat_interleave(x.shape[2])
            shifted = shift_time(rows.transpose(0, 1), by).transpose(0, 1)
            states = shift_time(self.rnn(shifted)[0].transpose(0, 1), -by).transpose(0, 1)
        return states.unflatten(1, x.shape[1:3])


def fold(x: Float[Tensor, "batch time nodes features"]) -> Float[Tensor, "rows time features"]:
    """Make each node of each window a row of its own."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold(x: Float[Tensor, "rows time features"], nodes: int) -> Float[Tensor, "batch time nodes features"]:
    """Undo :func:`fold`."""
    return x.unflatten(0, (-1, nodes)).transpose(1, 2)


class GraphNetwork(nn.Module):
    """Encode every node of a window; decode its horizon and estimate its steps, with the same weights for all nodes.

    ``recurrence="stacked"``: each step's estimate is linear interpolation, plus a mixture of what simpler estimates
    (:class:`Candidates`) add to it and a correction, both read off the states of a :class:`StackedEncoder`.
    ``recurrence="feedback"``: the estimates of :class:`FeedbackGRIN`.

    Parameters
    ----------
    sizes, season_length, locations, offsets, decoder_params, reconstructs, skip, pooling
        As in :class:`ForecastNetwork`.
    graph
        Where the edges come from: "distance", "correlation", "learned", "given" or None for no edges. The edges
        themselves are put in by ``network.graph.put``.
    recurrence
        One of ``RECURRENCES``.
    cell, hidden_size, num_layers, cross_gate, dropout
        As in :class:`StackedEncoder` and :class:`FeedbackGRIN`.
    embedding_size
        Size of what is learnt of each node; 0 for nothing: then another set of nodes may be given.
    message_size, head_size
        Size of a message per head of the graph, and of the hidden layer of the head.
    """

    Norm = ShrunkInstanceNorm
    whole = 0.0

    def __init__(
        self,
        sizes: Sizes,
        graph: str | None,
        recurrence: str,
        cell: str,
        hidden_size: int,
        num_layers: int,
        cross_gate: str,
        embedding_size: int,
        message_size: int,
        head_size: int,
        dropout: float,
        pooling: str,
        skip: str | None,
        season_length: int | None,
        locations: Sequence[bool],
        offsets: Sequence[float],
        decoder_params: dict,
        reconstructs: bool = True,
    ):
        super().__init__()
        self.sizes, self.season_length = sizes, season_length
        n_nodes = sizes.targets if embedding_size else None
        covariates = 2 * (sizes.past_covariates + sizes.future_covariates + sizes.static_width)
        edges = graph is not None and sizes.targets > 1
        self.graph = NodeGraph(sizes.targets, learned=graph == "learned") if edges else None
        self.embedding = nn.Parameter(0.3 * torch.randn(sizes.targets, embedding_size)) if embedding_size else None
        self.feedback = self.encoder = self.candidates = self.step_head = None
        if recurrence == "feedback":
            self.feedback = FeedbackGRIN(
                n_nodes,
                exogenous_size=covariates,
                hidden_size=hidden_size,
                ff_size=head_size,
                output_size=sizes.parameters,
                embedding_size=embedding_size or None,
                num_layers=num_layers,
                dropout=dropout,
                cross_gate=cross_gate,
            )
            self.embedding = None
            state_size = self.feedback.state_size
        else:
            sharpness = SHARPNESS.get(graph or "", OTHER_SHARPNESS) if edges else ()
            correlated = edges and graph == "correlation" and sizes.targets <= LARGEST_KRIGING and n_nodes is not None
            self.candidates = Candidates(season_length, self.graph, sharpness, n_nodes, correlated)
            # value, its distance from the interpolation, the interpolation; mask and distances; level and scale
            features = 8 + self.candidates.count + self.candidates.heads + embedding_size + covariates
            own_maps = n_nodes is not None and n_nodes <= FEW_NODES and graph != "distance"
            self.encoder = StackedEncoder(
                cell, features, hidden_size, num_layers, cross_gate, message_size, sharpness, n_nodes, own_maps, dropout
            )
            state_size = self.encoder.state_size
            if reconstructs:
                self.step_head = MixingHead(
                    state_size + features,
                    head_size,
                    self.candidates.count,
                    locations,
                    offsets,
                    n_nodes if own_maps else None,
                )
        self.pooling = POOLINGS[pooling](state_size, state_size)
        self.decoder = HorizonDecoder(
            code_size=self.pooling.output_size,
            state_size=state_size,
            horizon=sizes.horizon,
            output_size=sizes.parameters,
            future_size=2 * sizes.future_covariates,
            start_at_zero=skip is not None,
            **decoder_params,
        )
        self.skip = SKIPS[skip](sizes.input_length, sizes.horizon, sizes.shift, season_length) if skip else None
        with torch.no_grad():
            self.decoder.output.bias += torch.tensor(offsets)
        self.register_buffer("locations", torch.tensor(locations), persistent=False)

    @property
    def mixes_components(self) -> bool:
        """Whether a node's estimates depend on the others."""
        return self.graph is not None

    @property
    def sees_own_values(self) -> bool:
        """Whether the estimate of a value may know that value, so that only hidden ones are to be learnt from."""
        return self.feedback is None

    def forward(self, window: Window) -> Float[Tensor, "batch horizon nodes parameters"]:
        """Return the raw parameters of each node at each step of the horizon, in the normalised unit."""
        return self.forecast(window, self.encode(window))

    def encode(self, window: Window) -> Encoding:
        """Read each node from both ends, with what the others know."""
        nodes = window.target.shape[2]
        covariates = self._covariates(window)
        known = [c for c in (window.past_covariates, window.historic_future_covariates) if c is not None]
        start = first_step(torch.cat([window.observed, *(observed_mask(c) for c in known)], dim=-1))
        valid = valid_steps(start, window.target.shape[1])
        filled = fill_gaps(window, self.season_length)
        if self.feedback is not None:
            exogenous = torch.cat(covariates, dim=-1) if covariates else None
            adjacency = window.target.new_zeros(nodes, nodes) if self.graph is None else self.graph()
            target = fill(window.target, window.observed, 0.0)
            read = self.feedback(target, window.observed, exogenous, adjacency)
            states, estimates = read.states, (read.output, read.estimates)
        else:
            states, estimates = self._read(window, covariates, start, filled)
        rows = fold(states)
        # the last forward and the first backward state
        half = rows.shape[-1] // 2
        first = torch.gather(rows[..., half:], 1, start.repeat_interleave(nodes)[:, None, None].expand(-1, 1, half))
        final = torch.cat([rows[:, -1, :half], first[:, 0]], dim=-1)
        return Encoding(filled, rows, final, valid.repeat_interleave(nodes, dim=0), *estimates)

    def forecast(self, window: Window, encoding: Encoding) -> Float[Tensor, "batch horizon nodes parameters"]:
        """Return the raw parameters of each node at each step of the horizon, in the normalised unit."""
        nodes = window.target.shape[2]
        future = None
        if window.future_covariates is not None:
            history = window.historic_future_covariates
            span = window.future_covariates
            span = span if history is None else torch.cat([history, span], dim=1)
            future = torch.cat(with_mask(span), dim=-1)[:, -self.sizes.horizon :].repeat_interleave(nodes, dim=0)
        code = self.pooling(encoding.states, encoding.final, encoding.valid)
        out = unfold(self.decoder(code, encoding.states, future), nodes)
        if self.skip is not None:
            out = out + self.skip(encoding.target, window.observed)[..., None] * self.locations.to(out.dtype)
        return out

    def reconstruct(self, window: Window, encoding: Encoding) -> Float[Tensor, "batch time nodes parameters"]:
        """Return the raw parameters of each node at each step of the window, in the normalised unit."""
        assert encoding.estimate is not None
        return encoding.estimate

    def _read(
        self, window: Window, covariates: list[Tensor], start: Tensor, filled: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
        assert self.candidates is not None and self.encoder is not None
        x, observed = window.target, window.observed
        level, scale = (
            window.unit if window.unit is not None else (torch.zeros_like(x[:, :1]), torch.ones_like(x[:, :1]))
        )
        estimates = self.candidates(x, observed, level, scale, self.graph)
        base = estimates.base
        if window.guide is not None:
            base = torch.where(observed.any(dim=1, keepdim=True), base, window.guide)
        context = gap_context(observed).to(x.dtype)
        seen = fill(x, observed, 0.0)
        own = [torch.where(observed, seen, base), torch.where(observed, seen - base, 0.0), base]
        unit = torch.stack([level, scale.log()], dim=-1).expand(*x.shape, 2)
        features = [torch.stack(own, dim=-1), context, estimates.candidates, estimates.support, unit, *covariates]
        if self.embedding is not None:
            features.append(self.embedding.expand(*x.shape, -1))
        valid = valid_steps(start, x.shape[1])[:, :, None, None]
        inputs = torch.cat(features, dim=-1) * valid
        states = self.encoder(inputs, context, start, self.graph)
        if self.step_head is None:
            return states, (base[..., None], None)
        return states, (self.step_head(torch.cat([states, inputs], dim=-1), base, estimates.candidates), None)

    @torch.no_grad()
    def start_as_mixture(self, batches: Sequence[tuple[Window, Tensor]]) -> None:
        """Start as that fixed mixture of the candidates which has the least absolute errors.

        Parameters
        ----------
        batches
            Windows of which values are hidden, and the errors' weight of each value that was, 0 of all others. The
            windows' targets hold the hidden values.
        """
        if self.candidates is None or self.step_head is None or not self.candidates.count:
            return
        rows, rests = [], []
        for window, weight in batches:
            level, scale = window.unit or (
                torch.zeros_like(window.target[:, :1]),
                torch.ones_like(window.target[:, :1]),
            )
            found = self.candidates(window.target, window.observed, level, scale, self.graph)
            counted = weight > 0
            rows.append((found.candidates * weight[..., None])[counted].double())
            rests.append(((window.target - found.base) * weight)[counted].double())
        x, y = torch.cat(rows), torch.cat(rests)
        if len(y) > MIXTURE_VALUES_PER_CANDIDATE * self.candidates.count:
            self.step_head.output.bias[-self.candidates.count :] = least_absolute(x, y).to(self.step_head.output.bias)

    def _covariates(self, window: Window) -> list[Tensor]:
        """Return covariates and their masks, ``(batch, time, nodes, 2 * covariates)`` each."""
        batch, time, nodes = window.target.shape
        out = []
        for covariate in (window.past_covariates, window.historic_future_covariates):
            if covariate is not None:
                out.append(torch.cat(with_mask(covariate), dim=-1)[:, :, None].expand(-1, -1, nodes, -1))
        if window.static_covariates is not None:
            static = window.static_covariates  # of each node, or the same for all
            observed = observed_mask(static)
            static = torch.cat([fill(static, observed, 0.0), observed.to(static.dtype)], dim=-1)
            out.append(static[:, None].expand(batch, time, nodes, -1))
        return out


class MixingHead(nn.Module):
    """Linear interpolation, plus a mixture of what candidates add to it, plus a correction; starts as the first.

    Parameters
    ----------
    input_size, hidden_size
        Size of what is known of a step and node, and of the hidden layer.
    n_candidates
        Number of candidates.
    locations, offsets
        As in :class:`ForecastNetwork`.
    n_nodes
        Number of nodes, if each is to have an output map of its own beside the common one.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        n_candidates: int,
        locations: Sequence[bool],
        offsets: Sequence[float],
        n_nodes: int | None = None,
    ):
        super().__init__()
        self.parameters_per_step = len(offsets)
        self.hidden = nn.Linear(input_size, hidden_size)
        self.output = nn.Linear(hidden_size, len(offsets) + n_candidates)
        nn.init.zeros_(self.output.weight)
        self.own_output = None if n_nodes is None else NodeLinear(n_nodes, hidden_size, len(offsets) + n_candidates)
        if self.own_output is not None:
            nn.init.zeros_(self.own_output.weight)
        with torch.no_grad():
            self.output.bias.zero_()
            self.output.bias[: len(offsets)] = torch.tensor(offsets)
        self.register_buffer("locations", torch.tensor(locations), persistent=False)

    def forward(
        self,
        x: Float[Tensor, "batch time nodes features"],
        base: Float[Tensor, "batch time nodes"],
        candidates: Float[Tensor, "batch time nodes n"],
    ) -> Float[Tensor, "batch time nodes parameters"]:
        hidden = nn.functional.silu(self.hidden(x))
        out = self.output(hidden)
        if self.own_output is not None:
            out = out + self.own_output(hidden)
        raw, shares = out[..., : self.parameters_per_step], out[..., self.parameters_per_step :]
        middle = base + (shares * candidates).sum(dim=-1)
        return raw + middle[..., None] * self.locations.to(raw.dtype)


def least_absolute(x: Float[Tensor, "rows columns"], y: Float[Tensor, " rows"]) -> Float[Tensor, " columns"]:
    """Return the coefficients of least absolute errors, slightly drawn to 0, by iteratively reweighted least squares."""
    ridge = 1e-3 * x.square().mean() * len(y) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    floor = 0.02 * y.abs().mean() + torch.finfo(y.dtype).tiny
    weight = torch.ones_like(y)
    coefficients = x.new_zeros(x.shape[1])
    for _ in range(25):
        weighted = x * weight[:, None]
        normal = weighted.T @ x + ridge * weight.mean() + 1e-12 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        coefficients = torch.linalg.solve(normal, weighted.T @ y)
        weight = 1 / (y - x @ coefficients).abs().clamp(min=floor)
        weight = weight / weight.mean()
    return coefficients


def gap_context(observed: Bool[Tensor, "batch time nodes"]) -> Float[Tensor, "batch time nodes 3"]:
    """Return the mask and the (log) numbers of steps to the observations before and after, the step's own left out."""
    time = observed.shape[1]
    steps = torch.arange(time, device=observed.device)[None, :, None]
    before, after = neighbours(observed)
    distances = [torch.log1p((d.clamp(max=time)).float()) / 2 for d in (steps - before, after - steps)]
    return torch.stack([observed.float(), *distances], dim=-1)
