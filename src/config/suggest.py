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

from src.config.groups import CONF, groups, option_folders, sweeps
from src.config.isolated_hydra import isolated_hydra
from src.config.overrides import parse_argv
from src.core.errors import UserError, nearest


def is_config_error(error: Exception) -> bool:
    """Return whether an error of Hydra is caused by invalid overrides; for ``model=null`` Hydra raises a plain ValueError."""
    return isinstance(error, (HydraException, OmegaConfBaseException)) or "Config group override" in str(error)


def explain(error: Exception, argv: Sequence[str]) -> UserError:
    """Return an error that describes what is wrong with a command line.

    Args:
        error: raised by Hydra.
        argv: the command line, with flags and overrides.
    """
    roots = option_folders(argv)
    options = {"sweeps": sweeps()} | groups(roots)
    overrides = parse_argv(argv)[0].overrides
    parsed: list[Override] = []
    for override in overrides:
        try:
            parsed.append(OverridesParser.create().parse_override(override))
        except HydraException:
            advice = (
                "write the keys within {…} without quotes"
                if '{"' in override or "{'" in override
                else "overrides are written key=value, such as optimizer.lr=0.01"
            )
            return UserError(f"cannot read '{override}': {advice}")
    if not {"-m", "--multirun"} & set(argv):
        swept = [override.input_line for override in parsed if override.is_sweep_override()]
        if swept:
            return UserError(f"{swept[0]}: several values make a sweep: python -m src.train -m {' '.join(overrides)}")
    problems = [problem for override in parsed if (problem := _wrong_option(override, options))]
    if not problems:
        problems = _wrong_keys(parsed, options, roots)
    cause = f": {error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
    return UserError("\n".join(problems) or f"{error}{cause}".strip())


def _option_names(override: Override) -> list[str]:
    """Return every option that an override of a group names: one choice, a list of choices, or the points of a sweep."""
    if override.is_sweep_override():
        points = list(override.sweep_string_iterator()) if override.is_choice_sweep() else []
        return [name.strip() for point in points for name in point.strip("[]").split(",")]
    value = override.value()
    if isinstance(value, list):
        return [str(name) for name in value]
    return [] if value is None else [str(value)]


def _wrong_option(override: Override, options: dict[str, dict[str, str]]) -> str | None:
    """Return what is wrong with an override of a group, or None."""
    group = override.key_or_group
    if override.type == OverrideType.DEL:
        return None
    if group not in options:
        return None
    if override.value() is None:
        return f"{group} must be chosen. {nearest('', options[group])}"
    for name in _option_names(override):
        if name not in options[group]:
            return f"{group}={name}: there is no such option. {nearest(name, options[group])}"
    return None


def _wrong_keys(parsed: Sequence[Override], options: dict[str, dict[str, str]], roots: Sequence[Path]) -> list[str]:
    """Return what is wrong with each key, compared with the config that the chosen options make."""
    entries = [f"'file://{root.absolute()}'" for root in roots if root != CONF]
    search_path = f"hydra.searchpath=[{','.join(entries)}]"
    choices = [o.input_line for o in parsed if o.key_or_group in options and not o.is_sweep_override() and o.input_line]
    try:
        with isolated_hydra():
            composed = hydra_compose("train", overrides=[search_path, *choices], return_hydra_config=True)
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
    """Return what is wrong with a dotted key, at the first part that a composed or recorded config does not have, or None."""
    node: Any = cfg
    parts = override.key_or_group.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, dict) or part not in node:
            return _unknown_key(parts, depth, node, cfg, options, override)
        node = node[part]
    return None


def _unknown_key(
    parts: list[str], depth: int, node: Any, cfg: Any, options: dict[str, dict[str, str]], override: Override
) -> str:
    """Return the message for a key whose part at `depth` is not a key of `node`."""
    text = override.input_line
    parent = ".".join(parts[:depth])
    if not isinstance(node, dict):
        return f"{text}: '{parent}' is a value and has no keys below it"
    if depth == 0:
        if "hydra" in cfg and f"hydra/{parts[0]}" in options:
            return _without_hydra_prefix(override, cfg, options)
        same_name = [key for key in _leaf_keys(cfg) if key.rpartition(".")[2] == parts[0]]
        if same_name:
            return f"{text}: unknown key. Did you mean {' or '.join(repr(key) for key in same_name)}?"
        allowed = [name for name in {*options, *map(str, cfg)} if not name.startswith("hydra")]
        return f"{text}: unknown key or group '{parts[0]}'. {nearest(parts[0], allowed)}"
    allowed = [str(key) for key in node if not str(key).startswith("_")]
    return f"{text}: '{parent}' has no key '{parts[depth]}'. {nearest(parts[depth], allowed)}"


def _without_hydra_prefix(override: Override, cfg: Any, options: dict[str, dict[str, str]]) -> str:
    """Return the message for a launcher or sweeper, or a key of one, that lacks the prefix ``hydra/`` or ``hydra.``."""
    key = override.key_or_group
    if key.isidentifier():
        return f"{override.input_line}: unknown group. Did you mean 'hydra/{key}'?"
    problem = _wrong_key(replace(override, key_or_group=f"hydra.{key}"), cfg, options)
    return problem or f"{override.input_line}: unknown key. Did you mean 'hydra.{key}'?"


def _leaf_keys(cfg: Any, prefix: str = "") -> list[str]:
    """Return the dotted keys of all values outside of the section ``hydra``."""
    keys = []
    for name in cfg:
        if prefix == "" and name == "hydra":
            continue
        node = cfg[name]
        path = f"{prefix}{name!s}"
        keys += _leaf_keys(node, f"{path}.") if isinstance(node, dict) else [path]
    return keys
