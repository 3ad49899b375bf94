"""Which layers are linear, and which of them bitsandbytes holds in 4 or 8 bits."""

from __future__ import annotations

from torch import nn


def is_linear(module: nn.Module) -> bool:
    """Plain or quantised, but not nn.MultiheadAttention's, which only works from inside."""
    return type(module) is nn.Linear or is_quantised(module)


def is_quantised(module: nn.Module) -> bool:
    from bitsandbytes.nn import Linear4bit, Linear8bitLt  # slow to import, not always needed

    return isinstance(module, Linear4bit | Linear8bitLt)
