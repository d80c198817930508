"""Graphs from whatever a user has, messages that matter, gates between the directions, and other components."""

import copy
import pickle
import re

import numpy as np
import pandas as pd
import pytest
import torch
from darts import TimeSeries
from darts.utils.data.torch_datasets.training_dataset import TorchTrainingDataset
from darts.utils.data.torch_datasets.utils import PLModuleInput
from darts.utils.likelihood_models import QuantileRegression
from hypothesis import example, given, settings
from hypothesis import strategies as st

from birnn_forecast import GRINModel
from birnn_forecast.losses import masked_loss
from birnn_forecast.models._graphs import given_graph
from birnn_forecast.models._module import GapAwareModule
from birnn_forecast.nn.graph import distance_adjacency
from birnn_forecast.nn.grin import StackedEncoder
from birnn_forecast.nn.node_graph import EdgeWeights, Exchange, NodeGraph, send
from tests.conftest import make_model, make_series
from tests.models.contract_helpers import add, assert_finite_weights, assert_same, change, differs, fitted

recurrences = pytest.mark.parametrize("recurrence", ["stacked", "feedback"])
# of the gates between the directions, not those of a cell
GATE = re.compile(r"encoder\.gates|cross_gate")
gates = pytest.mark.parametrize("kind", ["scalar", "vector"])

# four stations: two near each other, one further off, one on the other side of the globe
PLACES = pd.DataFrame({"latitude": [48.1, 48.2, 49.0, -33.9], "longitude": [11.5, 11.6, 12.0, 151.2]}, dtype=np.float32)
MATRIX = [[0, 1.0, 0.5, 0], [1.0, 0, 0, 0], [0.5, 0, 0, 2.0], [0, 0, 2.0, 0]]


def gappy(components=4, length=60, seed=1, missing=0.2, dtype=np.float32) -> TimeSeries:
    series = make_series(length, components, seed, missing, dtype)
    return series.with_columns_renamed(list(series.components), [f"s{i}" for i in range(components)])


def placed(series: TimeSeries, places: pd.DataFrame = PLACES) -> TimeSeries:
    return series.with_static_covariates(places.iloc[: series.n_components].reset_index(drop=True))


def grin(series: TimeSeries, fit=None, **kwargs) -> GRINModel:
    return fitted(GRINModel, series, fit, **kwargs)


def adjacency_of(model: GRINModel) -> torch.Tensor:
    return model.model.network.graph().detach()


# Where the edges come from


def test_graph_of_distances():
    series = placed(gappy())
    model = grin(series, graph="distance")
    expected = distance_adjacency(PLACES["latitude"], PLACES["longitude"], threshold=0.0)
    actual = adjacency_of(model)
    assert (actual[expected > 0.01] == expected[expected > 0.01]).all()
    assert actual[0, 1] > actual[0, 2] > 0.5
    assert actual[0, 3] < 0.02
    assert (actual.diagonal() == 0).all()
    # by other names as well
    for names in (["lat", "lon"], ["Latitude", "lng"], ["LAT", "Long"]):
        renamed = PLACES.set_axis(names, axis=1)
        assert torch.equal(adjacency_of(grin(placed(gappy(), renamed), graph="distance")), actual)


def test_graph_of_distances_needs_coordinates():
    series = gappy()
    cases = [
        ("needs the components' coordinates as static covariates .* there is no 'latitude'", series),
        ("there is no 'longitude'", placed(series, PLACES[["latitude"]])),
        ("needs the coordinates of each of the 4 components, got 1 row", series.with_static_covariates(PLACES[:1])),
        ("`latitude` must be given for every node in degrees", placed(series, PLACES * np.array([3, 1]))),
        ("`longitude` must be given for every node", placed(series, PLACES.where(PLACES < 100))),
    ]
    for message, wrong in cases:
        with pytest.raises(ValueError, match=message):
            grin(wrong, graph="distance")


