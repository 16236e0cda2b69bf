"""Checks of recorded configs, which are data and not trusted.

A config comes from the command line and the user's conf/, which are trusted, or from a record: config.yaml of a run, a
checkpoint, a ledger. Before anything is built from a record, `check_recorded_config` checks that

- every ``_target_`` is in a table of known classes, compared as text, because importing a module runs its code;
- it does not set folders to write to, hosts to contact, or another W&B account.

The process that the user started decides once and passes the decision on by environment variables: ``--trust MODULE`` adds to
``GRIDLIGHT_TRUST`` and ``--trust-host HOST`` to ``GRIDLIGHT_TRUST_HOST``, which worker processes, SLURM and Ray jobs inherit.
"""

import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config.groups import CONF, extension_modules, search_roots
from src.config.schema.callbacks import ENTRIES
from src.config.schema.registry import SCHEMAS
from src.config.wandb_account import user_account
from src.core.errors import MAX_LISTED, UserError
from src.core.escape import line
from src.core.wandb_account import own_hosts

log = logging.getLogger(__name__)

TRUST = "GRIDLIGHT_TRUST"
"""Environment variable: modules and classes that a recorded config may name, separated by commas."""

TRUST_HOST = "GRIDLIGHT_TRUST_HOST"
"""Environment variable: hosts that a recorded config may name, separated by commas."""

TRUSTED_DATA = "GRIDLIGHT_TRUSTED_DATA"
"""Environment variable, set by Gridlight for its workers: the data folders that the command and its config name."""

TRUSTED_SETTINGS = "GRIDLIGHT_TRUSTED_SETTINGS"
"""Environment variable, set by Gridlight for its workers: the settings of this command's config that name a folder, a host, or
a W&B account, as a JSON list of ``key=value``."""


_WRITING_SECTIONS = ("callbacks", "logger")
"""Sections of a config whose entries write files or contact servers."""

_FOLDER_ARGUMENTS = ("dirpath", "save_dir", "default_root_dir")
"""Arguments of entries that name a folder to write to. A relative one is relative to the working directory, not to the run."""

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_TARGET_LINE = re.compile(r"_target_['\"]?\s*[:=]\s*['\"]?([\w.]+)")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


# ---- what is trusted -----------------------------------------------------------------------------------------------


def trust(modules: Iterable[str] = (), hosts: Iterable[str] = ()) -> None:
    """Trust modules and hosts in this process and in those that it starts.

    Args:
        modules: names of modules or of single classes; a module includes all modules below it.
        hosts: names of hosts, with ``:port`` unless the port is the default one.

    Raises:
        UserError: if a name is not a module or a host.
    """
    for name in modules:
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
            raise UserError(f"--trust {name}: this is not the name of a module, such as package.module")
        _add(TRUST, name)
    for host in hosts:
        if not re.fullmatch(r"[\w.-]+(:\d+)?|\[[0-9a-fA-F:]+\](:\d+)?", host):
            raise UserError(f"--trust-host {host}: this is not a host, such as name.example or name.example:8080")
        _add(TRUST_HOST, host.lower())


def _add(variable: str, name: str, separator: str = ",") -> None:
    names = [value for value in os.environ.get(variable, "").split(separator) if value]
    os.environ[variable] = separator.join(dict.fromkeys([*names, name]))


def _names_in_variable(variable: str) -> set[str]:
    return {name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()}


def parse_trust_flags(argv: Sequence[str]) -> list[str]:
    """Trust the modules of ``--trust`` and the hosts of ``--trust-host``, and return the command line without these flags.

    Raises:
        UserError: if a flag has no value, or names neither a module nor a host.
    """
    remaining, other_arguments = list(argv), []
    while remaining:
        argument = remaining.pop(0)
        flag, equals, value = argument.partition("=")
        if flag not in ("--trust", "--trust-host"):
            other_arguments.append(argument)
            continue
        if not equals:
            if not remaining or remaining[0].startswith("-"):
                raise UserError(
                    f"{flag} needs a value: {flag} {'package.module' if flag == '--trust' else 'name.example'}"
                )
            value = remaining.pop(0)
        names = [name for name in value.split(",") if name]
        if flag == "--trust":
            trust(names)
        else:
            trust(hosts=names)
    return other_arguments


