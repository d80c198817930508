"""The graph recurrent imputation network."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import pandas as pd
import torch
from darts import TimeSeries
from darts.utils.data.torch_datasets.utils import TorchTrainingSample
from darts.utils.ts_utils import series2seq

from birnn_forecast.data.history import completed_moments
from birnn_forecast.data.weights import counted_values
from birnn_forecast.masks import level_and_scale
from birnn_forecast.models._base import GapAwareModel
from birnn_forecast.models._checks import check_choice, check_integer
from birnn_forecast.models._graphs import check_given_graph, given_graph
from birnn_forecast.models._module import GapAwareModule
from birnn_forecast.models._params import TorchModelParams
from birnn_forecast.nn.graph import MIN_SHARED_STEPS, distance_adjacency
from birnn_forecast.nn.grin import RECURRENCES

GRAPHS = ("distance", "correlation", "learned", None)
CROSS_GATES = ("none", "scalar", "vector")
COORDINATES = {"latitude": ("latitude", "lat"), "longitude": ("longitude", "lon", "lng", "long")}
# weights below which two places, or two components, have no edge; of few nodes, none is left out
THRESHOLD, FAINT = 0.1, 3e-4
FEW_NODES = 64
MESSAGE_SIZE, HEAD_SIZE = 16, 48


class GRINModel(GapAwareModel):
    """Graph Recurrent Imputation Network: nodes that send messages, read in two directions gated to each other.

    Every component of the target is a node. Two readings of one family: a *graph recurrent imputation network* [2]_
    (what is missing of a node is estimated from its past, its future, and its neighbours), and a *gated bidirectional
    recurrent network* (after each layer, a learnt gate decides what each direction takes from the other).
    ``graph=None`` leaves the second for any series; ``cross_gate="none"`` the first, with two directions that do not
    know of each other.

    Recurrences and heads are shared by all nodes; where nodes are few and differ in what they measure (any graph but
    "distance"), each also has maps of its own. It imputes, reconstructs and forecasts; series may have gaps: NaN in
    target or covariates is an ordinary input.

    Parameters
    ----------
    model
        The recurrent cell of ``recurrence="stacked"``: "RNN", "GRU" or "LSTM". Default: "GRU".
    graph
        Which components are neighbours: "distance" (of places, from the static covariates "latitude" and "longitude" in
        degrees; ``exp(-(d / sd)^2)`` of the great-circle distances), "correlation" (of the training series), "learned"
        (from embeddings), a matrix of weights ``(components, components)``, edges as a list of tuples
        ``(component, component[, weight])`` by name or number, or ``None`` for no messages. A matrix is an array or
        nested lists, in the order of the components, or a DataFrame: its rows and columns are found by the components'
        names, in whatever order they come (by position if they are numbered 0, 1, ...). Default: "correlation".
    recurrence
        "stacked": recurrent layers over all nodes at once, with messages between the layers; the estimate is linear
        interpolation plus a learnt mixture of what simpler estimates (season, neighbours, correlations) add to it, plus
        a correction. "feedback": the network of the paper [2]_, which feeds each step's estimates to the next step.
        Default: "stacked".
    cross_gate
        What decides how much each direction takes from the other: "none", one gate per direction and step ("scalar"),
        or one for each unit ("vector"). Default: "vector".
    node_embedding_dim
        Size of what is learnt of each component by itself. With 0 nothing is, and ``impute`` takes other components
        than those of training where ``graph="distance"`` says how they lie. Default: 6.
    hidden_dim
        Number of units of each recurrent layer, per direction. Default: 48.
    n_rnn_layers
        Number of recurrent layers. Default: 2.
    masking_rate
        As in the other models, but no input chunk stays whole. Default: 0.6.
    use_reversible_instance_norm
        Whether to normalise each input chunk by level and scale of its observed values, drawn towards those of the
        training data where they are few, and the result back. If a dictionary, its parameters:
        ``{"affine": bool, "eps": float, "prior": float}``, the last one the number of values that the training data
        count for. Default: ``True``.

    References
    ----------
    .. [1] T. Kim et al. "Reversible Instance Normalization for Accurate Time-Series Forecasting against
            Distribution Shift", ICLR 2022, https://openreview.net/forum?id=cGDAkQo1C0p
    .. [2] A. Cini, I. Marisca, C. Alippi, "Filling the G_ap_s: Multivariate Time Series Imputation by Graph Neural
            Networks", ICLR 2022, https://openreview.net/forum?id=kOu3-S3wJ7

    Examples
    --------
    >>> from birnn_forecast import GRINModel
    >>> model = GRINModel(72, 1, graph="correlation", season_length=24, n_epochs=20)
    >>> full = model.fit(series).impute()  # doctest: +SKIP
    """

    network = "nodes"
    norm_options = ("affine", "eps", "prior")

    def __init__(
        self,
        input_chunk_length: int | tuple[int, int],
        output_chunk_length: int,
        output_chunk_shift: int = 0,
        model: str = "GRU",
        graph: str | Sequence | np.ndarray | None = "correlation",
        recurrence: str = "stacked",
        cross_gate: str = "vector",
        node_embedding_dim: int = 6,
        hidden_dim: int = 48,
        n_rnn_layers: int = 2,
        hidden_fc_sizes: list[int] | None = None,
        dropout: float = 0.0,
        activation: str = "ReLU",
        pooling: str = "last",
        skip: str | None = "linear",
        season_length: int | Sequence[int] | str | None = "auto",
        masking_rate: float = 0.6,
        imputation_weight: float = 1.0,
        loss_scale: str | None = "window",
        decoder_dim: int = 16,
        use_static_covariates: bool = True,
        use_reversible_instance_norm: bool | dict[str, Any] = True,
        **kwargs: Unpack[TorchModelParams],
    ):
        super().__init__()
        self._nodes: Nodes | None = None
        self._components: list[Any] | None = None

    def _check_params(self, params: dict[str, Any]) -> None:
        super()._check_params(params)
        graph = params["graph"]
        if graph is None or isinstance(graph, str):
            check_choice("graph", graph, GRAPHS)
        elif not isinstance(params["graph"], Sequence | np.ndarray | pd.DataFrame | torch.Tensor):
            raise ValueError(
                f"`graph` must be one of {', '.join(map(repr, GRAPHS))}, a matrix or a list of edges, "
                f"got {params['graph']!r}."
            )
        else:
            check_given_graph(graph)
        check_choice("recurrence", params["recurrence"], RECURRENCES)
        check_choice("cross_gate", params["cross_gate"], CROSS_GATES)
        check_integer("node_embedding_dim", params["node_embedding_dim"], minimum=0)
        if isinstance(graph, str) and graph == "learned" and params["node_embedding_dim"] == 0:
            raise ValueError("`node_embedding_dim` must be > 0 with `graph='learned'`, which is made of embeddings.")

    @property
    def _fills_dead(self) -> bool:
        # where a place lies says who its neighbours are, even if it has never shown a value
        return self._graph_kind == "distance"

    @property
    def _graph_kind(self) -> str | None:
        graph = self.model_params["graph"]
        return graph if graph is None or isinstance(graph, str) else "given"

    def _network_params(self) -> dict[str, Any]:
        params = self.model_params
        return {
            "graph": self._graph_kind,
            "recurrence": params["recurrence"],
            "cell": params["model"],
            "hidden_size": params["hidden_dim"],
            "num_layers": params["n_rnn_layers"],
            "cross_gate": params["cross_gate"],
            "embedding_size": params["node_embedding_dim"],
            "message_size": MESSAGE_SIZE,
            "head_size": HEAD_SIZE,
            "dropout": params["dropout"],
            "pooling": params["pooling"],
            "skip": params["skip"],
            "season_length": self._window_season,
            "decoder_params": self._decoder_params(),
        }

    def _setup_for_fit_from_dataset(self, series, *args, **kwargs):
        first = series2seq(series)[0]
        if self._graph_kind == "distance":
            found = _coordinates(first)
            if first.static_covariates.shape[1] == len(found):  # nothing else: they are no features
                self._considers_static_covariates = False
        return super()._setup_for_fit_from_dataset(series, *args, **kwargs)

    def _setup_for_train(self, train_dataset, *args, **kwargs):
        if self.model is None:
            self._nodes = self._describe_nodes(
                getattr(train_dataset, "series", None), getattr(train_dataset, "sample_weight", None)
            )
        return super()._setup_for_train(train_dataset, *args, **kwargs)

    def _create_model(self, train_sample: TorchTrainingSample) -> GapAwareModule:
        module = super()._create_model(train_sample)
        if self._nodes is not None:  # else the weights to be loaded bring all that
            self._nodes.put_into(module)
            self._nodes = None
        return module

    def _describe_nodes(
        self, series: Sequence[TimeSeries] | None, weights: Sequence[TimeSeries] | None = None
    ) -> "Nodes":
        """Return what the training series say of the components."""
        if not series:
            raise ValueError(
                "A dataset that GRINModel is fitted on must have its series in the attribute `series`, as Darts' own "
                "have: levels, scales and the graph are read off them."
            )
        each = [counted_values(one, None if weights is None else weights[i]) for i, one in enumerate(series)]
        if len(each) == 1:
            found = completed_moments(each[0])
            mean = torch.as_tensor(np.nan_to_num(found.mean))
            scale = torch.as_tensor(np.where(found.scale > 0, found.scale, 1.0))
        else:
            mean, scale = level_and_scale(np.concatenate(each).astype(np.float64))
        n = series[0].n_components
        adjacency, correlation = torch.zeros(n, n), torch.eye(n)
        kind, graph = self._graph_kind, self.model_params["graph"]
        threshold = FAINT if n <= FEW_NODES else THRESHOLD
        if kind == "distance":
            adjacency = self._distances(series[0])
        elif kind == "correlation":
            correlation = pairwise_correlation(np.concatenate([standardised(values) for values in each]))
            adjacency = correlation.abs().clamp(min=FAINT if n <= FEW_NODES else 0)
            adjacency = torch.where(adjacency >= threshold, adjacency, 0.0).fill_diagonal_(0.0)
        elif kind == "given":
            adjacency = given_graph(graph, series[0].components)
        self._components = self._names_and_places(series[0])
        if kind is not None and any(self._names_and_places(one) != self._components for one in series):
            raise ValueError(
                "All of `series` must have the same components, at the same places, to share a graph: fit with "
                "`graph=None`, or a model for each."
            )
        return Nodes(mean, scale, adjacency, correlation, len(each) == 1)

    def _distances(self, series: TimeSeries) -> torch.Tensor:
        places = _coordinates(series)
        threshold = THRESHOLD
        if self.model_params["recurrence"] == "stacked" and series.n_components <= FEW_NODES:
            threshold = FAINT
        return distance_adjacency(places["latitude"], places["longitude"], threshold)

    def _names_and_places(self, series: TimeSeries) -> list[Any]:
        """Return what tells the components from others."""
        names: list[Any] = [str(name) for name in series.components]
        if self._graph_kind == "distance":
            names += [place.tolist() for place in _coordinates(series).values()]
        return names

    @property
    def _ckpt_skipped_params(self) -> list[str]:
        # a matrix cannot be compared by `!=`; the graph comes with the weights
        return [*super()._ckpt_skipped_params, "graph"]

    @property
    def _takes_other_components(self) -> bool:
        norm = self.model_params["use_reversible_instance_norm"]
        learnt_one_by_one = isinstance(norm, dict) and norm.get("affine", False)
        return self.model_params["node_embedding_dim"] == 0 and self._graph_kind == "distance" and not learnt_one_by_one

    def _check_components(self, series: TimeSeries) -> None:
        if not self._takes_other_components:
            super()._check_components(series)

    def _static_values(self, series: TimeSeries, shape: tuple[int, ...] | None) -> np.ndarray | None:
        if shape is not None and self._takes_other_components:
            shape = (series.n_components, shape[1])
        return super()._static_values(series, shape)

    def _estimates(self, targets, sources, stride, batch_size, verbose):
        if not self._takes_other_components:
            return super()._estimates(targets, sources, stride, batch_size, verbose)
        out = []
        for one, source in zip(targets, sources, strict=True):
            module = self._module_for(one)
            out += self._run_module(module, [source], stride, batch_size, verbose)
        return out

    def _module_for(self, series: TimeSeries) -> GapAwareModule:
        """Return the module with the graph of the series' components, itself if they are those of training."""
        if self._names_and_places(series) == self._components:
            return self.model
        trainer, self.model._trainer = self.model._trainer, None
        try:
            module = copy.deepcopy(self.model)  # without what the trainer holds
        finally:
            self.model._trainer = trainer
        n = series.n_components
        level, scale = torch.zeros(n), torch.ones(n)
        if module.rin is not None:
            # what those of training have in common stands in for a series that shows nothing at all
            known = module.rin.typical_mean.flatten().double().cpu(), module.rin.typical_scale.flatten().double().cpu()
            level = known[0].mean().expand(n)
            scale = (known[1].square().mean() + known[0].var(correction=0)).sqrt().expand(n)
        Nodes(level, scale, self._distances(series), torch.eye(n), False).put_into(module)
        return module