def test_graph_of_correlations():
    # the first two go together, the third against them, the last on its own
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=(200, 1)), rng.normal(size=(200, 4))
    values = common * np.array([1, 1, -1, 0]) + 0.3 * own
    values[rng.random(values.shape) < 0.2] = np.nan
    series = TimeSeries.from_values(values.astype(np.float32))
    model = grin(series, graph="correlation", n_epochs=1)
    expected = pd.DataFrame(values).corr().to_numpy()
    weights = adjacency_of(model).numpy()
    assert weights[0, 1] > 0.8
    assert weights[0, 2] > 0.8  # those that go against each other tell as much
    assert weights[0, 3] < 0.3
    np.testing.assert_allclose(model.model.network.graph.correlation, expected, atol=1e-4)
    # of all series, those without weight left out
    several = grin([series[:100], series[100:] * 1000 + 7], graph="correlation")  # each in its own unit
    np.testing.assert_allclose(several.model.network.graph.correlation, expected, atol=0.02)
    spoilt = series.append_values(rng.normal(size=(100, 4)).astype(np.float32) * 50)
    weight = TimeSeries.from_values((np.arange(300) < 200).astype(np.float32))
    weighed = grin(spoilt, {"sample_weight": weight}, graph="correlation")
    np.testing.assert_allclose(weighed.model.network.graph.correlation, expected, atol=1e-4)


def test_graph_that_is_learned():
    model = grin(gappy(), graph="learned")
    learned = adjacency_of(model)
    assert ((learned > 0) == ~torch.eye(4, dtype=torch.bool)).all()
    before = make_model(GRINModel, graph="learned", optimizer_kwargs={"lr": 0.0}).fit(gappy())
    assert not torch.allclose(adjacency_of(before), learned)


GIVEN = {
    "array": np.array(MATRIX),
    "float32": np.array(MATRIX, dtype=np.float32),
    "lists": MATRIX,
    "frame": pd.DataFrame(MATRIX),
    "tensor": torch.tensor(MATRIX),
    "edges by number": [(0, 1), (0, 2, 0.5), (3, 2, 2.0)],
    "edges by name": [("s0", "s1"), ("s2", "s0", 0.5), ("s3", "s2", 2)],
    "both": [("s0", 1), (2, "s0", 0.5), (3, "s2", 2)],
}


def labelled(*names) -> pd.DataFrame:
    size = len(names)
    return pd.DataFrame(np.array(MATRIX)[:size, :size], index=names, columns=names)


HALF = pd.DataFrame(np.zeros((2, 2)), index=["s0", "s1"], columns=["s0", 1])


@pytest.mark.parametrize("graph", GIVEN.values(), ids=GIVEN.keys())
def test_graph_that_is_given(graph):
    model = grin(gappy(), graph=graph)
    assert adjacency_of(model).tolist() == MATRIX
    assert np.isfinite(model.impute().values()).all()
    assert np.isfinite(model.predict(5).values()).all()


@pytest.mark.parametrize(
    ("message", "graph"),
    [
        ("`graph` must be one of 'distance', 'correlation', 'learned', None, got 'nearest'", "nearest"),
        ("`graph` must be a square matrix .* each of the 4 components, got shape", np.eye(3)),
        ("`graph` must be a square matrix", [[0, 1], [1, 0]]),
        ("`graph` must be a matrix, or a list of edges", []),
        ("`graph` must be finite", np.full((4, 4), np.nan)),
        ("`graph` must be non-negative", -np.ones((4, 4))),
        ("`graph` must name components of the series .*, got 'x'", [("s0", "x")]),
        ("`graph` must name nodes by their numbers from 0 to 3", [(0, 4)]),
        ("`graph` must hold each edge once", [(0, 1), ("s0", "s1")]),
        (r"`graph` must have edges \(component, component\[, weight\]\)", [(0, 1, 2, 3)]),
        (r"`graph` must have edges \(component, component\[, weight\]\)", [(0,)]),
        ("`graph` must have finite weights, none negative, got the edge", [(0, 1, -1.0)]),
        ("`graph` must have finite weights, none negative, got the edge", [(0, 1, float("nan"))]),
        ("`graph` must have finite weights, none negative, got the edge", [(0, 1, "near")]),
        ("`graph` must be a matrix of numbers", [[0, 1], [1]]),
        ("`graph` must be a matrix of numbers", pd.DataFrame([["a"]])),
        (
            r"`graph` must have the components of the series \(s0, s1, s2, s3\) as labels .*, got p, q, r, s:",
            labelled("p", "q", "r", "s"),
        ),
        (r"`graph` must have the components of the series .*, got s0, s1, s2:", labelled("s0", "s1", "s2")),
        (r"`graph` must have the components of the series .*, got 1, 2, 3, 4:", labelled(1, 2, 3, 4)),
        ("`graph` must have the same labels in rows and columns, got s0, s1 in its rows and s0, 1 in its", HALF),
        ("`graph` must have each label once, got s0 more often in its rows", labelled("s0", "s0", "s1", "s2")),
    ],
)
def test_graph_that_is_none(message, graph):
    with pytest.raises(ValueError, match=message):
        grin(gappy(), graph=graph)


