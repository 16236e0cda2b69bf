"""The user's own Weights & Biases account: entities and servers that the user chose, read without importing wandb.

Trusted places are the environment variables ``WANDB_ENTITY`` and ``WANDB_BASE_URL``, the settings file of the user
(``WANDB_CONFIG_DIR/settings``, by default ``~/.config/wandb/settings``), the settings file of the working directory
(``wandb/settings``, see `workspace_settings`), and conf/logger/wandb.yaml. Nothing in a run folder, sweep, or W&B session is
one of them.
"""

import configparser
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from src import ROOT
from src.core.files import read_below
from src.core.records import parse_yaml
from src.errors import UserError

DEFAULT_HOST = "api.wandb.ai"

_RECORDS = ("run.json", "ledger.jsonl", "config.yaml", "metrics.jsonl")
"""Files by which a folder is recognized as a run or a sweep."""

_SETTINGS = ("wandb/settings", ".wandb/settings")
_MAX_SETTINGS_BYTES = 2**16


def workspace_settings(opened: Sequence[Path] = ()) -> Path | None:
    """Return the settings file that the W&B client reads from the working directory; None if there is none.

    The client reads it whatever folder a run is in. It can set the server, the key, and proxies, so it must be the user's
    own: the working directory may not be a run or sweep folder, be inside of one, or be inside of a folder that the command
    opens.

    Args:
        opened: folders that the command opens.

    Raises:
        UserError: if there is such a file in a folder that may come from someone else.
    """
    here = Path.cwd()
    found = next((here / name for name in _SETTINGS if os.path.lexists(here / name)), None)
    if found is None:
        return None
    places = (here, *here.parents)
    foreign = any((here / record).exists() for record in _RECORDS)
    foreign = foreign or any((place / record).exists() for place in places for record in ("run.json", "ledger.jsonl"))
    if foreign or any(folder.resolve() in places for folder in opened):
        raise UserError(
            f"{found}: the working directory is part of a run, a sweep, or the folder to open, so these settings of "
            "Weights & Biases may not be yours. Run the command from another directory, or remove the file"
        )
    return found


def own_entities() -> set[str]:
    """Return the W&B entities that the user chose; an entity from a record must be one of them."""
    found = {os.environ.get("WANDB_ENTITY"), _own_settings().get("entity"), _conf().get("entity")}
    return {entity.strip() for entity in found if isinstance(entity, str) and entity.strip() and "${" not in entity}


def own_hosts() -> set[str]:
    """Return the hosts of the W&B servers that the user chose, in lower case and with a port where one is given."""
    found = {f"https://{DEFAULT_HOST}", os.environ.get("WANDB_BASE_URL"), _own_settings().get("base_url")}
    return {host for address in found if address and (host := _host(address))}


def _host(address: str) -> str:
    try:
        return (
            urlsplit(address.strip() if "//" in address else f"//{address.strip()}").netloc.rpartition("@")[2].lower()
        )
    except ValueError:
        return ""


def _own_settings() -> Mapping[str, str]:
    """Return the settings of the user, those of the working directory before those of the home directory."""
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or Path("~", ".config", "wandb")).expanduser()
    settings = _settings(folder / "settings")
    try:
        workspace = workspace_settings()
    except UserError:
        workspace = None
    return settings if workspace is None else {**settings, **_settings(workspace)}


def _settings(path: Path) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_below(path.parent.resolve(), path.name, _MAX_SETTINGS_BYTES).decode("utf-8"))
        return dict(parser.items("default"))
    except (OSError, UserError, UnicodeDecodeError, configparser.Error):
        return {}


def _conf() -> Mapping[str, object]:
    """Return the entry ``wandb`` of the user's conf/logger/wandb.yaml."""
    try:
        value = parse_yaml((ROOT / "conf" / "logger" / "wandb.yaml").read_bytes(), "conf/logger/wandb.yaml")
    except (OSError, UserError):
        return {}
    entry = value.get("wandb") if isinstance(value, dict) else None
    return entry if isinstance(entry, dict) else {}
