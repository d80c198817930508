"""Bidirectional recurrent models for Darts that forecast, impute and smooth series with gaps."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from birnn_forecast import _registry

if TYPE_CHECKING:
    from birnn_forecast.models import (
        BiGRUModel,
        BiLSTMModel,
        BiRNNModel,
        BRITSModel,
        CNNBiLSTMModel,
        GRINModel,
        URNNModel,
    )

__version__ = "0.1.0"

__all__ = [
    "BRITSModel",
    "BiGRUModel",
    "BiLSTMModel",
    "BiRNNModel",
    "CNNBiLSTMModel",
    "GRINModel",
    "URNNModel",
    "__version__",
]

# torch and Darts take seconds to import: the models are made when one is asked for, and the command line asks for none
_registry.allow_when_darts_comes()


def __getattr__(name: str) -> Any:
    if name in _registry.MODELS:
        return getattr(import_module("birnn_forecast.models"), name)
    if name in _registry.MODULES:
        return import_module(f"birnn_forecast.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_registry.MODULES})
