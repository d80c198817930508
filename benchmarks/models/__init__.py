"""The contenders: ``MODELS`` by name, and those that each suite runs unless told otherwise."""

from benchmarks.interface import Model
from benchmarks.models import imputers, nets, our_imputers, ours, pypots_imputers, statistical

MODELS: dict[str, Model] = {}
groups = (statistical, ours, nets, imputers, our_imputers, pypots_imputers)
for group in (module.MODELS for module in groups):
    if twice := MODELS.keys() & group.keys():
        raise ImportError(f"Two models have the same name: {twice}.")
    MODELS |= group

_NETS = [name for group in (ours.MODELS, nets.MODELS) for name, model in group.items() if model.family != "extra"]
_IMPUTERS = [
    name for module in (imputers, our_imputers) for name, model in module.MODELS.items() if model.family != "extra"
]

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
