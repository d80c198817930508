"""Whether a tensor may be looked at: to leave out work that its values make superfluous."""

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode


def is_eager(x: Tensor) -> bool:
    """Return whether `x` is a plain tensor on the CPU, and nothing records, transforms or counts operations.

    Elsewhere a look at its values has a price (a device is waited for), or cannot be had (compilation, export).
    """
    return (
        type(x) in (Tensor, nn.Parameter)
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not is_transformed()
    )


def is_transformed() -> bool:
    """Return whether torch looks into each operation: `torch.func`, forward derivatives, counters of operations."""
    return (
        torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or _get_current_dispatch_mode() is not None
    )


def is_whole(mask: Tensor) -> bool:
    """Return whether `mask` is known to be True everywhere."""
    return is_eager(mask) and bool(mask.all())
