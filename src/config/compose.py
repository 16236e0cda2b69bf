"""Composition of configs from overrides with Hydra, and changes to recorded configs."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose as hydra_compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig

from src.config.groups import CONF, groups
from src.config.isolated_hydra import isolated_hydra
from src.config.overrides import quote_override
from src.config.suggest import _wrong_key, explain, is_config_error
from src.config.trust import trust_data_folder, trust_user_config
from src.core.errors import UserError


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose the config of one run, from Python or a notebook.

    Args:
        overrides: as on the command line: ``["model=mlp", "optimizer.lr=0.01"]``.

    Raises:
        UserError: if an override names an unknown key or option, or cannot be parsed.
    """
    overrides = [quote_override(override) for override in overrides]
    try:
        with isolated_hydra():
            config = hydra_compose("train", overrides=overrides)
        trust_user_config(config)
        return config
    except Exception as error:
        if not is_config_error(error):
            raise
        raise explain(error, overrides) from error


def update(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a recorded config with single keys changed; the choice of a group's option cannot change.

    Args:
        config: plain containers, whose strings are literal.
        overrides: as on the command line.

    Raises:
        UserError: if a key does not exist, if it names a group, or if a value is an interpolation.
    """
    result = copy.deepcopy(dict(config))
    options = groups([CONF])
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(quote_override(text))
        except HydraException as error:
            raise UserError(f"cannot read '{text}': overrides are written key=value") from error
        key = override.key_or_group
        if key in options:
            raise UserError(f"{text}: a recorded run keeps its {key}; only single keys can change, such as {key}.…")
        if override.type != OverrideType.CHANGE:
            raise UserError(f"{text}: keys of a recorded run cannot be added or removed; change a value with key=value")
        if override.is_sweep_override():
            raise UserError(f"{text}: a recorded run has one value per key, and this gives several")
        if problem := _wrong_key(override, result, options):
            raise UserError(problem)
        value = override.value()
        if "${" in str(value):
            raise UserError(f"{text}: a recorded config has no interpolations; give the value itself")
        *parents, last = key.split(".")
        node = result
        for parent in parents:
            node = node[parent]
        node[last] = value
        if key == "paths.data":
            trust_data_folder(str(value))
    return result
