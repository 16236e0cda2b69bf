"""Lazy import of torch's compiler, whose import takes as long as that of the rest of torch.

Tested with torch 2.13. Gain: see `benchmarks.start_up`. Turned off in stock mode, and where torch has no package of that name.

Code that does not compile uses three names of ``torch._dynamo``; torch's optimizers use them in every step: `graph_break`,
which does nothing outside a compilation; `disable`, which excludes a function from compilation; and the class
`OptimizedModule`, to check whether a model is compiled. Any other name, such as one that ``torch.compile`` uses, imports the
real module in place of the placeholder.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from threading import RLock
from types import ModuleType
from typing import Any

from src.compat.stock import is_stock, log_fallback

NAME = "torch._dynamo"
_LOCK = RLock()
_importing = False


class _Placeholder(ModuleType):
    """The module until it is imported."""

    def __getattr__(self, name: str) -> Any:  # called for names that the placeholder lacks
        import_now()
        try:
            return vars(self)[name]
        except KeyError:
            raise AttributeError(f"module '{NAME}' has no attribute '{name}'") from None


def defer_import() -> None:
    """Import ``torch._dynamo`` on first use; do nothing if it is imported already or torch has no such package."""
    if NAME in sys.modules or is_stock():
        return
    import torch

    spec = importlib.util.find_spec(NAME)
    if spec is None:
        log_fallback("the compiler of torch is imported at the start", f"torch has no {NAME}")
        return
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _Placeholder
    vars(module).update(graph_break=_graph_break, disable=_disable, OptimizedModule=_OptimizedModule)
    sys.modules[NAME] = module
    torch._dynamo = module  # as an import would
    sys.meta_path.insert(0, _Submodules())


def import_now() -> None:
    """Import ``torch._dynamo`` in place of its placeholder, if it is not imported yet."""
    global _importing
    with _LOCK:
        if _is_imported() or _importing:  # the latter within its own import
            return
        module = sys.modules[NAME]
        _importing = True
        try:
            module.__spec__.loader.exec_module(module)  # type: ignore[union-attr]
            module.__class__ = ModuleType
        finally:
            _importing = False


def _is_imported() -> bool:
    return type(sys.modules[NAME]) is not _Placeholder


def _graph_break(msg: str = "") -> None:
    """Do nothing, as torch's function outside a compilation."""


def _disable(fn: Any = None, recursive: bool = True, **options: Any) -> Any:
    """Return a function that is excluded from compilation."""
    if fn is None:
        return partial(_disable, recursive=recursive, **options)
    real: Callable[..., Any] | None = None

    @wraps(fn)
    def untraced(*args: Any, **kwargs: Any) -> Any:
        nonlocal real
        if real is None:
            if not _is_imported():
                return fn(*args, **kwargs)
            real = sys.modules[NAME].disable(fn, recursive, **options)
        return real(*args, **kwargs)

    attributes = {
        "disable": True,
        "disable_msg": options.get("reason"),
        "disable_recursive": recursive,
        "orig_callable": fn,
    }
    vars(untraced).update({f"_torchdynamo_{name}": value for name, value in attributes.items()})
    return untraced


class _InstancesOfReal(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return _is_imported() and isinstance(instance, sys.modules[NAME].OptimizedModule)


class _OptimizedModule(metaclass=_InstancesOfReal):
    """Class of compiled modules; nothing is an instance of it before the compiler is imported."""


class _Submodules(MetaPathFinder):
    """Import the package before one of its submodules, as the package may import that submodule itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{NAME}.") or _is_imported():
            return None
        import_now()
        return ModuleSpec(fullname, _Imported()) if fullname in sys.modules else None


class _Imported(Loader):
    """Loader that returns a submodule that the package has imported."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = sys.modules[spec.name]
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec
