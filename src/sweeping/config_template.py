"""Set keys in a composed config and resolve its interpolations, without Hydra and much faster."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import OmegaConf

_PART = re.compile(r"\$\{(?P<key>\.*[A-Za-z_][\w.]*)\}|\$\{oc\.env:[^${}\\]*\}")
"""An interpolation of a key (absolute or, with leading dots, relative) or of an environment variable."""
_MISSING = "???"

Path = tuple[str, ...]


class NotPlain(Exception):
    """This config or change must be composed by Hydra."""


class ConfigTemplate:
    """Resolves copies of a config a hundred times faster than OmegaConf, with the same result. Raises `NotPlain` for whatever it
    does not support: resolvers other than ``oc.env``, assignments to a whole section, missing keys.

    Args:
        raw: a config composed by Hydra, with unresolved interpolations.
    """

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = {key: node for key, node in raw.items() if key != "hydra"}
        self._constants: dict[str, Any] = {}

    def resolved(self, changes: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        """Return the config with some keys changed, resolved.

        Args:
            changes: dotted keys and their values, in order.

        Raises:
            NotPlain: if a key does not exist, or this change is not supported.
        """
        root: Any = self._raw
        for key, value in changes:
            root = _with(root, key.split("."), value)
        return {key: self._value(node, root, (key,), ()) for key, node in root.items()}

    # ---- interpolations ------------------------------------------------------------------------------------------

    def _value(self, node: Any, root: Any, location: Path, visiting: tuple[Path, ...]) -> Any:
        if type(node) is dict:
            return {key: self._value(item, root, (*location, key), visiting) for key, item in node.items()}
        if type(node) is list:
            return [self._value(item, root, (*location, ""), visiting) for item in node]
        if node == _MISSING:
            raise NotPlain
        if type(node) is not str or "$" not in node:
            return node
        if (match := _PART.fullmatch(node)) is not None:
            return self._part(match, root, location, visiting)
        if "\\" in node or "$" in _PART.sub("", node):
            raise NotPlain
        return _PART.sub(lambda part: _text(self._part(part, root, location, visiting)), node)

    def _part(self, part: re.Match[str], root: Any, location: Path, visiting: tuple[Path, ...]) -> Any:
        if (key := part["key"]) is not None:
            return self._target(key, root, location, visiting)
        text = part[0]
        if text not in self._constants:
            self._constants[text] = OmegaConf.create({"it": text})["it"]
        return self._constants[text]

    def _target(self, name: str, root: Any, location: Path, visiting: tuple[Path, ...]) -> Any:
        """Return the value of the key that an interpolation names."""
        up = len(name) - len(name.lstrip("."))
        if up and ("" in location or up > len(location)):  # a list counts as a level, which only OmegaConf handles
            raise NotPlain
        path = (*(location[:-up] if up else ()), *name[up:].split("."))
        if path in visiting:
            raise NotPlain
        return self._value(_at(root, path), root, path, (*visiting, path))


def is_plain(override: Override) -> bool:
    """Return whether an override sets a key to a literal value, and does not choose an option of a group."""
    if override.type != OverrideType.CHANGE or override.package is not None or "/" in override.key_or_group:
        return False
    return not override.is_sweep_override() and _is_literal(override.value())


def _is_literal(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_literal, value))
    if isinstance(value, str):
        return "$" not in value and "\\" not in value and value != _MISSING
    return value is None or isinstance(value, (bool, int, float))


def _text(value: Any) -> str:
    """Return a value as it is inserted into a string."""
    if type(value) in (dict, list):
        raise NotPlain
    return str(value)


def _at(root: Any, path: Sequence[str]) -> Any:
    node = root
    for part in path:
        if type(node) is not dict or part not in node:
            raise NotPlain
        node = node[part]
    return node


def _with(node: Any, path: Sequence[str], value: Any) -> Any:
    """Return a copy of a tree with one value changed; unchanged nodes are shared."""
    name, *rest = path
    if type(node) is not dict or name not in node:
        raise NotPlain
    if not rest and isinstance(value, list) and isinstance(node[name], dict):
        raise NotPlain
    return {**node, name: _with(node[name], rest, value) if rest else value}
