"""Further imputers of ours, by the protocol of `benchmarks.models.imputers`.

They stand apart so that what is changed here leaves the cells of the peers as they are.
"""

from dataclasses import replace
from functools import partial

from benchmarks.interface import Model
from benchmarks.models import imputers

NAME, CLASS, OPTIONS = "BRITS, ours", "BRITSModel", {"hidden_dim": 64, "masking_rate": 0.6}
LIKE = imputers.MODELS["BiGRU (imputing)"]
BRITS = {
    NAME: replace(
        LIKE,
        name=NAME,
        run=partial(imputers.run_net, cls=CLASS, options=OPTIONS),
        config=LIKE.config | {"class": CLASS, **OPTIONS},
    )
}


def _alone(name: str) -> Model:
    """Return the model without the mixture with interpolations, which its peers have not either."""
    model = (imputers.MODELS | BRITS)[name]
    return replace(
        model,
        name=f"{name}, alone",
        run=partial(model.run, calibrate=False),
        config=model.config | {"calibrate": False},
        ablation_of=name,
    )


MODELS = BRITS | {model.name: model for model in map(_alone, ("GRIN (imputing)", NAME, "BiGRU (imputing)"))}
