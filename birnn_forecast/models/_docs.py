"""Each parameter is documented once: Darts' in Darts, the family's in its base class, a model's own in the model."""

import inspect
from collections.abc import Callable

from darts.models.forecasting.block_rnn_model import BlockRNNModel
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.models.forecasting.torch_forecasting_model import TorchForecastingModel

# what Darts' modules get from the model and a user never passes
_INTERNAL = {"self", "args", "kwargs", "train_sample_shape"}


def parameter_docs(docstring: str | None) -> dict[str, str]:
    """Return name -> description (indented, ready to print) of a numpydoc string's parameters, in any section."""
    docs: dict[str, str] = {}
    name = None
    for line in inspect.cleandoc(docstring or "").splitlines():
        if line and not line[0].isspace():
            name = line.strip() if line.strip().isidentifier() else None
        elif name:
            docs[name] = docs.get(name, "") + line.rstrip() + "\n"
    return {name: text.rstrip("\n") for name, text in docs.items()}


def shared_parameters() -> dict[str, inspect.Parameter]:
    """Return the parameters that every Darts torch model takes through ``**kwargs``, with Darts' defaults."""
    found: dict[str, inspect.Parameter] = {}
    for owner in (PLForecastingModule, TorchForecastingModel):
        found |= inspect.signature(owner.__init__).parameters
    return {
        name: parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in found.items()
        if name not in _INTERNAL
    }


def full_signature(init: Callable[..., None]) -> inspect.Signature:
    """Return the signature of `init` without ``self`` and with the shared parameters in place of ``**kwargs``."""
    own = {
        name: parameter
        for name, parameter in list(inspect.signature(init).parameters.items())[1:]
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    shared = [parameter for name, parameter in shared_parameters().items() if name not in own]
    return inspect.Signature([*own.values(), *shared])


def full_docstring(summary: str | None, signature: inspect.Signature, *docstrings: str | None) -> str:
    """Return `summary` with the description of every parameter of `signature` set in.

    A description comes from the summary's own "Parameters" section, else from the first of `docstrings` that has it,
    else from Darts. Every other section stays where it is.
    """
    text = inspect.cleandoc(summary or "")
    own = parameter_docs(text)
    docs: dict[str, str] = {}
    for source in (BlockRNNModel.__init__.__doc__, TorchForecastingModel.__init__.__doc__, *reversed(docstrings)):
        docs |= parameter_docs(source)
    docs |= own
    lines = ["Parameters", "----------"]
    for name in signature.parameters:
        lines += [name, docs[name]]
    head, _, rest = text.partition("Parameters\n----------\n")
    # what follows the own parameters: the next underlined heading
    rows = rest.splitlines()
    heading = next((i for i in range(len(rows) - 1) if rows[i + 1] and not rows[i + 1].strip("-")), len(rows))
    tail = rows[heading:]
    return "\n".join([head.rstrip(), "", *lines, *([""] if tail else []), *tail]) + "\n"
