"""Import of the classes that a config names."""

from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from src import ROOT
from src.core.errors import UserError, nearest

T = TypeVar("T")


def locate(target: str, kind: type[T], key: str = "_target_") -> type[T]:
    """Import and return the class that a config names.

    Only a subclass of `kind` is returned, so that a config from another source cannot name any other callable.

    Args:
        target: dotted path of the class, such as ``src.models.mlp.MLP``.
        kind: the required base class.
        key: the config key that holds the name, for the error message.

    Raises:
        UserError: if there is no such module or class, or if it is not a subclass of `kind`.
    """
    module_name, _, name = target.rpartition(".")
    try:
        module: Any = import_module(module_name)
    except ImportError as error:
        hint = ""
        if module_name.partition(".")[0] == "src" and Path("src", "__init__.py").is_file() and Path.cwd() != ROOT:
            hint = ". The package src of this folder has the name of Gridlight's package: give it another name"
        raise UserError(f"{key}={target}: cannot import '{module_name}': {error}{hint}") from error
    except ValueError as error:
        raise UserError(f"{key}={target}: a class is named as package.module.Class") from error
    cls = getattr(module, name, None)
    if cls is None:
        classes = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, kind)]
        raise UserError(f"{key}={target}: module '{module_name}' has no '{name}'. {nearest(name, classes)}")
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        raise UserError(f"{key}={target}: this is not a subclass of {kind.__module__}.{kind.__qualname__}")
    return cls