@pytest.mark.parametrize(
    "graph",
    [
        np.zeros((2, 3)),
        np.zeros(4),
        np.float64(1),
        -np.eye(3),
        [[0, np.inf], [1, 0]],
        [(0,)],
        [(0, 1, -2)],
        HALF,
        labelled("a", "a"),
        pd.DataFrame(np.zeros((2, 3))),
    ],
    ids=str,
)
def test_what_is_no_graph_of_any_components_is_refused_at_once(graph):
    with pytest.raises(ValueError, match="`graph` must"):
        make_model(GRINModel, graph=graph)


@settings(max_examples=60)
@given(
    names=st.lists(st.one_of(st.integers(-3, 12), st.sampled_from("abcdefgh")), min_size=1, max_size=5, unique_by=str),
    as_text=st.booleans(),
    data=st.data(),
)
@example(names=["s0", "s1"], as_text=True, data=None)
@example(names=[1, 2, 3], as_text=False, data=None)
@example(names=[2, 0, 1], as_text=False, data=None)
def test_labels_of_a_graph_are_read_in_any_order(names, as_text, data):
    """Names of any type in rows and columns, each in an order of its own; edges by name."""
    n = len(names)
    orders = [data.draw(st.permutations(range(n))) if data else [*range(n)][::-1] for _ in range(2)]
    weights = np.random.default_rng(n).random((n, n)) * (1 - np.eye(n))
    labels = [str(name) for name in names] if as_text else names
    table = pd.DataFrame(weights, index=labels, columns=labels).iloc[orders[0], orders[1]]
    components = TimeSeries.from_values(np.zeros((3, n)), columns=names).components
    default = [*table.index] == [*table.columns] == [*range(n)] and not as_text
    expected = table.to_numpy() if default else weights
    torch.testing.assert_close(given_graph(table, components), torch.tensor(expected, dtype=torch.float32))
    edges = [(labels[i], labels[j], weights[i, j]) for i in orders[0] for j in orders[1] if i < j]
    if edges:
        upper = np.triu(weights)
        expected = torch.tensor(upper + upper.T, dtype=torch.float32)
        torch.testing.assert_close(given_graph(edges, components), expected)


def test_numbers_as_labels_are_positions():
    values = np.array(MATRIX)
    expected = torch.tensor(MATRIX)
    table = pd.DataFrame(values)
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        assert torch.equal(given_graph(table.iloc[order, order[::-1]], ["n", "s", "e", "w"]), expected)
        assert torch.equal(given_graph(table.iloc[order, order], ["0", "1", "2", "3"]), expected)
    # labels that pandas made say nothing of components that happen to be called by numbers in another order
    assert torch.equal(given_graph(table, ["3", "1", "0", "2"]), expected)


def test_a_labelled_graph_finds_its_components():
    table = labelled("s0", "s1", "s2", "s3")
    order = ["s2", "s0", "s3", "s1"]
    model = grin(gappy(), graph=table.loc[order, order[::-1]])
    assert adjacency_of(model).tolist() == MATRIX
    assert_same(model.impute(), grin(gappy(), graph=table).impute())


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("`recurrence` must be one of 'stacked', 'feedback', got 'fed'", {"recurrence": "fed"}),
        ("`cross_gate` must be one of 'none', 'scalar', 'vector', got None", {"cross_gate": None}),
        ("`node_embedding_dim` must be an integer >= 0, got -1", {"node_embedding_dim": -1}),
        ("`node_embedding_dim` must be > 0 with `graph='learned'`", {"node_embedding_dim": 0, "graph": "learned"}),
    ],
)
def test_other_options_that_do_not_fit(message, options):
    with pytest.raises(ValueError, match=message):
        make_model(GRINModel, **options)