@cache
def _shipped_classes() -> frozenset[str]:
    return frozenset({target for group in SCHEMAS.values() for target in group if target} | ENTRIES.keys())


@cache
def _classes_of_option_files(roots: tuple[Path, ...]) -> frozenset[str]:
    """Return the classes that the option files of config folders name; a process reads them once."""
    classes: set[str] = set()
    for root in roots:
        for file in root.rglob("*.yaml") if root.is_dir() else ():
            classes |= set(_TARGET_LINE.findall(file.read_text(encoding="utf-8", errors="replace")))
    return frozenset(classes)


def trust_user_config(cfg: DictConfig, overrides: Iterable[str] = ()) -> None:
    """Trust a config that was composed from the user's command line and conf/.

    Recorded configs may then name its classes. The workers, and a sweep that is started again, read the config back from a
    record: that record may set the same folders, hosts and W&B account.

    Args:
        cfg: a composed config, never a recorded one.
        overrides: overrides of the command line; those of a sweep may name further classes.
    """
    classes = {value for key, value in _walk(OmegaConf.to_container(cfg, resolve=False)) if key.endswith("_target_")}
    classes |= {name for override in overrides for name in _TARGET_LINE.findall(override)}
    for name in sorted(classes - _shipped_classes() - {None}):
        if _DOTTED.fullmatch(str(name)):
            _add(TRUST, name)
    trust_data_folder(str(cfg.paths.data))
    sections = {}
    for section in _WRITING_SECTIONS:
        with suppress(OmegaConfBaseException):  # an interpolation that only a single run can resolve
            sections[section] = OmegaConf.to_container(cfg[section], resolve=True)
    os.environ[TRUSTED_SETTINGS] = _with_settings_of(sections)


def _trusted_settings() -> list[str]:
    return list(json.loads(os.environ.get(TRUSTED_SETTINGS) or "[]"))


def _with_settings_of(config: Mapping[str, Any]) -> str:
    """Return the value of `TRUSTED_SETTINGS` with the settings of a trusted config added."""
    settings = [
        f"{key}={value}"
        for section in _WRITING_SECTIONS
        for key, value, _ in _restricted_settings(section, config.get(section))
    ]
    return json.dumps(list(dict.fromkeys([*_trusted_settings(), *settings])))


def is_trusted(target: str) -> bool:
    """Return whether a recorded config may name a class, without importing anything."""
    if target in _shipped_classes() or _is_below(target, _names_in_variable(TRUST)):
        return True
    return not _needs_flag(target, search_roots(sys.argv[1:]))


def _is_below(target: str, modules: Iterable[str]) -> bool:
    return any(target == name or target.startswith(f"{name}.") for name in modules)


def _needs_flag(target: str, roots: Iterable[Path]) -> bool:
    """Return whether a recorded config may name a class only if the user trusts it with ``--trust``."""
    return not (
        target in _shipped_classes()
        or _is_below(target, extension_modules())
        or target in _classes_of_option_files(tuple(roots))
    )


def trust_flag(config: Mapping[str, Any]) -> str:
    """Return `` --trust …`` with the modules that must be trusted to load the model of a run, or an empty string.

    Args:
        config: the config of the run, whose callbacks and loggers are not needed.
    """
    sections = {name: section for name, section in config.items() if name not in _WRITING_SECTIONS}
    modules = _modules(value for value in _targets(sections) if _needs_flag(value, [CONF]))
    return f" --trust {modules}" if modules else ""


