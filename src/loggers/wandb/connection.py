"""Check the key and the server of Weights & Biases. wandb is imported lazily."""

import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse

from src.core.errors import UserError, first_line

log = logging.getLogger(__name__)
_RECORDS = ("run.json", "ledger.jsonl", "config.yaml", "metrics.jsonl")
"""Files that identify a folder as a run or a sweep."""

failed_servers: set[str] = set()
"""Servers that failed for a run of this process; later runs of a sweep do not wait for them."""


def refuse_foreign_settings(opened: Sequence[Path] = ()) -> None:
    """Raise an error if the W&B client would read settings that may come from someone else.

    The client reads ``wandb/settings`` and ``config-defaults.yaml`` of the working directory, whatever folder a run is in,
    and writes its logs beside the first. Such a file can set the server, the key, and proxies, so the working directory may
    not be a run or sweep folder, inside of one, or inside of a folder that the command opens.

    Args:
        opened: folders that the command opens.

    Raises:
        UserError: if there are such settings, or a link of their name.
    """
    cwd = Path.cwd()
    folders = [cwd / name for name in ("wandb", ".wandb")]
    settings = [folder / "settings" for folder in folders if os.path.lexists(folder / "settings")]
    settings += [folder for folder in folders if folder.is_symlink()]
    settings += [file for file in [cwd / "config-defaults.yaml"] if os.path.lexists(file)]
    if not settings:
        return
    cwd_and_parents = (cwd, *cwd.parents)
    foreign = any((cwd / record).exists() for record in _RECORDS) or _contain_records(cwd_and_parents)
    if foreign or any(folder.resolve() in cwd_and_parents for folder in opened):
        raise UserError(
            f"{settings[0]}: the working directory is part of a run, a sweep, or the folder to open, so these settings of "
            "Weights & Biases may not be yours. Run the command from another directory, or remove the file"
        )


def _contain_records(folders: Sequence[Path]) -> bool:
    """Return whether one of the folders is a run or a sweep."""
    return any((folder / record).exists() for folder in folders for record in ("run.json", "ledger.jsonl"))


def has_foreign_repository(folder: Path) -> bool:
    """Return whether git would read the settings of a repository in the folder of a run, or in a parent of it.

    The client runs git in the folder of the run, and the settings of a repository name programs that git starts. The
    folders that contain the working directory are the user's, unless it is part of a run or sweep.

    Args:
        folder: folder of the run.
    """
    cwd = Path.cwd().resolve()
    cwd_and_parents = (cwd, *cwd.parents)
    if _contain_records(cwd_and_parents):
        return True
    folder = folder.resolve()
    others = [other for other in (folder, *folder.parents) if other not in cwd_and_parents]
    return any(os.path.lexists(other / name) for other in others for name in (".git", "HEAD"))


def key_is_configured() -> bool:
    """Return whether runs can be recorded online without a prompt.

    The key is searched where wandb searches it: WANDB_API_KEY, an identity token, netrc, wandb's own settings. A key of an
    invalid format does not count.

    Raises:
        ImportError: without wandb.
        UserError: if the client's settings may come from someone else.
    """
    refuse_foreign_settings()
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    try:
        host = wandb_setup.singleton().settings.base_url
        session = wbauth.authenticate_session(host=host, source="gridlight", prompt=False, update_session=False)
    except Exception as error:
        log.warning("Weights & Biases: the key cannot be used: %s", first_line(error))
        return False
    return session is not None


def why_unreachable() -> str | None:
    """Return why no connection to the server is possible; None if there is one.

    Raises:
        UserError: if the client's settings may come from someone else.
    """
    refuse_foreign_settings()
    from wandb.sdk import wandb_setup

    address = urlparse(str(wandb_setup.singleton().settings.base_url))
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=5):
            return None
    except OSError as error:
        return f"cannot reach {address.geturl()}: {error.strerror or error}"
