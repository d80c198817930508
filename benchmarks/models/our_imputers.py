"""Further imputers of ours, by the protocol of `benchmarks.models.imputers`.

They stand apart so that what is changed here leaves the cells of the peers as they are.
"""

from dataclasses import replace
from functools import partial

from benchmarks.models import imputers

NAME, CLASS, OPTIONS = "BRITS, ours", "BRITSModel", {"hidden_dim": 64, "masking_rate": 0.6}
LIKE = imputers.MODELS["BiGRU (imputing)"]
MODELS = {
    NAME: replace(
        LIKE,
        name=NAME,
        run=partial(imputers.run_net, cls=CLASS, options=OPTIONS),
        config=LIKE.config | {"class": CLASS, **OPTIONS},
    )
}