@recurrences
@pytest.mark.parametrize("graph", ["distance", "correlation", "learned", None, [[0]]], ids=str)
def test_one_component_has_no_neighbours(recurrence, graph):
    series = placed(gappy(1))
    model = grin(series, graph=graph, recurrence=recurrence)
    assert model.model.network.graph is None
    assert np.isfinite(model.impute().values()).all()
    assert np.isfinite(model.reconstruct().values()).all()
    assert np.isfinite(model.predict(5).values()).all()


def test_components_that_tell_nothing():
    # constant, empty, and seen too seldom for a correlation
    values = gappy(5).values()
    values[:, 1], values[:, 2], values[5:, 3] = 7.0, np.nan, np.nan
    values[::5, 1] = np.nan
    for options in ({}, {"recurrence": "feedback"}, {"graph": "learned"}):
        model = grin(TimeSeries.from_values(values), **options)
        assert_finite_weights(model)
        with pytest.warns(UserWarning, match="as NaN: '2'"):
            full = model.impute().values()
        assert np.isnan(full[:, 2]).all()
        assert np.isfinite(np.delete(full, 2, axis=1)).all()
        np.testing.assert_allclose(full[:, 1], 7, rtol=1e-5)
        assert np.abs(full[:, 0] - 100).max() < 60


# Messages


@recurrences
@pytest.mark.parametrize("graph", ["correlation", "learned", [("s0", "s1"), ("s2", "s3")]], ids=str)
def test_a_neighbour_has_a_say(recurrence, graph):
    series = gappy()
    model = grin(series, graph=graph, recurrence=recurrence)
    missing = np.isnan(series.values()[:, 0])
    full, other = (
        model.impute(s, calibrate=False).values()[missing, 0] for s in (series, add(series, (slice(None), 1), 5.0))
    )
    assert np.abs(full - other).max() > 1e-4
    # who is connected with none is heard by none (only correlations know of all)
    if isinstance(graph, list) and recurrence == "stacked":
        other = model.impute(add(series, (slice(None), [2, 3]), 5.0), calibrate=False).values()[missing, 0]
        np.testing.assert_allclose(other, full, rtol=1e-6)


@recurrences
@pytest.mark.parametrize("norm", [True, False])
def test_without_a_graph_each_component_is_on_its_own(recurrence, norm):
    series = gappy(3)
    model = grin(
        series, graph=None, recurrence=recurrence, use_reversible_instance_norm=norm, season_length=12, n_epochs=2
    )
    series = gappy(3, 200, missing=0.4)  # of a long one, `impute` measures how far to trust the model
    changed = add(series, (slice(None), [1, 2]), np.linspace(-50, 50, 400, dtype=np.float32).reshape(200, 2))
    for call in (model.impute, model.reconstruct, lambda s: model._impute_forward(s)[0], lambda s: model.predict(4, s)):
        one, other = call(series).values()[:, 0], call(changed).values()[:, 0]
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_large_graphs_are_sent_over_edge_by_edge():
    rng = np.random.default_rng(0)
    dense = torch.zeros(300, 300)
    for i, j in rng.integers(300, size=(900, 2)):
        if i != j:
            dense[i, j] = dense[j, i] = float(rng.uniform(0.1, 1))
    weights = EdgeWeights((4.0, 2.0), None)
    sparse = weights(dense)
    # the same as what a learnt graph, dense always, gives
    full = weights(dense.clone().requires_grad_())
    x = torch.randn(2, 3, 300, 5)
    for one, other in zip(sparse, full, strict=True):
        assert one.is_sparse
        assert not other.is_sparse
        assert torch.allclose(one.to_dense(), other, atol=1e-6)
        assert torch.allclose(send(one, x), send(other, x), atol=1e-5)
        by_hand = torch.einsum("ij,btjf->btif", other, x)
        assert torch.allclose(send(one, x), by_hand, atol=1e-5)
    exchange = Exchange(5, 4, (4.0, 2.0), None)
    outputs = [exchange(x, graph) for graph in (dense, dense.clone().requires_grad_())]
    assert torch.allclose(*outputs, atol=1e-5)
    gradients = [torch.autograd.grad(out.square().sum(), exchange.parameters()) for out in outputs]
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("node_embedding_dim", [0, 3])
def test_many_components(node_embedding_dim):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 300)).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = np.nan
    edges = [(i, i + 1) for i in range(299)]
    options = {"graph": edges, "node_embedding_dim": node_embedding_dim, "masking_rate": 0.3}
    model = grin(TimeSeries.from_values(values), **options)
    full = model.impute()
    assert np.isfinite(full.values()).all()
    assert (full.values()[~np.isnan(values)] == values[~np.isnan(values)]).all()


