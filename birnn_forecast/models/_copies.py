"""Copies of fitted models that keep their network: ``copy``, ``pickle``, joblib and process pools."""

import copy
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darts.models.forecasting.torch_forecasting_model import TorchForecastingModel

if TYPE_CHECKING:
    from darts.models.forecasting.torch_forecasting_model import MixedCovariatesTorchModel as Base
else:
    Base = object

_saving: ContextVar[bool] = ContextVar("_saving", default=False)


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
        token = _saving.set(True)
        try:
            super().save(path, clean)
        finally:
            _saving.reset(token)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return state if _saving.get() else {**state, "model": self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state})
        module: Any = state.get("model")
        self.model = module

    def __copy__(self):
        twin = type(self).__new__(type(self))
        twin.__setstate__(self.__getstate__())
        twin.model = copy.deepcopy(twin.model)
        return twin
