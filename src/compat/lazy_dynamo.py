"""torch's compiler, asleep until something is compiled: to import it takes as long as to import the rest of torch.

Code that compiles nothing asks three things of ``torch._dynamo``, the optimizers of torch in every step: `graph_break`, which
does nothing outside a compilation; `disable`, which keeps the compiler out of a function; and the class
`OptimizedModule`, to ask whether a model is compiled. Whatever else is asked for, by ``torch.compile`` for one, wakes the
module: it is imported in its place, and from then on it is as if it always had been.
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

NAME = "torch._dynamo"
_LOCK = RLock()
_waking = False


class _Asleep(ModuleType):
    """The module before it is imported."""

    def __getattr__(self, name: str) -> Any:  # what the module has already is found without asking here
        wake()
        try:
            return vars(self)[name]
        except KeyError:
            raise AttributeError(f"module '{NAME}' has no attribute '{name}'") from None


def put_to_sleep() -> None:
    """Let ``torch._dynamo`` be imported when it is needed; nothing is done where it is there already."""
    if NAME in sys.modules:
        return
    import torch

    spec = importlib.util.find_spec(NAME)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _Asleep
    vars(module).update(graph_break=_graph_break, disable=_disable, OptimizedModule=_OptimizedModule)
    sys.modules[NAME] = module
    torch._dynamo = module  # where an import would leave it
    sys.meta_path.insert(0, _Submodules())


def wake() -> None:
    """Import ``torch._dynamo`` in the place of the sleeping module, if it sleeps."""
    global _waking
    with _LOCK:
        if _awake() or _waking:  # the second: what is imported asks for more of it
            return
        module = sys.modules[NAME]
        _waking = True
        try:
            module.__spec__.loader.exec_module(module)  # type: ignore[union-attr]
            module.__class__ = ModuleType
        finally:
            _waking = False


def _awake() -> bool:
    return type(sys.modules[NAME]) is not _Asleep


def _graph_break(msg: str = "") -> None:
    """Do nothing, as the real one outside a compilation."""


def _disable(fn: Any = None, recursive: bool = True, **how: Any) -> Any:
    """Return a function that the compiler passes by, once there is one."""
    if fn is None:
        return partial(_disable, recursive=recursive, **how)
    real: Callable[..., Any] | None = None

    @wraps(fn)
    def passed_by(*args: Any, **kwargs: Any) -> Any:
        nonlocal real
        if real is None:
            if not _awake():
                return fn(*args, **kwargs)
            real = sys.modules[NAME].disable(fn, recursive, **how)
        return real(*args, **kwargs)

    marks = {"disable": True, "disable_msg": how.get("reason"), "disable_recursive": recursive, "orig_callable": fn}
    vars(passed_by).update({f"_torchdynamo_{name}": value for name, value in marks.items()})
    return passed_by


class _IsReal(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return _awake() and isinstance(instance, sys.modules[NAME].OptimizedModule)


class _OptimizedModule(metaclass=_IsReal):
    """What is compiled, for whoever asks before there can be anything compiled."""


class _Submodules(MetaPathFinder):
    """Wakes the package before one of its modules is imported, which may import that module itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{NAME}.") or _awake():
            return None
        wake()
        return ModuleSpec(fullname, _Imported()) if fullname in sys.modules else None


class _Imported(Loader):
    """Gives a module that was imported on the way."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = sys.modules[spec.name]
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec
