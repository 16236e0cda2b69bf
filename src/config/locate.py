"""From the name of a class in a config to the class itself."""

from importlib import import_module
from typing import Any, TypeVar

from src.core.errors import UserError, nearest

T = TypeVar("T")


def locate(target: str, kind: type[T], key: str = "_target_") -> type[T]:
    """Import the class that a config names; only a subclass of what is asked for, so that a config from elsewhere can
    name no other callable.

    Args:
        target: dotted path of the class, such as ``src.models.mlp.MLP``.
        kind: the class that it must derive from.
        key: where the name stands in the config, for the error.

    Raises:
        UserError: if there is no such module or class, or if it is of another kind.
    """
    module_name, _, name = target.rpartition(".")
    try:
        module: Any = import_module(module_name)
    except ImportError as error:
        raise UserError(f"{key}={target}: cannot import '{module_name}': {error}") from error
    except ValueError as error:
        raise UserError(f"{key}={target}: a class is named as package.module.Class") from error
    found = getattr(module, name, None)
    if found is None:
        classes = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, kind)]
        raise UserError(f"{key}={target}: module '{module_name}' has no '{name}'. {nearest(name, classes)}")
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise UserError(f"{key}={target}: this is no {kind.__module__}.{kind.__qualname__}")
    return found
