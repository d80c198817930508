"""Our forecasters, and copies of them with a part switched off, by the protocol of `benchmarks.models.nets`.

They stand apart so that what is changed here leaves the cells of the peers as they are.
"""

from benchmarks.models.nets import Net, model_of

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
}
MODELS = {
    **{name: model_of(name, "ours", net) for name, net in OURS.items()},
    **{name: model_of(name, "ours", net, of) for name, (of, net) in ABLATIONS.items()},
}
