"""A composed config in which keys are set quickly: plain containers, with the interpolations that Hydra left in it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import OmegaConf

_PART = re.compile(r"\$\{(?P<key>\.*[A-Za-z_][\w.]*)\}|\$\{oc\.env:[^${}\\]*\}")
"""An interpolation of a key (from the root or, after dots, from where it stands) or of the environment, which is the same
for all that is composed here."""
_MISSING = "???"

Path = tuple[str, ...]


class NotPlain(Exception):
    """Only Hydra knows what becomes of this."""


class Template:
    """Resolves copies of a config a hundred times faster than OmegaConf does, and refuses all that is not plain: resolvers
    other than ``oc.env``, sections that are given as a whole, keys that are missing. What it returns is what Hydra would.

    Args:
        raw: composed by Hydra, with its interpolations.
    """

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = {key: node for key, node in raw.items() if key != "hydra"}
        self._constants: dict[str, Any] = {}

    def resolved(self, changes: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        """Return the config with some keys changed, resolved.

        Args:
            changes: dotted keys and their values, in order.

        Raises:
            NotPlain: if a key is not there, or is not to be changed so.
        """
        root: Any = self._raw
        for key, value in changes:
            root = _with(root, key.split("."), value)
        return {key: self._value(node, root, (key,), ()) for key, node in root.items()}

    # ---- interpolations ------------------------------------------------------------------------------------------

    def _value(self, node: Any, root: Any, place: Path, asking: tuple[Path, ...]) -> Any:
        if type(node) is dict:
            return {key: self._value(item, root, (*place, key), asking) for key, item in node.items()}
        if type(node) is list:
            return [self._value(item, root, (*place, ""), asking) for item in node]
        if node == _MISSING:
            raise NotPlain
        if type(node) is not str or "$" not in node:
            return node
        if (whole := _PART.fullmatch(node)) is not None:
            return self._part(whole, root, place, asking)
        if "\\" in node or "$" in _PART.sub("", node):
            raise NotPlain
        return _PART.sub(lambda part: _text(self._part(part, root, place, asking)), node)

    def _part(self, part: re.Match[str], root: Any, place: Path, asking: tuple[Path, ...]) -> Any:
        if (key := part["key"]) is not None:
            return self._target(key, root, place, asking)
        text = part[0]
        if text not in self._constants:
            self._constants[text] = OmegaConf.create({"it": text})["it"]
        return self._constants[text]

    def _target(self, name: str, root: Any, place: Path, asking: tuple[Path, ...]) -> Any:
        """Return the value of the key that an interpolation names."""
        up = len(name) - len(name.lstrip("."))
        if up and ("" in place or up > len(place)):  # lists count as a step, which is for OmegaConf to know
            raise NotPlain
        path = (*(place[:-up] if up else ()), *name[up:].split("."))
        if path in asking:
            raise NotPlain
        return self._value(_at(root, path), root, path, (*asking, path))


def is_plain(override: Override) -> bool:
    """Whether a word sets a key to a value that stands for itself, and does not choose an option."""
    if override.type != OverrideType.CHANGE or override.package is not None or "/" in override.key_or_group:
        return False
    return not override.is_sweep_override() and _stands_for_itself(override.value())


def _stands_for_itself(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_stands_for_itself, value))
    if isinstance(value, str):
        return "$" not in value and "\\" not in value and value != _MISSING
    return value is None or isinstance(value, (bool, int, float))


def _text(value: Any) -> str:
    """Return a value as a part of a text."""
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
    """Return a tree with one value changed; all others are shared with the old one."""
    name, *rest = path
    if type(node) is not dict or name not in node:
        raise NotPlain
    if not rest and isinstance(value, list) and isinstance(node[name], dict):
        raise NotPlain
    return {**node, name: _with(node[name], rest, value) if rest else value}