def _targets(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the classes that a config names."""
    for key, value in _walk(config):
        if key.rpartition(".")[2] == "_target_" and isinstance(value, str):
            yield value


def _modules(targets: Iterable[str]) -> str:
    """Return the modules of classes, each once, as ``--trust`` takes them."""
    return ",".join(list(dict.fromkeys(target.rpartition(".")[0] for target in targets))[:MAX_LISTED])


# ---- recorded configs ----------------------------------------------------------------------------------------------


def check_recorded_config(
    config: Any, source: Path, for_training: bool = True, changes: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a recorded config after checking that it names no untrusted class, folder, host or W&B account.

    Strings are literal: no resolver such as ``${oc.env:…}`` runs on them.

    Args:
        config: plain containers, as parsed.
        source: the file that holds the config, for messages.
        for_training: whether callbacks and loggers will be built; otherwise their sections are not checked.
        changes: overrides of the command line. Recorded values of their keys are not checked, because they are replaced.

    Raises:
        UserError: with everything that is refused, and the flag that allows it.
    """
    if not isinstance(config, Mapping) or not config:
        raise UserError(f"{source}: this is not a config: a mapping is expected")
    recorded: dict[str, Any] = {str(key): value for key, value in config.items()}
    recorded["resume"] = None
    sections_to_build = {key: value for key, value in recorded.items() if for_training or key not in _WRITING_SECTIONS}
    changed_keys = {change.partition("=")[0] for change in changes}
    trusted_settings = set(_trusted_settings())
    problems = [
        problem
        for section in (_WRITING_SECTIONS if for_training else ())
        for key, value, problem in _restricted_settings(section, recorded.get(section))
        if key not in changed_keys and f"{key}={value}" not in trusted_settings
    ]
    problems += _untrusted_classes(sections_to_build)
    if problems:
        lines = list(dict.fromkeys(problems))
        if len(lines) > MAX_LISTED:  # the last line names the flag that trusts the classes
            lines = [*lines[: MAX_LISTED - 1], f"… and {len(lines) - MAX_LISTED} more", lines[-1]]
        raise UserError("\n".join([f"{source}: this recorded config is refused", *lines]))
    return recorded


def _untrusted_classes(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for each class that is not trusted, and at last one that names the flag."""
    any_untrusted = False
    for key, value in _walk(config):
        if key.rpartition(".")[2] != "_target_" or value is None:
            continue
        if not isinstance(value, str) or not _DOTTED.fullmatch(value):
            yield f"{key}={str(value)[:80]}: a class is named as package.module.Class"
        elif not is_trusted(value):
            any_untrusted = True
            yield f"{key}={value}: this is not a class of Gridlight"
    if any_untrusted:  # modules that are trusted already are included, because a second flag replaces the first
        roots = search_roots(sys.argv[1:])
        modules = _modules(name for name in _targets(config) if _DOTTED.fullmatch(name) and _needs_flag(name, roots))
        variable = os.environ.get(TRUST, "")
        already_trusted = f" (trusted now: {variable[:80]})" if variable else ""
        yield (
            f"Importing a module runs its code. If you trust the code, add --trust {modules} or set {TRUST}={modules}"
            f"{already_trusted}"
        )


def _walk(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of nested containers with its dotted key, and every value of a key ``_target_``."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            path = f"{key}.{name}" if key else str(name)
            if name == "_target_" and isinstance(value, Mapping | list | tuple):
                yield path, value
            yield from _walk(value, path)
    elif isinstance(node, list | tuple):
        for position, value in enumerate(node):
            yield from _walk(value, f"{key}[{position}]")
    else:
        yield key, node


def _restricted_settings(section: str, entries: Any) -> Iterator[tuple[str, Any, str]]:
    """Yield the key, value and error message of each setting that names a folder, an untrusted host, or another account."""
    for name, entry in entries.items() if isinstance(entries, Mapping) else ():
        if not isinstance(entry, Mapping):
            continue
        key = f"{section}.{name}"
        if (section, name) == ("logger", "wandb") and "_target_" not in entry:
            if problem := _account_problem(entry.get("entity")):
                yield f"{key}.entity", entry["entity"], problem
            continue
        for path, value in _walk(entry, key):
            if (
                isinstance(value, str)
                and not path.endswith("._target_")
                and (problem := _path_or_host_problem(path, value))
            ):
                yield path, value, problem


def _account_problem(entity: object) -> str | None:
    reason = user_account().refusal(entity=entity)
    return reason and f"logger.wandb.entity: {reason}, or add logger.wandb.entity=… to the command line"


def _path_or_host_problem(key: str, value: str) -> str | None:
    """Return what is wrong with a value that names an untrusted host, a folder, or a path outside of the run, or None."""
    if _URL.match(value):
        host = (urlsplit(value).netloc.rpartition("@")[2] or value).lower()
        if host in own_hosts() | {name.lower() for name in _names_in_variable(TRUST_HOST)}:
            return None
        return f"{key}={value[:80]}: this may send data to the host {host}. If you trust it, add --trust-host {shlex.quote(host)}"
    if (
        key.rpartition(".")[2] in _FOLDER_ARGUMENTS
        or value.startswith(("/", "\\", "~"))
        or ".." in re.split(r"[/\\]", value)
        or re.match(r"[A-Za-z]:", value)
    ):
        return (
            f"{key}={value[:80]}: a recorded config cannot set where files are written. To use this path, add "
            f"{key}=… to the command line; for a sweep, repeat its command instead of sweep.resume"
        )
    return None


_RECORDED_KEY = re.compile(r"[+~]{0,2}[A-Za-z_][\w-]*(?:[./][\w-]+)*")
_FORBIDDEN_SECTIONS = ("hydra", "resume", "sweep", "defaults", "search")


def check_recorded_overrides(overrides: Iterable[str], source: object) -> None:
    """Check recorded overrides before they are composed.

    A search composes the recorded overrides of its sweep again. They may set keys of a run and choose options, but not change
    the config search path, name a class that is not trusted, or contain interpolations. The composed config is checked by
    `check_recorded_config`.

    Args:
        overrides: as recorded in a ledger.
        source: the file that holds them, for the message.

    Raises:
        UserError: for the first override that is refused.
    """
    for override in overrides:
        key = override.partition("=")[0]
        section = re.split(r"[./]", key.lstrip("+~"))[0]
        classes = _TARGET_LINE.findall(override)
        allowed = _RECORDED_KEY.fullmatch(key) and section not in _FORBIDDEN_SECTIONS and "$" not in override
        if not allowed or len(classes) != override.count("_target_") or not all(map(is_trusted, classes)):
            raise UserError(
                f"{source}: the recorded override {override[:80]!r} is refused. If you trust it, repeat the command of the sweep"
            )


# ---- folders that are written --------------------------------------------------------------------------------------


def default_data_folder() -> Path:
    """Return the data folder that is used unless a command names another: GRIDLIGHT_DATA, or ``data`` if it is not set."""
    return Path(os.environ.get("GRIDLIGHT_DATA") or "data")


def trust_data_folder(path: str | Path) -> None:
    """Allow writing to a data folder that the user's config or command names."""
    _add(TRUSTED_DATA, str(Path(path).absolute()), os.pathsep)


def writable_data_folder(path: Path) -> Path:
    """Return the folder for downloads and caches.

    Args:
        path: ``paths.data`` of a config, which may be recorded.

    Returns:
        The same folder if the user named it, otherwise the default data folder.
    """
    trusted = os.environ.get(TRUSTED_DATA, "").split(os.pathsep)
    default = default_data_folder()
    return path if str(path.absolute()) in {*trusted, str(default.absolute())} else default


def trust_environment(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment variables that let a worker process use the classes, folders, hosts and account of a config.

    Args:
        config: the config of a job, which this process has already checked.
    """
    classes = set(_targets(config)) - _shipped_classes()
    return {
        TRUST: ",".join(sorted(_names_in_variable(TRUST) | classes)),
        TRUSTED_SETTINGS: _with_settings_of(config),
    }


def log_external_data(config: Any, changes: Sequence[str] = ()) -> None:
    """Log the files and folders outside of the working directory that a recorded config reads as data.

    Args:
        config: a recorded config, after its check.
        changes: overrides of the command line, whose paths are not reported.
    """
    recorded_paths = {
        f"datamodule.{key}": path for key, path in (config.datamodule.files() | config.datamodule.folders()).items()
    }
    data = config.paths.data
    if writable_data_folder(data) != data:
        recorded_paths["paths.data"] = data
    for change in changes:
        recorded_paths.pop(change.partition("=")[0], None)
    own_folders = [os.path.realpath(folder) for folder in (Path.cwd(), default_data_folder())]
    for key, path in recorded_paths.items():
        absolute = _without_links(Path(path))  # a link in the working directory may lead out of it
        if not any(map(absolute.is_relative_to, own_folders)):
            log.warning("the recorded config reads data outside of the working directory: %s=%s", key, line(absolute))


def _without_links(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # a NUL character
        return path.absolute()
