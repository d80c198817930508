"""The contenders: ``MODELS`` by name, and those that each suite runs unless told otherwise."""

from benchmarks.interface import Model
from benchmarks.models import imputers, nets, statistical

MODELS: dict[str, Model] = {**statistical.MODELS, **nets.MODELS, **imputers.MODELS}
if len(MODELS) != len(statistical.MODELS) + len(nets.MODELS) + len(imputers.MODELS):
    raise ImportError("Two models have the same name.")

_NETS = [name for name, model in nets.MODELS.items() if model.family != "extra"]
_IMPUTERS = [name for name, model in imputers.MODELS.items() if model.family != "extra"]
# those that a rolling forecast of thousands of windows can afford

SUITE_MODELS: dict[str, list[str]] = {
    "smoke": [
        "seasonal naive",
        "AutoTheta",
        "AutoETS",
        "UnobservedComponents",
        "NLinear",
        "BlockRNN GRU + RIN",
        "BiGRU",
        "BiGRU, one direction",
        "linear interpolation",
        "seasonal interpolation",
        "GRIN (imputing)",
    ],
    "mseries": [*statistical.MODELS, *_NETS],
    "ltsf": [*statistical.MODELS, *_NETS],
    "covariates": [*statistical.MODELS, *_NETS],
    "gaps": [*statistical.MODELS, *_NETS],
    "imputation": _IMPUTERS,
    "finance": [*statistical.MODELS, *_NETS],
}
