"""Private names of torch, each with a fallback.

Tested with torch 2.13. Gains: the receptive field of each layer in the model summary (no public way to observe operations), and
one kernel instead of one per tensor for a list of copies.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from src.compat.stock import fallback_reason, is_stock, log_fallback

try:
    if is_stock():
        raise ImportError
    from torch.utils._python_dispatch import TorchDispatchMode
except ImportError as import_error:
    _REASON = fallback_reason(import_error)

    class TorchDispatchMode:  # type: ignore[no-redef]
        """Context manager that does nothing."""

        def __enter__(self) -> Any:
            log_fallback("the summary shows no receptive fields", _REASON)
            return self

        def __exit__(self, *error: Any) -> None:
            pass


def view_base(tensor: Tensor) -> Tensor:
    """Return the tensor of which another is a view, or the tensor itself."""
    base = None if is_stock() else getattr(tensor, "_base", None)
    return tensor if base is None else base


def copy_all(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    """Copy each source into its target."""
    copy = None if is_stock() else getattr(torch, "_foreach_copy_", None)
    if copy is not None:
        copy(list(targets), list(sources))
        return
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def mark_stepped(optimizer: Optimizer) -> None:
    """Suppress the warning of schedules that the optimizer has not stepped: a group of jobs steps in its place."""
    if not is_stock():
        optimizer._opt_called = True  # type: ignore[attr-defined]
