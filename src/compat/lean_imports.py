"""Importing Lightning, and torchmetrics with it, without what few runs need."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from src.compat.lazy_dynamo import put_to_sleep

LEFT_OUT = ("matplotlib", "onnxruntime", "requests")
"""Packages that torchmetrics is told are not there."""


@contextmanager
def lean() -> Iterator[None]:
    """Import below without torch's compiler (`src.compat.lazy_dynamo`), and torchmetrics without scipy.signal, which
    it loads for the
    sake of one metric of sounds in an old version, without onnxruntime and requests, which two others ask for and of which the
    first starts a thread, and without matplotlib, which it needs when a metric is drawn: then it is loaded.
    """
    put_to_sleep()
    if "torchmetrics" in sys.modules:
        yield
        return
    from lightning_utilities.core.imports import RequirementCache

    is_there = RequirementCache.__bool__
    RequirementCache.__bool__ = lambda self: self.requirement not in LEFT_OUT and is_there(self)  # type: ignore[method-assign]
    placeholder = ModuleType("scipy.signal")
    placeholder.hamming = None  # type: ignore[attr-defined]
    takes_place = "scipy.signal" not in sys.modules
    if takes_place:
        sys.modules["scipy.signal"] = placeholder
    try:
        yield
    finally:
        RequirementCache.__bool__ = is_there  # type: ignore[method-assign]
        if takes_place:
            del sys.modules["scipy.signal"]
    plot = importlib.import_module("torchmetrics.utilities.plot")
    plot._error_on_missing_matplotlib = lambda: importlib.reload(plot)  # type: ignore[attr-defined]
