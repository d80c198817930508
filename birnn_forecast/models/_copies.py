"""Copies of fitted models that keep their network: ``copy``, ``pickle``, joblib and process pools."""

import copy
import inspect
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darts.models.forecasting.torch_forecasting_model import TorchForecastingModel

if TYPE_CHECKING:
    from darts.models.forecasting.torch_forecasting_model import MixedCovariatesTorchModel as Base
else:
    Base = object


class CopiesMixin(Base):
    """Puts the network, which Darts leaves to ``save``, into what is copied or pickled; files stay as Darts' are.

    The trainer is left out: a copy makes its own. A copy has weights of its own, a shallow one, too.
    """

    @wraps(TorchForecastingModel.save)
    def save(self, path=None, clean=False):
        has_file = self.load_ckpt_path and Path(self.load_ckpt_path).exists()
        if self.model is not None and self.trainer is None and not has_file:
            # Darts has a trainer write the weights; a copy has none before it predicts
            self.trainer = self._setup_trainer(None, self.model, verbose=False, epochs=self.n_epochs)
            self.trainer.strategy.connect(self.model)
        super().save(path, clean)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return state if _is_saved_by_darts() else {**state, "model": self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state})
        module: Any = state.get("model")
        self.model = module

    def __copy__(self):
        twin = type(self).__new__(type(self))
        twin.__setstate__(self.__getstate__())
        twin.model = copy.deepcopy(twin.model)
        return twin


def _is_saved_by_darts() -> bool:
    """Return whether this is part of a ``save`` of Darts: of this model, or of an ensemble or wrapper that holds it.

    Darts writes the weights to a file of their own then, and reads what it pickles with a list of allowed classes.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "save" and frame.f_globals.get("__name__", "").startswith("darts."):
            return True
        frame = frame.f_back
    return False
