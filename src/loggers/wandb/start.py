"""Start or resume the session of Weights & Biases of a training run, online or offline."""

import logging
import os
import re
import secrets
import shutil
import string
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from src.config.wandb_account import user_account
from src.core.errors import UserError, first_line
from src.core.files import UnsafeFileError, links_that_leave
from src.core.wandb_account import RUN_ID
from src.loggers.wandb.connection import (
    failed_servers,
    key_is_configured,
    refuse_foreign_settings,
    why_unreachable,
)
from src.loggers.wandb.logger import WeightsAndBiases
from src.loggers.wandb.pending import pending_upload, recorded_state
from src.loggers.wandb.session import host, open_run
from src.loggers.wandb.sync import upload
from src.run_store.run_folder import WANDB_LINKS, RunFolder

log = logging.getLogger(__name__)
_used_ids: set[str] = set()
"""Ids of the W&B runs of this process. An agent sets the same id for all of them."""


def start(
    settings: Mapping[str, Any], folder: RunFolder, run_config: Mapping[str, Any], concurrent: bool = False
) -> WeightsAndBiases | None:
    """Open a W&B run, online if possible, else offline; return None, with a warning, if neither is possible.

    The id of the W&B run is written to run.json before the W&B run is opened, so that a resumed run continues the same one.

    Args:
        settings: conf/logger/wandb.yaml.
        folder: the run's folder.
        run_config: the resolved config, which W&B shows.
        concurrent: keep other W&B runs of this process open.
    """
    if getattr(rank_zero_only, "rank", 0) != 0:
        return None
    try:
        import wandb

        mode = _mode(wandb)
        if mode == "disabled":
            log.info("Weights & Biases is left out: WANDB_MODE=disabled")
            return None
        refuse_foreign_settings([folder.path])
        _refuse_links(folder)
        run_id = _run_id(folder)
        if mode == "online" and not _upload_earlier_sessions(folder, settings):
            mode = "offline"
    except Exception as error:
        log.warning("Weights & Biases is left out: %s", first_line(error))
        return None
    state = recorded_state(folder)
    complete = mode == "online" or state.get(
        "complete", True
    )  # online mode requires that earlier sessions are uploaded
    for attempt in ("online", "offline") if mode == "online" else ("offline",):
        before = set(_session_folders(folder))
        try:
            folder.update(wandb={"id": run_id, "mode": attempt, "url": state.get("url"), "complete": False})
            return open_run(wandb, attempt, run_id, settings, folder, run_config, folder.path, complete, concurrent)
        except Exception as error:
            failed_servers.add(host(wandb))
            consequence = "the run is recorded offline" if attempt == "online" else "it is left out"
            log.warning("Weights & Biases %s failed, %s: %s", attempt, consequence, first_line(error))
            if not concurrent:
                with suppress(Exception):
                    wandb.teardown()  # its service still holds the id
            for new in set(_session_folders(folder)) - before:
                shutil.rmtree(new, ignore_errors=True)
    return None


def _upload_earlier_sessions(folder: RunFolder, settings: Mapping[str, Any]) -> bool:
    """Upload the earlier sessions of a resumed run, because the server needs the steps of a run in order; return whether
    that succeeded.

    They may be uploaded to the account of the run itself, whose settings are the user's or were checked.
    """
    earlier = pending_upload(folder.path)
    if earlier is None:
        return True
    log.info("Weights & Biases: uploading an earlier part of this run first")
    account = user_account(settings.get("entity"), settings.get("project"))
    timeout = settings.get("finish_timeout", 30.0)
    reason = why_unreachable()
    if not reason:
        failed = upload([earlier], account, timeout=timeout, is_locked=True)
        if not failed:
            return True
        reason = failed[0][1]
    log.warning(
        "Weights & Biases: an earlier part of this run cannot be uploaded yet, so the run continues offline: %s", reason
    )
    return False


def _refuse_links(folder: RunFolder) -> None:
    """Raise an error if the client, which opens files by path, would write through a link of the run folder.

    Raises:
        UnsafeFileError: if there is such a link.
    """
    wandb_folder = folder.path / "wandb"
    if wandb_folder.is_symlink():
        raise UnsafeFileError(f"{wandb_folder}: this is a link, and links are not followed here")
    links = [link for link in links_that_leave(folder.path, WANDB_LINKS) if link.is_relative_to(wandb_folder)]
    if links:
        raise UnsafeFileError(f"{links[0]}: this link points out of the folder, so W&B does not write there")


def _session_folders(folder: RunFolder) -> list[Path]:
    """Return the folders of the W&B sessions of a run."""
    return sorted(path for path in (folder.path / "wandb").glob("*run-*") if path.is_dir() and not path.is_symlink())


def _mode(wandb: Any) -> str:
    """Return ``online``, ``offline`` or ``disabled``: the configured mode, as far as it is possible without a prompt."""
    from wandb.sdk import wandb_setup

    settings = wandb_setup.singleton().settings
    mode = {"dryrun": "offline", "run": "online"}.get(settings.mode, settings.mode)
    if mode in ("offline", "disabled"):
        return mode
    if settings.base_url in failed_servers:
        log.info("Weights & Biases: %s failed for an earlier run, so this run is recorded offline", settings.base_url)
        return "offline"
    if key_is_configured():
        return "online"
    if os.environ.get("WANDB_MODE"):
        log.warning("Weights & Biases: no key is configured for %s, so the run is recorded offline", settings.base_url)
    return "offline"


def _run_id(folder: RunFolder) -> str:
    """Return the id of the W&B run: the recorded one, the one that a W&B agent sets, or a new one."""
    run_id = recorded_state(folder).get("id")
    agent_id = os.environ.get("WANDB_RUN_ID")
    if run_id is None and agent_id and agent_id not in _used_ids:
        if not re.fullmatch(RUN_ID, agent_id):
            raise UserError(
                f"WANDB_RUN_ID={agent_id!r:.80}: the id of a run has at most 128 letters, digits, '_', '-' and '.'"
            )
        run_id = agent_id
    if run_id is None:
        run_id = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))
    _used_ids.add(run_id)
    return run_id
