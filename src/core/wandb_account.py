"""The hosts and entities of Weights & Biases that are the user's own, without importing wandb.

They are read from the environment, from W&B's settings file, and from the user's conf/logger/wandb.yaml. The file
``wandb/settings`` of the working directory does not count: it may lie in a run folder from someone else.
"""

import os
from configparser import ConfigParser, Error
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from src import ROOT

_PUBLIC_HOST = "api.wandb.ai"


def _settings() -> dict[str, str]:
    """Return W&B's settings of this user, as its client finds them: ``WANDB_CONFIG_DIR`` or ~/.config/wandb."""
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or Path("~", ".config", "wandb")).expanduser()
    parser = ConfigParser(interpolation=None)
    try:
        parser.read(folder / "settings", encoding="utf-8")
    except (Error, OSError, UnicodeDecodeError):
        return {}
    return dict(parser["default"]) if parser.has_section("default") else {}


def own_hosts() -> set[str]:
    """Return the hosts that the user's own settings name, with their ports, and W&B's public one."""
    addresses = (os.environ.get("WANDB_BASE_URL"), _settings().get("base_url"))
    return {urlsplit(address).netloc.rpartition("@")[2].lower() for address in addresses if address} | {_PUBLIC_HOST}


def own_entities() -> set[str]:
    """Return the entities (users or teams) that the user's own settings name."""
    try:
        own = yaml.safe_load((ROOT / "conf" / "logger" / "wandb.yaml").read_text(encoding="utf-8"))["wandb"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        own = {}
    named = (os.environ.get("WANDB_ENTITY"), _settings().get("entity"), (own or {}).get("entity"))
    return {str(entity) for entity in named if entity}
