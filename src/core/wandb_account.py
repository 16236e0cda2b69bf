"""Weights & Biases accounts, without importing wandb: the user's hosts, and the accounts to which records may be uploaded.

The user's own settings are environment variables and W&B's settings file. The file ``wandb/settings`` of the working directory
is ignored, because it may be part of a run folder from someone else.
"""

import os
from collections.abc import Set
from configparser import ConfigParser, Error
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from urllib.parse import urlsplit

from src.core.escape import line

RUN_ID = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
"""Pattern of the id of a W&B run, which is part of file names and URLs."""

_PUBLIC_HOST = "api.wandb.ai"


@dataclass(frozen=True)
class Account:
    """The account to which records may be uploaded.

    Args:
        entities: users and teams.
        projects: projects of these entities.
    """

    entities: Set[str]
    projects: Set[str]

    def refusal(self, entity: object = None, project: object = None) -> str | None:
        """Return why a recorded entity or project is refused; None if both are allowed. An empty value is the default."""
        for kind, name, allowed in (("entity", entity, self.entities), ("project", project, self.projects)):
            if name and not (isinstance(name, str) and name in allowed):
                quoted = quote(line(str(name)[:80]))
                return f"the W&B {kind} {quoted} is not known to be yours. If it is, set WANDB_{kind.upper()}={quoted}"
        return None


def client_settings() -> dict[str, str]:
    """Return the user's settings of W&B, from ``WANDB_CONFIG_DIR`` or ~/.config/wandb as in its client."""
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or Path("~", ".config", "wandb")).expanduser()
    parser = ConfigParser(interpolation=None)
    try:
        parser.read(folder / "settings", encoding="utf-8")
    except (Error, OSError, UnicodeDecodeError):
        return {}
    return dict(parser["default"]) if parser.has_section("default") else {}


def own_hosts() -> set[str]:
    """Return the hosts, with their ports, in the user's settings, and W&B's public host."""
    addresses = (os.environ.get("WANDB_BASE_URL"), client_settings().get("base_url"))
    return {urlsplit(address).netloc.rpartition("@")[2].lower() for address in addresses if address} | {_PUBLIC_HOST}
