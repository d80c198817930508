"""What the package offers, by name only, and Darts' safe loading of it before any of it is imported."""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

MODELS = {
    "BRITSModel": "brits",
    "BiGRUModel": "birnn",
    "BiLSTMModel": "birnn",
    "BiRNNModel": "birnn",
    "CNNBiLSTMModel": "cnn_bilstm",
    "GRINModel": "grin",
    "URNNModel": "urnn",
}
"""Each model's module in ``birnn_forecast.models``."""
MODULES = ("callbacks", "data", "imputation", "losses", "masks", "models", "nn", "plots", "training")
DARTS_REGISTRY = "darts.utils.serialization.registry"


def allow_when_darts_comes() -> None:
    """Let Darts' safe loading take the models: at once if Darts is there, else as soon as it is imported.

    What Darts needs is their names. When it then reads a model by its name, that imports the model, which registers
    the rest.
    """
    if DARTS_REGISTRY in sys.modules:
        _allow(sys.modules[DARTS_REGISTRY])
    else:
        sys.meta_path.insert(0, _Watch())


def _allow(registry: Any) -> None:
    registry.add_safe_globals([(_name_only, f"birnn_forecast.models.{of}.{name}") for name, of in MODELS.items()])


def _name_only(*args: Any, **kwargs: Any) -> None:
    """Stand for a class whose name alone matters; the class itself takes its place once it is imported."""
    raise NotImplementedError


class _Watch(MetaPathFinder):
    """Has the one module of Darts loaded as ever, and the models registered with it after that."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != DARTS_REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


class _Registering(Loader):
    """Loads a module with another loader, and registers the models in it."""

    def __init__(self, loader: Loader):
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        _allow(module)
