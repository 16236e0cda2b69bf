"""Whether Weights & Biases can be reached: the key and the server. wandb is imported when it is asked."""

import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse

from src.core.errors import UserError, first_line

log = logging.getLogger(__name__)
_RECORDS = ("run.json", "ledger.jsonl", "config.yaml", "metrics.jsonl")
"""Files by which a folder is recognized as a run or a sweep."""


def refuse_foreign_settings(opened: Sequence[Path] = ()) -> None:
    """Raise an error if the W&B client would read settings that may come from someone else.

    The client reads ``wandb/settings`` and ``config-defaults.yaml`` of the working directory, whatever folder a run is in,
    and writes its logs beside the first. Such a file can set the server, the key, and proxies, so the working directory may
    not be a run or sweep folder, inside of one, or inside of a folder that the command opens.

    Args:
        opened: folders that the command opens.

    Raises:
        UserError: if there are such settings, or a link in their place.
    """
    here = Path.cwd()
    folders = [here / name for name in ("wandb", ".wandb")]
    found = [folder / "settings" for folder in folders if os.path.lexists(folder / "settings")]
    found += [folder for folder in folders if folder.is_symlink()]
    found += [file for file in [here / "config-defaults.yaml"] if os.path.lexists(file)]
    if not found:
        return
    places = (here, *here.parents)
    foreign = any((here / record).exists() for record in _RECORDS)
    foreign = foreign or any((place / record).exists() for place in places for record in ("run.json", "ledger.jsonl"))
    if foreign or any(folder.resolve() in places for folder in opened):
        raise UserError(
            f"{found[0]}: the working directory is part of a run, a sweep, or the folder to open, so these settings of "
            "Weights & Biases may not be yours. Run the command from another directory, or remove the file"
        )


def has_foreign_repository(folder: Path) -> bool:
    """Return whether git would take its settings from the folder of a run, or from those around it.

    The client runs git in the folder of the run, and the settings of a repository name programs that git starts. The
    folders that contain the working directory are the user's, unless it is part of a run or sweep.

    Args:
        folder: of the run.
    """
    here = Path.cwd().resolve()
    places = (here, *here.parents)
    if any((place / record).exists() for place in places for record in ("run.json", "ledger.jsonl")):
        return True
    folder = folder.resolve()
    around = [place for place in (folder, *folder.parents) if place not in places]
    return any(os.path.lexists(place / name) for place in around for name in (".git", "HEAD"))


def key_is_configured() -> bool:
    """Whether runs can go online without a prompt. Looks where wandb looks: WANDB_API_KEY, an identity token, netrc,
    wandb's own settings; a key in a wrong form is none.

    Raises:
        ImportError: without wandb.
        UserError: if the client's settings may come from someone else.
    """
    refuse_foreign_settings()
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    try:
        host = wandb_setup.singleton().settings.base_url
        found = wbauth.authenticate_session(host=host, source="gridlight", prompt=False, update_session=False)
    except Exception as error:
        log.warning("Weights & Biases: the key cannot be used: %s", first_line(error))
        return False
    return found is not None


def why_unreachable() -> str | None:
    """Return why the server does not answer at all; None if something answers.

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
        return f"{address.geturl()} cannot be reached: {error.strerror or error}"
