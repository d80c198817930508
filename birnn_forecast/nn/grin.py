"""The graph recurrent imputation network: every component of the target is a node, with a recurrence of its own."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from birnn_forecast.masks import fill, first_step, neighbours, observed_mask
from birnn_forecast.nn.candidates import Candidates
from birnn_forecast.nn.cells import FeedbackGRIN
from birnn_forecast.nn.decoders import SKIPS, HorizonDecoder
from birnn_forecast.nn.mixing import MixingHead, least_absolute
from birnn_forecast.nn.networks import Encoding, Sizes, Window, fill_gaps, with_mask
from birnn_forecast.nn.node_encoder import StackedEncoder, is_large
from birnn_forecast.nn.node_graph import NodeGraph
from birnn_forecast.nn.normalization import ShrunkInstanceNorm
from birnn_forecast.nn.pooling import POOLINGS
from birnn_forecast.nn.recurrent import first_states, valid_steps

# where the sharpness of the graph's heads starts
SHARPNESS = {"distance": (16.0, 2.8)}
OTHER_SHARPNESS = (4.0, 2.0)
RECURRENCES = ("stacked", "feedback")
# with known correlations of few nodes, all of them together estimate each
LARGEST_KRIGING = 128
MIXTURE_VALUES_PER_CANDIDATE = 20
# few nodes, of which more is learnt one by one
FEW_NODES = 64


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
    estimates_some = False
    earlier_weight = 1.0
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
                    state_size,
                    features,
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
        first = first_states(rows[..., half:], start.repeat_interleave(nodes))
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
        states = encoding.states * encoding.valid[:, :, None]
        out = unfold(self.decoder(self.pooling(states, encoding.final, encoding.valid), states, future), nodes)
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
        assert self.candidates is not None
        assert self.encoder is not None
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
        inputs = torch.cat(features, dim=-1)
        states = self.encoder(inputs, context, start, self.graph)
        if self.step_head is None:
            return states, (base[..., None], None)
        read = (states, inputs, base, estimates.candidates)
        if is_large(inputs, states.shape[-1]):
            return states, (checkpoint(self.step_head, *read, use_reentrant=False), None)
        return states, (self.step_head(*read), None)

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


def gap_context(observed: Bool[Tensor, "batch time nodes"]) -> Float[Tensor, "batch time nodes 3"]:
    """Return the mask and the (log) numbers of steps to the observations before and after, the step's own left out."""
    time = observed.shape[1]
    steps = torch.arange(time, device=observed.device)[None, :, None]
    before, after = neighbours(observed)
    distances = [torch.log1p((d.clamp(max=time)).float()) / 2 for d in (steps - before, after - steps)]
    return torch.stack([observed.float(), *distances], dim=-1)
