"""Error messages for invalid overrides: what is wrong, what is allowed, and the nearest match."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config.groups import CONF, groups, search_roots, sweeps
from src.config.isolated_hydra import own_hydra
from src.config.overrides import arguments
from src.core.errors import UserError, nearest


def refused(error: Exception) -> bool:
    """Tell whether Hydra found fault with a command line; for ``model=null`` it raises a bare ValueError."""
    return isinstance(error, (HydraException, OmegaConfBaseException)) or "Config group override" in str(error)


def explain(error: Exception, overrides: Sequence[str]) -> UserError:
    """Say what is wrong with a command line that Hydra refused.

    Args:
        error: what Hydra raised.
        overrides: the words of the command line, flags included.
    """
    roots = search_roots(overrides)
    options = {"sweeps": sweeps()} | groups(roots)
    words = arguments(overrides)[0].overrides
    parsed: list[Override] = []
    for word in words:
        try:
            parsed.append(OverridesParser.create().parse_override(word))
        except HydraException:
            advice = (
                "within {…} keys stand without quotes"
                if '{"' in word or "{'" in word
                else "overrides are written key=value, such as optimizer.lr=0.01"
            )
            return UserError(f"cannot read '{word}': {advice}")
    if not {"-m", "--multirun"} & set(overrides):
        swept = [override.input_line for override in parsed if override.is_sweep_override()]
        if swept:
            return UserError(f"{swept[0]}: several values make a sweep: python -m src.train -m {' '.join(words)}")
    problems = [problem for override in parsed if (problem := _wrong_option(override, options))]
    if not problems:
        problems = _wrong_keys(parsed, options, roots)
    cause = f": {error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
    return UserError("\n".join(problems) or f"{error}{cause}".strip())


def _values(override: Override) -> list[str]:
    """Return every option that an override names: a choice, a list of them, or the points of a sweep."""
    if override.is_sweep_override():
        points = list(override.sweep_string_iterator()) if override.is_choice_sweep() else []
        return [name.strip() for point in points for name in point.strip("[]").split(",")]
    value = override.value()
    return [str(name) for name in value] if isinstance(value, list) else [] if value is None else [str(value)]


def _wrong_option(override: Override, options: dict[str, dict[str, str]]) -> str | None:
    group = override.key_or_group
    if override.type == OverrideType.DEL:
        return None
    if group not in options:
        return None
    if override.value() is None:
        return f"{group} must be chosen. {nearest('', options[group])}"
    for name in _values(override):
        if name not in options[group]:
            return f"{group}={name}: there is no such option. {nearest(name, options[group])}"
    return None


def _wrong_keys(parsed: Sequence[Override], options: dict[str, dict[str, str]], roots: Sequence[Path]) -> list[str]:
    """Walk every dotted key down the config that the chosen groups make."""
    entries = [f"'file://{root.absolute()}'" for root in roots if root != CONF]
    searched = f"hydra.searchpath=[{','.join(entries)}]"
    chosen = [o.input_line for o in parsed if o.key_or_group in options and not o.is_sweep_override() and o.input_line]
    try:
        with own_hydra():
            composed = hydra_compose("train", overrides=[searched, *chosen], return_hydra_config=True)
            cfg = OmegaConf.to_container(composed, resolve=False)
    except (HydraException, OmegaConfBaseException):
        return []
    problems = []
    for override in parsed:
        key = override.key_or_group
        if key in options or override.type != OverrideType.CHANGE or key == "hydra.searchpath":
            continue
        if problem := _wrong_key(override, cfg, options):
            problems.append(problem)
    return problems


def _wrong_key(override: Override, cfg: Any, options: dict[str, dict[str, str]]) -> str | None:
    """Walk a dotted key down a composed or a recorded config, and return what is wrong where it leaves it."""
    node: Any = cfg
    parts = override.key_or_group.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, dict) or part not in node:
            return _unknown(parts, depth, node, cfg, options, override)
        node = node[part]
    return None


def _unknown(
    parts: list[str], depth: int, node: Any, cfg: Any, options: dict[str, dict[str, str]], override: Override
) -> str:
    shown = override.input_line
    parent = ".".join(parts[:depth])
    if not isinstance(node, dict):
        return f"{shown}: '{parent}' is a value and has no keys below it"
    if depth == 0:
        if "hydra" in cfg and f"hydra/{parts[0]}" in options:
            return _of_hydra(override, cfg, options)
        same = [key for key in _leaves(cfg) if key.rpartition(".")[2] == parts[0]]
        if same:
            return f"{shown}: unknown key. Did you mean {' or '.join(repr(key) for key in same)}?"
        top = [name for name in {*options, *map(str, cfg)} if not name.startswith("hydra")]
        kind = "key or group"
        return f"{shown}: unknown {kind} '{parts[0]}'. {nearest(parts[0], top)}"
    allowed = [str(key) for key in node if not str(key).startswith("_")]
    return f"{shown}: '{parent}' has no key '{parts[depth]}'. {nearest(parts[depth], allowed)}"


def _of_hydra(override: Override, cfg: Any, options: dict[str, dict[str, str]]) -> str:
    """Say how a launcher or sweeper, or a key of it, is written."""
    key = override.key_or_group
    if key.isidentifier():
        return f"{override.input_line}: unknown group. Did you mean 'hydra/{key}'?"
    wrong = _wrong_key(replace(override, key_or_group=f"hydra.{key}"), cfg, options)
    return wrong or f"{override.input_line}: unknown key. Did you mean 'hydra.{key}'?"


def _leaves(cfg: Any, prefix: str = "") -> list[str]:
    keys = []
    for name in cfg:
        if prefix == "" and name == "hydra":
            continue
        node = cfg[name]
        path = f"{prefix}{name!s}"
        keys += _leaves(node, f"{path}.") if isinstance(node, dict) else [path]
    return keys