# Directions


def encoder(kind: str) -> tuple[StackedEncoder, NodeGraph]:
    torch.manual_seed(0)
    graph = NodeGraph(3)
    graph.put(torch.ones(3, 3) - torch.eye(3))
    sizes = {"input_size": 2, "hidden_size": 4, "num_layers": 2, "message_size": 3, "n_nodes": 3}
    return StackedEncoder(cell="GRU", cross_gate=kind, sharpness=(1.0,), own_maps=False, **sizes), graph


def states_of(net: StackedEncoder, graph: NodeGraph, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    context = torch.zeros(*x.shape[:3], 3)
    return net(x, context, torch.zeros(len(x), dtype=torch.long), graph).chunk(2, dim=-1)


def test_without_gates_the_directions_do_not_know_of_each_other():
    net, graph = encoder("none")
    x = torch.randn(2, 9, 3, 2)
    later, earlier = x.clone(), x.clone()
    later[:, 5:] += 1
    earlier[:, :4] += 1
    f, b = states_of(net, graph, x)
    assert torch.equal(states_of(net, graph, later)[0][:, :5], f[:, :5])
    assert not torch.allclose(states_of(net, graph, later)[0][:, 5:], f[:, 5:])
    assert torch.equal(states_of(net, graph, earlier)[1][:, 4:], b[:, 4:])
    assert not torch.allclose(states_of(net, graph, earlier)[1][:, :4], b[:, :4])
    # only messages of the same direction pass between nodes
    assert not torch.allclose(states_of(net, graph, x + torch.tensor([0.0, 0, 1])[:, None])[0][:, :, 0], f[:, :, 0])


@gates
def test_gates_let_the_other_direction_through(kind):
    net, graph = encoder(kind)
    x = torch.randn(2, 9, 3, 2)
    later, earlier = x.clone(), x.clone()
    later[:, 5:] += 1
    earlier[:, :4] += 1
    f, b = states_of(net, graph, x)
    assert (states_of(net, graph, later)[0][:, :5] - f[:, :5]).abs().amax(dim=(0, 2, 3)).min() > 1e-6
    assert (states_of(net, graph, earlier)[1][:, 4:] - b[:, 4:]).abs().amax(dim=(0, 2, 3)).min() > 1e-6


@recurrences
@gates
def test_closed_gates_are_two_separate_networks(recurrence, kind):
    series = gappy()
    gated = grin(series, cross_gate=kind, recurrence=recurrence)
    separate = grin(series, cross_gate="none", recurrence=recurrence)
    weights = gated.model.state_dict()
    names = [name for name in weights if GATE.search(name)]
    assert names
    missing, unexpected = separate.model.load_state_dict({n: w for n, w in weights.items() if n not in names})
    assert not missing
    assert not unexpected
    assert differs(gated.impute(series, calibrate=False), separate.impute(series, calibrate=False), by=1e-5)
    for name, parameter in gated.model.named_parameters():
        if name in names and name.endswith("bias"):
            parameter.data.fill_(-1e9)
    for call in ("impute", "reconstruct"):
        assert_same(getattr(gated, call)(series), getattr(separate, call)(series), rtol=0)
    assert_same(gated.predict(4), separate.predict(4), rtol=0)


@recurrences
@gates
def test_gates_cost_nothing_but_their_own_weights(recurrence, kind):
    counts = []
    for gate in ("none", kind):
        model = grin(gappy(), cross_gate=gate, recurrence=recurrence)
        counts.append({n: p.numel() for n, p in model.model.named_parameters()})
    assert {name for name in counts[1] if name not in counts[0]} == {name for name in counts[1] if GATE.search(name)}
    assert {name: counts[1][name] for name in counts[0]} == counts[0]


@recurrences
@pytest.mark.parametrize("likelihood", [None, QuantileRegression([0.1, 0.5, 0.9])], ids=["values", "quantiles"])
def test_every_parameter_is_learnt(recurrence, likelihood):
    covariates = make_series(80, 1, seed=5).map(lambda x: (x - 100) / 10)
    names = {}

    def remember(module, *args):
        for name, parameter in module.named_parameters():
            reached = parameter.grad is not None and bool((parameter.grad != 0).any())
            names[name] = names.get(name, False) or reached

    for graph in ("correlation", "learned"):
        options = {"recurrence": recurrence, "graph": graph, "season_length": 12, "hidden_fc_sizes": [3]}
        model = make_model(GRINModel, n_epochs=2, activation="Tanh", likelihood=likelihood, **options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GapAwareModule, "on_after_backward", remember, raising=False)
            model.fit(placed(gappy()), past_covariates=covariates, future_covariates=covariates)
    assert len(names) > 20
    assert not [name for name, reached in names.items() if not reached]


@pytest.mark.parametrize(("recurrence", "everything"), [("feedback", True), ("stacked", False)])
def test_feedback_learns_from_every_observed_value(recurrence, everything, monkeypatch):
    # its estimate of a value does not know that value; of the other network only hidden ones are labels
    labels = []
    monkeypatch.setattr(
        "birnn_forecast.models._module.masked_loss",
        lambda *args: labels.append(args[1]) or masked_loss(*args),
    )
    series = gappy(2, 28)
    model = grin(series, recurrence=recurrence, batch_size=100, masking_rate=0.3)
    assert model.model.network.sees_own_values is not everything
    seen = torch.cat([~one.isnan() for one in labels if one.shape[1] == 12])[:13]
    observed = ~torch.tensor(series.values()).isnan().unfold(0, 12, 1)[:13].transpose(1, 2)
    shares = sorted(seen.float().mean(dim=(1, 2)).tolist()), sorted(observed.float().mean(dim=(1, 2)).tolist())
    if everything:
        assert shares[0] == pytest.approx(shares[1])
    else:
        assert 0 < sum(shares[0]) < 0.8 * sum(shares[1])
    assert_finite_weights(model)


def test_feedback_does_not_know_the_value_it_estimates():
    # even where it is visible
    series = gappy(2, 12, missing=0.0)
    model = grin(gappy(2), recurrence="feedback", use_reversible_instance_norm=False)
    module = copy.deepcopy(model.model).eval()
    x = torch.tensor(series.values())[None].requires_grad_()
    estimate = module.estimate(PLModuleInput(past_target=x), torch.ones_like(x, dtype=torch.bool))
    for t, i in ((0, 0), (5, 1), (11, 0)):
        (gradient,) = torch.autograd.grad(estimate[0, t, i, 0], x, retain_graph=True)
        assert gradient[0, t, i] == 0
        assert (gradient != 0).any()


# Other components


@pytest.fixture(scope="module")
def traveller() -> GRINModel:
    """A model that learnt nothing of single components."""
    return grin(placed(gappy()), graph="distance", node_embedding_dim=0)


NEW = pd.DataFrame(
    {"latitude": [40.0, 40.1, 41.0, 40.5, 39.0, 40.2], "longitude": [-3.0, -3.1, -4.0, -3.3, -3.2, -2.9]},
    dtype=np.float32,
)


@pytest.mark.parametrize("components", [1, 3, 4, 6])
def test_other_components_are_imputed(traveller, components):
    series = placed(gappy(components, 50, seed=3, missing=0.3), NEW)
    series = series.with_columns_renamed(list(series.components), [f"new{i}" for i in range(components)])
    for full in (traveller.impute(series), *traveller.impute([series, placed(gappy())])[:1]):
        known = ~np.isnan(series.values())
        assert np.isfinite(full.values()).all()
        assert (full.values()[known] == series.values()[known]).all()
        assert np.abs(full.values() - 100).max() < 60
        assert list(full.components) == list(series.components)
        assert full.static_covariates.equals(series.static_covariates)
    assert np.isfinite(traveller.reconstruct(series).values()).all()
    assert np.isfinite(traveller._impute_forward(series)[0].values()).all()
    # the model itself is still that of its own components
    assert traveller.model.n_targets == 4
    assert len(adjacency_of(traveller)) == 4


@recurrences
@pytest.mark.parametrize("norm", [False, {"eps": 1e-3}, {"prior": 2.0}], ids=str)
def test_other_components_and_other_networks(recurrence, norm):
    options = {"recurrence": recurrence, "use_reversible_instance_norm": norm}
    model = grin(placed(gappy()), graph="distance", node_embedding_dim=0, **options)
    series = placed(gappy(6, 50, seed=3, missing=0.3), NEW)
    assert np.isfinite(model.impute(series).values()).all()
    # trained on one component, there was no neighbour to hear from
    model = grin(placed(gappy(1)), graph="distance", node_embedding_dim=0, **options)
    assert np.isfinite(model.impute(series).values()).all()


def test_other_components_and_an_empty_one(traveller):
    series = placed(gappy(3, 50, seed=3), NEW)
    series = series.with_columns_renamed(list(series.components), ["a", "b", "c"])
    for empty in (change(series, (slice(None), 1), np.nan), change(series, slice(None), np.nan)):
        with pytest.warns(UserWarning, match="from the other components alone: 'b'|'a', 'b', 'c'"):
            full = traveller.impute(empty).values()
        assert np.isfinite(full).all()
        assert np.abs(full - 100).max() < 60


def test_other_components_at_another_level(traveller):
    # levels and scales are those of the components themselves
    series = placed(gappy(4, 60, seed=3), PLACES)
    other = (series.map(lambda x: (x - 100) * 1000)).with_columns_renamed(
        list(series.components), [f"new{i}" for i in range(4)]
    )
    full = traveller.impute(other).values()
    assert np.abs(full).max() < 60_000


def test_order_of_components_is_of_no_consequence(traveller):
    series = placed(gappy(4, 40, seed=3, missing=0.3))
    order = [2, 0, 3, 1]
    names = [f"s{i}" for i in order]
    shuffled = TimeSeries(
        series.time_index,
        series.values()[:, order],
        components=names,
        static_covariates=PLACES.iloc[order].reset_index(drop=True),
    )
    renamed = series.with_columns_renamed(list(series.components), [f"x{i}" for i in range(4)])
    renamed_shuffled = shuffled.with_columns_renamed(names, [f"x{i}" for i in order])
    one, other = (traveller.impute(s).values() for s in (renamed, renamed_shuffled))
    np.testing.assert_allclose(other, one[:, order], rtol=1e-4)
    one, other = (traveller.reconstruct(s, n_passes=2).values() for s in (renamed, renamed_shuffled))
    np.testing.assert_allclose(other.shape, one.shape)


def test_no_reconstruction_of_other_components_knows_its_own_value(traveller):
    series = placed(gappy(3, 40, seed=3), NEW)
    series = series.with_columns_renamed(list(series.components), ["a", "b", "c"])
    plain = traveller.reconstruct(series).values()
    for at in map(tuple, np.argwhere(~np.isnan(series.values()))[[0, 30, -1]]):
        other = traveller.reconstruct(add(series, at, 7.0)).values()
        assert other[at] == plain[at]
        assert np.abs(other - plain).max() > 0.01


def test_forward_fill_of_other_components_knows_nothing_of_what_comes(traveller):
    series = placed(gappy(3, 40, seed=3), NEW)
    series = series.with_columns_renamed(list(series.components), ["a", "b", "c"])
    one, other = (traveller._impute_forward(s)[0].values() for s in (series, add(series, slice(30, None), 50.0)))
    np.testing.assert_allclose(one[:30], other[:30], rtol=1e-5)


def test_others_are_refused_where_components_are_known(traveller):
    with pytest.raises(ValueError, match=r"components|dimension"):
        traveller.predict(4, placed(gappy(3)))
    with pytest.raises(ValueError, match="needs the components' coordinates"):
        traveller.impute(gappy(3))
    for options in (
        {"graph": "distance", "node_embedding_dim": 3},
        {"graph": "correlation", "node_embedding_dim": 0},
        {"graph": None, "node_embedding_dim": 0},
        {"graph": "distance", "node_embedding_dim": 0, "use_reversible_instance_norm": {"affine": True}},
    ):
        model = grin(placed(gappy()), use_static_covariates=False, **options)
        with pytest.raises(ValueError, match="must have the 4 components that the model was fitted on, got 3"):
            model.impute(placed(gappy(3)))


# Static covariates


def test_coordinates_are_no_features_and_others_are():
    series = placed(gappy())
    assert not grin(series, graph="distance").uses_static_covariates
    table = PLACES.assign(height=np.float32([500, 600, 300, 0]))
    model = grin(placed(gappy(), table), graph="distance", use_reversible_instance_norm=False)
    assert model.uses_static_covariates
    changed = placed(gappy(), table.assign(height=table["height"] + 2000))
    assert differs(model.impute(changed, calibrate=False), model.impute(calibrate=False))
    # of the series as a whole
    shared = gappy().with_static_covariates(pd.DataFrame({"a": np.float32([1])}))
    model = grin(shared)
    changed = gappy().with_static_covariates(pd.DataFrame({"a": np.float32([3])}))
    assert differs(model.impute(changed, calibrate=False), model.impute(calibrate=False), by=1e-5)


def test_other_components_have_their_own_static_covariates():
    table = PLACES.assign(height=np.float32([0.5, 0.6, 0.3, 0]))
    model = grin(placed(gappy(), table), graph="distance", node_embedding_dim=0)
    new = placed(gappy(3, seed=4), NEW.assign(height=np.float32(0.4)))
    assert np.isfinite(model.impute(new).values()).all()
    with pytest.raises(ValueError, match="must have static covariates as in training, 3 x 3"):
        model.impute(placed(gappy(3, seed=4), NEW))


# Workflows


def test_weights_of_a_model_with_a_matrix(tmp_path):
    series = gappy()
    model = grin(series, graph=np.array(MATRIX))
    path = str(tmp_path / "model.pt")
    model.save(path)
    assert_same(GRINModel.load(path).impute(series), model.impute(), rtol=0)
    again = make_model(GRINModel, graph=np.array(MATRIX), activation="Tanh", optimizer_kwargs={"lr": 1e-2})
    again.load_weights(path)
    assert_same(again.impute(series), model.impute(), rtol=0)
    again.fit(series, epochs=1)
    assert adjacency_of(again).tolist() == MATRIX


@pytest.mark.parametrize("graph", ["correlation", "learned", GIVEN["frame"], None], ids=["c", "l", "f", "n"])
def test_copies(graph):
    series = gappy()
    model = make_model(GRINModel, graph=graph)
    expected = model.untrained_model().fit(series).predict(3)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same(twin.fit(series).predict(3), expected)
    # Darts leaves the weights out of a copied model; the module itself can be copied
    fitted_model = model.fit(series)
    module = copy.deepcopy(fitted_model.model)
    full = fitted_model.impute(series)
    fitted_model.model = pickle.loads(pickle.dumps(module))
    assert_same(fitted_model.impute(series), full, rtol=0)


@recurrences
def test_double_precision(recurrence):
    series = placed(gappy(dtype=np.float64), PLACES.astype(np.float64))
    for graph in ("distance", "correlation", "learned", MATRIX):
        model = grin(series, graph=graph, recurrence=recurrence)
        assert {value.dtype for value in model.model.state_dict().values() if value.is_floating_point()} == {
            torch.float64
        }
        full = model.impute()
        assert full.dtype == np.float64
        assert np.isfinite(full.values()).all()


def test_fitted_on_a_dataset():
    series = gappy()
    model = make_model(GRINModel)
    dataset = model._build_train_dataset([series], None, None, None, None)
    model.fit_from_dataset(dataset)
    assert_same(model.impute(series), make_model(GRINModel).fit(series).impute(), rtol=0.05)

    class Bare(TorchTrainingDataset):
        def __len__(self):
            return len(dataset)

        def __getitem__(self, i):
            return dataset[i]

    with pytest.raises(ValueError, match="must have its series in the attribute `series`"):
        make_model(GRINModel).fit_from_dataset(Bare())


@pytest.mark.parametrize("graph", ["distance", "correlation", MATRIX], ids=["distance", "correlation", "matrix"])
def test_backtest_with_retraining(graph):
    series = placed(gappy(length=30))
    model = make_model(GRINModel, 6, 2, graph=graph)
    forecasts = model.historical_forecasts(series, start=24, forecast_horizon=2, stride=3, retrain=True)
    assert np.isfinite(forecasts.values()).all()
    assert list(forecasts.components) == list(series.components)


def test_fitted_again_the_graph_stays():
    model = grin(gappy(), graph="correlation")
    before = adjacency_of(model).clone()
    model.fit(gappy(seed=7), epochs=1)
    assert torch.equal(adjacency_of(model), before)
