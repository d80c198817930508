"""Our forecasters, and copies of them with a part switched off, by the protocol of `benchmarks.models.nets`.

They stand apart so that what is changed here leaves the cells of the peers as they are.
"""

from dataclasses import replace
from functools import partial

from benchmarks.interface import Answer, Budget, ForecastView, Model
from benchmarks.models import nets
from benchmarks.models.nets import Net

OURS: dict[str, Net] = {
    "BiGRU": Net("BiGRUModel", {}, sees_gaps=True),
    "BiLSTM": Net("BiLSTMModel", {}, sees_gaps=True),
    "CNN-BiLSTM": Net("CNNBiLSTMModel", {}, sees_gaps=True),
    "U-RNN": Net("URNNModel", {}, sees_gaps=True),
    "GRIN": Net("GRINModel", {}, sees_gaps=True, together=True),
}
ABLATIONS: dict[str, tuple[str, Net]] = {
    "BiGRU, one direction": ("BiGRU", Net("BiGRUModel", {"bidirectional": False}, sees_gaps=True)),
    "BiGRU, no masking": ("BiGRU", Net("BiGRUModel", {"masking_rate": 0.0}, sees_gaps=True)),
    "BiGRU, no patches": ("BiGRU", OURS["BiGRU"]),
    "BiGRU, loss not scaled": ("BiGRU", Net("BiGRUModel", {"loss_scale": None}, sees_gaps=True)),
    "BiGRU, any units": ("BiGRU", Net("BiGRUModel", {}, sees_gaps=True, any_units=True)),
    "BiGRU, any units, loss not scaled": (
        "BiGRU",
        Net("BiGRUModel", {"loss_scale": None}, sees_gaps=True, any_units=True),
    ),
}


def run(view: ForecastView, budget: Budget, seed: int, net: Net) -> Answer:
    """Train `net`, its patches as long as the season, and answer with its forecasts."""
    if 1 < view.season <= nets.chunk_length(view):
        net = replace(net, options=net.options | {"patch_length": view.season})
    return nets.run(view, budget, seed, net)


def _model(name: str, net: Net, ablation_of: str | None = None) -> Model:
    model = nets.model_of(name, "ours", net, ablation_of)
    if name == "BiGRU, no patches" or net.cls == "GRINModel":
        return model
    return replace(model, run=partial(run, net=net), config=model.config | {"patch": "one season"})


MODELS = {
    **{name: _model(name, net) for name, net in OURS.items()},
    **{name: _model(name, net, of) for name, (of, net) in ABLATIONS.items()},
}
