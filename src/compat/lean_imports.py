"""Import Lightning and torchmetrics without packages that few runs need.

Tested with torchmetrics 1.9 and lightning-utilities 0.15. Gain: a training command starts faster (`benchmarks.start_up`). Where a
name is missing, or in stock mode, everything is imported as usual.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from src.compat.lazy_dynamo import defer_import
from src.compat.stock import is_stock, log_fallback

EXCLUDED = ("matplotlib", "onnxruntime", "requests")
"""Packages that torchmetrics treats as not installed within `lean`."""


@contextmanager
def lean() -> Iterator[None]:
    """Import in the body without torch's compiler (`src.compat.lazy_dynamo`) and without optional packages of torchmetrics.

    torchmetrics loads scipy.signal for one audio metric, onnxruntime (which starts a thread) and requests for two others, and
    matplotlib, which is now loaded when a metric is plotted.
    """
    if is_stock():
        yield
        return
    defer_import()
    if "torchmetrics" in sys.modules:
        yield
        return
    try:
        from lightning_utilities.core.imports import RequirementCache
    except ImportError as error:
        log_fallback("all packages are imported at the start", str(error))
        yield
        return

    is_available = RequirementCache.__bool__

    def is_wanted(cache: RequirementCache) -> bool:
        return getattr(cache, "requirement", None) not in EXCLUDED and is_available(cache)

    RequirementCache.__bool__ = is_wanted  # type: ignore[method-assign,assignment]
    placeholder = ModuleType("scipy.signal")
    placeholder.hamming = None  # type: ignore[attr-defined]
    is_replaced = "scipy.signal" not in sys.modules
    if is_replaced:
        sys.modules["scipy.signal"] = placeholder
    try:
        yield
    finally:
        RequirementCache.__bool__ = is_available  # type: ignore[method-assign,assignment]
        if is_replaced:
            del sys.modules["scipy.signal"]
    try:
        plot = importlib.import_module("torchmetrics.utilities.plot")
        plot._error_on_missing_matplotlib = lambda: importlib.reload(plot)  # type: ignore[attr-defined]
    except ImportError:  # the module was moved: torchmetrics reports that matplotlib is missing
        pass
