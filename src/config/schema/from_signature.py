"""Schemas for classes outside of Gridlight, created from the signatures of their constructors."""

import inspect
from collections.abc import Collection, Iterator
from types import SimpleNamespace
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, create_model

S = TypeVar("S", bound=BaseModel)

_LENIENT = ConfigDict(strict=False, arbitrary_types_allowed=True, protected_namespaces=())
"""Settings for annotations of other authors: any type, conversion of numbers, names that begin with ``model_``."""


class _LenientSchema(BaseModel):
    model_config = _LENIENT


class _OpenSchema(_LenientSchema, extra="allow"):
    pass


def schema_of_class(
    cls: type, base: type[S], from_run: Collection[str], keys: Collection[str] | None = None
) -> type[S]:
    """Return the schema of the keyword arguments of a class.

    Args:
        cls: the class. If its constructor takes ``**kwargs``, the arguments of its base class are included.
        base: the schema to derive from.
        from_run: arguments that the run passes, which are left out.
        keys: the keys that the config sets. An argument of a base class is included only if it is one of them, because
            the class may pass that argument itself. None includes all.
    """
    fields: dict[str, Any] = {}
    for parameter, hint, inherited in _parameters(cls):
        name = parameter.name
        if name not in {*from_run, *fields} and (not inherited or keys is None or name in keys):
            fields[name] = (hint, ... if parameter.default is parameter.empty else parameter.default)
    schema: Any = create_model(
        cls.__name__, __base__=(base, _OpenSchema if _accepts_any_key(cls) else _LenientSchema), **fields
    )
    return schema


def _constructors(cls: type) -> list[Any]:
    """Return the constructor of a class, and those of its base classes that receive its ``**kwargs``."""
    constructors = []
    for owner in cls.__mro__[:-1]:  # without object
        if constructor := vars(owner).get("__init__"):
            constructors.append(constructor)
            if not _takes_kwargs(constructor):
                break
    return constructors


def _takes_kwargs(constructor: Any) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(constructor).parameters.values())


def _accepts_any_key(cls: type) -> bool:
    """Return whether ``**kwargs`` is not passed to a base class, so that any key may be valid."""
    constructors = _constructors(cls)
    return bool(constructors) and _takes_kwargs(constructors[-1])


def _parameters(cls: type) -> Iterator[tuple[inspect.Parameter, Any, bool]]:
    """Yield each keyword argument of the constructor, its type, and whether it belongs to a base class."""
    for depth, constructor in enumerate(_constructors(cls)):
        for parameter in list(inspect.signature(constructor).parameters.values())[1:]:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                yield parameter, _hint(constructor, parameter.name), depth > 0


def _hint(function: Any, name: str) -> Any:
    """Return the type of an argument, or Any if it has none or if it cannot be resolved, for example because the module
    imports the name for type checkers only.
    """
    annotation = getattr(function, "__annotations__", {}).get(name, Any)
    holder = SimpleNamespace(__annotations__={name: annotation})
    try:
        hint = get_type_hints(holder, getattr(function, "__globals__", {}))[name]
        TypeAdapter(hint, config=_LENIENT)
    except (NameError, TypeError, PydanticUserError):
        return Any
    return hint
