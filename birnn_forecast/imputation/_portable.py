"""Models inside other objects: copied, pickled and checked with their networks."""

from collections.abc import Sequence
from typing import Any

from darts import TimeSeries


class PortableModel:
    """Holds a Darts torch model so that copies and pickles of it keep the fitted network, which Darts leaves out."""

    def __init__(self, model: Any):
        self.model = model

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "network": getattr(self.model, "model", None)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.model = state["model"]
        if state["network"] is not None:
            self.model.model = state["network"]

    def fitted(self, refit: bool, series: Sequence[TimeSeries], **kwargs) -> "PortableModel":
        """Return this model fitted to the series; as it is, if it is fitted already, unless `refit`.

        A fit anew is made with an untrained copy: the model that was handed in stays what it is.
        """
        if not self.model._fit_called:
            self.model.fit(series, **kwargs)
        elif refit:
            return PortableModel(self.model.untrained_model().fit(series, **kwargs))
        return self


def check_model(model: Any, method: str) -> None:
    """Raise unless `model` can do what it is needed for."""
    if not hasattr(model, method):
        raise TypeError(f"`model` must be a model of birnn_forecast with `{method}`, got {type(model).__name__}.")
