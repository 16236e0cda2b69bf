"""From words on a command line to a config, with Hydra, and from Hydra's errors to errors for people."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from src.config.options import CONF, groups, search_roots, sweeps
from src.config.trust import literal_config, name_external_data, name_own_data_folder, trust_own_config
from src.config.words import arguments, readable
from src.errors import UserError, nearest

if TYPE_CHECKING:
    from src.config.schema import Config
    from src.tracking.run_folder import RunFolder


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose the config of one run, from Python or a notebook.

    Args:
        overrides: as on the command line: ``["model=mlp", "optimizer.lr=0.01"]``.

    Raises:
        UserError: if an override names what does not exist.
    """
    overrides = [readable(word) for word in overrides]
    try:
        with own_hydra():
            config = hydra_compose("train", overrides=overrides)
        trust_own_config(config)
        return config
    except Exception as error:
        if not refused(error):
            raise
        raise explain(error, overrides) from error


@contextmanager
def own_hydra() -> Iterator[None]:
    """Let Hydra compose, also inside a command or a notebook that uses Hydra itself."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().clear()
        if before is not None:
            GlobalHydra.instance().hydra = before


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
            cfg = hydra_compose("train", overrides=[searched, *chosen], return_hydra_config=True)
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
        if not isinstance(node, DictConfig | dict) or part not in node.keys():  # noqa: SIM118 - missing values count
            return _unknown(parts, depth, node, cfg, options, override)
        node = node._get_node(part) if isinstance(node, DictConfig) else node[part]
    return None


def _unknown(
    parts: list[str], depth: int, node: Any, cfg: Any, options: dict[str, dict[str, str]], override: Override
) -> str:
    shown = override.input_line
    parent = ".".join(parts[:depth])
    if not isinstance(node, DictConfig | dict):
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
        node = cfg._get_node(name) if isinstance(cfg, DictConfig) else cfg[name]
        path = f"{prefix}{name!s}"
        keys += _leaves(node, f"{path}.") if isinstance(node, DictConfig | dict) else [path]
    return keys


def update(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a recorded config with single keys changed; groups cannot be chosen anew.

    Args:
        config: plain containers, whose strings are literal.
        overrides: as on the command line.

    Raises:
        UserError: if a key does not exist, if it names a group, or if a value is an interpolation.
    """
    result = copy.deepcopy(dict(config))
    options = groups([CONF])
    for token in overrides:
        try:
            override = OverridesParser.create().parse_override(readable(token))
        except HydraException as error:
            raise UserError(f"cannot read '{token}': overrides are written key=value") from error
        key = override.key_or_group
        if key in options:
            raise UserError(f"{token}: a recorded run keeps its {key}; only single keys can change, such as {key}.…")
        if override.type != OverrideType.CHANGE:
            raise UserError(f"{token}: a recorded run has all its keys; change one as key=value")
        if override.is_sweep_override():
            raise UserError(f"{token}: a recorded run has one value a key")
        if problem := _wrong_key(override, result, options):
            raise UserError(problem)
        value = override.value()
        if "${" in str(value):
            raise UserError(f"{token}: a recorded config has no interpolations; give the value itself")
        *parents, last = key.split(".")
        node = result
        for parent in parents:
            node = node[parent]
        node[last] = value
        if key == "paths.data":
            name_own_data_folder(str(value))
    return result


_MAY_CHANGE = (
    "trainer.max_",
    "trainer.devices",
    "trainer.accelerator",
    "trainer.log_every_n_steps",
    "regularization.early_stopping_patience",
    "model.checkpoint_activations",
    "datamodule.path",
    "datamodule.val_path",
    "datamodule.test_path",
    "datamodule.target_path",
    "callbacks.",
    "logger",
    "paths.",
    "tags",
    "notes",
)
"""Beginnings of the keys that a resumed run may change: where its files lie now, for one. The optimizer's state comes
from the checkpoint."""


def resumed(path: str, words: Sequence[str]) -> tuple["Config", "RunFolder"]:
    """Return the recorded config of a run, with single keys changed, and its folder.

    Args:
        path: the run folder.
        words: the command line; ``resume=…`` and Hydra's own words in it are left out.

    Raises:
        UserError: if there is no such run, if it is finished and nothing asks for more, or if a key is wrong.
    """
    from src.config.check import check
    from src.tracking.run_folder import RunFolder

    if not path.strip():
        raise UserError("resume= must name a run folder: resume=outputs/runs/…")
    folder = RunFolder.open(Path(path))
    changes = [
        w for w in words if not w.startswith(("-", "resume=", "hydra.", "hydra/")) and (w[0] in "+~" or "=" in w)
    ]
    if folder.record.get("status") == "finished" and not changes:
        raise UserError(f"resume={path}: this run is finished. To train on, give trainer.max_epochs=… more epochs")
    recorded = literal_config(folder.config(), folder.path / "config.yaml", changes=changes)
    if not (recorded.get("callbacks") or {}).get("checkpoints"):
        raise UserError(f"resume={path}: this run kept no checkpoint to go on from (callbacks.checkpoints is off)")
    changed = update(recorded, changes)
    for word in changes:
        key = word.partition("=")[0]
        if not key.startswith(_MAY_CHANGE):
            allowed = ", ".join(name.rstrip(".") for name in _MAY_CHANGE)
            raise UserError(f"{word}: resuming goes on with the same experiment, in which only {allowed} may change")
    config = check(changed)
    name_external_data(config)
    epochs = [row.get("epoch") for row in folder.metrics() if "train/loss" in row]
    done = 1 + max((epoch for epoch in epochs if isinstance(epoch, int)), default=-1)
    if config.trainer.max_epochs < done:
        raise UserError(f"trainer.max_epochs={config.trainer.max_epochs}: this run has trained {done} epochs already")
    return config, folder