@dataclass
class Nodes:
    """Level, scale and edges of the components."""

    mean: torch.Tensor
    scale: torch.Tensor
    adjacency: torch.Tensor
    correlation: torch.Tensor
    shared: bool

    def put_into(self, module: GapAwareModule) -> None:
        """Set the module's buffers."""
        network: Any = module.network
        if module.rin is not None:
            module.rin.put(self.mean, self.scale, self.shared)
        if network.graph is not None:
            network.graph.put(self.adjacency, self.correlation)


def standardised(values: np.ndarray) -> np.ndarray:
    """Return ``(time, components)`` in units of the series: those of several series may differ."""
    found = completed_moments(values)
    return (values - found.mean) / np.where(found.scale > 0, found.scale, 1.0)


def pairwise_correlation(values: np.ndarray) -> torch.Tensor:
    """Return the correlations of the columns over the rows where both are observed, 0 where there are too few."""
    with np.errstate(invalid="ignore", divide="ignore"):
        table = pd.DataFrame(values).corr(min_periods=MIN_SHARED_STEPS).fillna(0.0).to_numpy(copy=True)
    np.fill_diagonal(table, 1.0)
    # pairs that saw different steps may contradict each other: the nearest matrix that a distribution can have
    values, vectors = np.linalg.eigh(table)
    table = (vectors * np.maximum(values, 1e-6)) @ vectors.T
    scale = np.sqrt(np.diag(table))
    return torch.as_tensor(table / np.outer(scale, scale), dtype=torch.float32)


def _coordinates(series: TimeSeries) -> dict[str, np.ndarray]:
    """Return latitude and longitude of the components, in degrees."""
    table = series.static_covariates
    found = {}
    for name, columns in COORDINATES.items():
        matches = [column for column in ([] if table is None else table.columns) if str(column).lower() in columns]
        if not matches:
            raise ValueError(
                "`graph='distance'` needs the components' coordinates as static covariates 'latitude' and 'longitude', "
                f"in degrees, but there is no {name!r}: add them with `series.with_static_covariates(table)`."
            )
        if len(table) != series.n_components:
            raise ValueError(
                f"`graph='distance'` needs the coordinates of each of the {series.n_components} components, got "
                f"{len(table)} row of static covariates."
            )
        found[name] = table[matches[0]].to_numpy(dtype=float)
    return found
