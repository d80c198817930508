"""Further imputers of ours, by the protocol of `benchmarks.models.imputers`.

They stand apart so that what is changed here leaves the cells of the peers as they are.
"""

from benchmarks.models.imputers import _net

MODELS = {"BRITS, ours": _net("BRITS, ours", "BRITSModel", {"hidden_dim": 64, "masking_rate": 0.6})}
