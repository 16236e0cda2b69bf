"""The schema of a class that src/config/ does not know, read off the signature of its constructor."""

import inspect
from collections.abc import Collection, Iterator
from types import SimpleNamespace
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, create_model

S = TypeVar("S", bound=BaseModel)

_LENIENT = ConfigDict(strict=False, arbitrary_types_allowed=True, protected_namespaces=())
"""What a stranger's annotations need: any type, numbers as they are written, names that begin with ``model_``."""


class _Lenient(BaseModel):
    model_config = _LENIENT


class _Open(_Lenient, extra="allow"):
    pass


def schema_of_class(
    cls: type, base: type[S], from_run: Collection[str], given: Collection[str] | None = None
) -> type[S]:
    """Return the schema of a class's keyword arguments.

    Args:
        cls: the class. Where its constructor takes ``**more``, the arguments of the class that it derives from count too.
        base: the schema to build on.
        from_run: arguments that the run itself passes, which are left out.
        given: the keys that a config gives. An argument of a base class is declared only if it is among them: the class
            may pass it itself. None declares all.
    """
    fields: dict[str, Any] = {}
    for parameter, hint, inherited in _parameters(cls):
        name = parameter.name
        if name not in {*from_run, *fields} and (not inherited or given is None or name in given):
            fields[name] = (hint, ... if parameter.default is parameter.empty else parameter.default)
    made: Any = create_model(cls.__name__, __base__=(base, _Open if _is_open(cls) else _Lenient), **fields)
    return made


def _constructors(cls: type) -> list[Any]:
    """Return the constructor of a class, and those that its ``**more`` may reach."""
    found = []
    for owner in cls.__mro__[:-1]:  # without object
        if constructor := vars(owner).get("__init__"):
            found.append(constructor)
            if not _hands_on(constructor):
                break
    return found


def _hands_on(constructor: Any) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(constructor).parameters.values())


def _is_open(cls: type) -> bool:
    """Tell whether ``**more`` goes to something else than a base class, so that any key may be right."""
    constructors = _constructors(cls)
    return bool(constructors) and _hands_on(constructors[-1])


def _parameters(cls: type) -> Iterator[tuple[inspect.Parameter, Any, bool]]:
    """Yield each keyword argument of a constructor, its type, and whether it is one of a base class."""
    for depth, constructor in enumerate(_constructors(cls)):
        for parameter in list(inspect.signature(constructor).parameters.values())[1:]:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                yield parameter, _hint(constructor, parameter.name), depth > 0


def _hint(function: Any, name: str) -> Any:
    """Return the type of an argument; Any where there is none or where it cannot be had, as when its module imports the
    name for type checkers only.
    """
    annotation = getattr(function, "__annotations__", {}).get(name, Any)
    alone = SimpleNamespace(__annotations__={name: annotation})
    try:
        hint = get_type_hints(alone, getattr(function, "__globals__", {}))[name]
        TypeAdapter(hint, config=_LENIENT)
    except (NameError, TypeError, PydanticUserError):
        return Any
    return hint
