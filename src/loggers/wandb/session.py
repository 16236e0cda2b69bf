"""Sessions of Weights & Biases: start, resume, and choose online or offline."""

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

from src.config.wandb_account import own_account
from src.core.errors import UserError, first_line
from src.core.files import UnsafeFileError, links_that_leave
from src.core.wandb_account import RUN_ID, Account
from src.loggers.wandb.connection import (
    has_foreign_repository,
    key_is_configured,
    refuse_foreign_settings,
    why_unreachable,
)
from src.loggers.wandb.logger import WeightsAndBiases, _unreachable, _used_ids
from src.loggers.wandb.pending import recorded_state, waiting_in
from src.loggers.wandb.sync import upload
from src.run_store.run_folder import WANDB_LINKS, RunFolder

log = logging.getLogger(__name__)


def start(
    settings: Mapping[str, Any], folder: RunFolder, run_config: Mapping[str, Any], beside: bool = False
) -> WeightsAndBiases | None:
    """Open a W&B run: online, else offline; None, with a warning, if neither can be had.

    The id of the W&B run is in run.json before W&B hears of it, so that a resumed run goes on with the same one.

    Args:
        settings: conf/logger/wandb.yaml.
        folder: the run's folder.
        run_config: the resolved config, which W&B shows.
        beside: other W&B runs of this process are open, and stay so.
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
        if mode == "online" and not _earlier_sessions_arrive(folder, settings):
            mode = "offline"
    except Exception as error:
        log.warning("Weights & Biases is left out: %s", first_line(error))
        return None
    known = recorded_state(folder)
    whole = mode == "online" or known.get("complete", True)  # before it goes online, all earlier parts have arrived
    for attempt in ("online", "offline") if mode == "online" else ("offline",):
        before = set(_kept(folder))
        try:
            folder.update(wandb={"id": run_id, "mode": attempt, "url": known.get("url"), "complete": False})
            return _open(wandb, attempt, run_id, settings, folder, run_config, folder.path, whole, beside)
        except Exception as error:
            _unreachable.add(_host(wandb))
            follows = "the run is recorded offline" if attempt == "online" else "it is left out"
            log.warning("Weights & Biases %s failed, %s: %s", attempt, follows, first_line(error))
            if not beside:
                with suppress(Exception):
                    wandb.teardown()  # its service still holds the id
            for empty in set(_kept(folder)) - before:
                shutil.rmtree(empty, ignore_errors=True)
    return None


def _earlier_sessions_arrive(folder: RunFolder, settings: Mapping[str, Any]) -> bool:
    """Upload what earlier sessions of a resumed run left on disk: the server takes the steps of a run in their order.

    They may go where the run itself goes, whose settings are the user's or were checked.
    """
    earlier = waiting_in(folder.path)
    if earlier is None:
        return True
    log.info("Weights & Biases: an earlier part of this run is uploaded first")
    account = own_account(settings.get("entity"), settings.get("project"))
    timeout = settings.get("finish_timeout", 30.0)
    if not (reason := why_unreachable()) and not (failed := upload([earlier], account, timeout=timeout, held=True)):
        return True
    log.warning(
        "Weights & Biases: an earlier part of this run cannot be uploaded yet, so it goes on offline: %s",
        reason or failed[0][1],
    )
    return False


def reopen(folder: RunFolder, patience: float, account: Account, place: Path) -> WeightsAndBiases:
    """Open the W&B run of a run that has ended, online, to complete it.

    Args:
        folder: the run's, whose lock this process holds.
        patience: seconds to wait for its end.
        account: where it may be.
        place: a folder of this process for the client's files.

    Raises:
        Exception: whatever the client raises.
    """
    import wandb

    refuse_foreign_settings([folder.path])
    config = folder.config()
    logger = config.get("logger")
    settings = _recorded_settings(logger.get("wandb") if isinstance(logger, dict) else None, account)
    run_id = recorded_state(folder)["id"]
    settings |= {"init_timeout": 60, "finish_timeout": patience}
    return _open(wandb, "online", run_id, settings, folder, config, place)


def _recorded_settings(recorded: object, account: Account) -> dict[str, Any]:
    """Return the settings of a recorded config that may reach the client.

    Raises:
        UserError: if a value has a wrong type, or if the run belongs to another account.
    """
    from pydantic import ValidationError

    from src.config.schema.logger import WeightsAndBiases as Settings

    known = recorded if isinstance(recorded, dict) else {}
    try:
        settings = Settings.model_validate({key: value for key, value in known.items() if key in Settings.model_fields})
    except ValidationError as error:
        raise UserError(f"config.yaml: logger.wandb: {error.errors()[0]['msg']}") from error
    if reason := account.refusal(settings.entity, settings.project):
        raise UserError(f"config.yaml: {reason}")
    return settings.model_dump()


def _refuse_links(folder: RunFolder) -> None:
    """Raise an error if the client would write through a link of the run folder, as it opens files by path.

    Raises:
        UnsafeFileError: if so.
    """
    place = folder.path / "wandb"
    if place.is_symlink():
        raise UnsafeFileError(f"{place}: this is a link, and links are not followed here")
    left = [link for link in links_that_leave(folder.path, WANDB_LINKS) if link.is_relative_to(place)]
    if left:
        raise UnsafeFileError(f"{left[0]}: this link points out of the folder, so W&B does not write there")


def _host(wandb: Any) -> str:
    from wandb.sdk import wandb_setup

    return str(wandb_setup.singleton().settings.base_url)


def _kept(folder: RunFolder) -> list[Path]:
    """Return the folders that W&B made for the sessions of a run."""
    return sorted(path for path in (folder.path / "wandb").glob("*run-*") if path.is_dir() and not path.is_symlink())


def _quiet(wandb: Any) -> None:
    """Keep wandb from printing, and from waiting at exit for telemetry about itself that cannot be delivered."""
    with suppress(Exception):
        from wandb.analytics.opentelemetry import opentelemetry_proxy

        opentelemetry_proxy.disable()
    silent = wandb.Settings(silent=True)
    wandb.setup(settings=silent)
    wandb.termsetup(silent, None)


def _open(
    wandb: Any,
    mode: str,
    run_id: str,
    settings: Mapping[str, Any],
    folder: RunFolder,
    run_config: Mapping[str, Any],
    place: Path,
    whole: bool = True,
    beside: bool = False,
) -> WeightsAndBiases:
    _quiet(wandb)
    run = wandb.init(
        id=run_id,
        dir=str(place),
        resume="allow",
        config=dict(run_config) | _words_of_a_sweep(run_config),
        name=settings.get("name") or folder.path.name,
        **{key: settings.get(key) for key in ("project", "entity", "group", "job_type", "tags", "notes")},
        settings=wandb.Settings(
            mode=mode,
            silent=True,
            use_dot_wandb=False,
            # A run that was left open must not take the metrics of this one.
            reinit="create_new" if beside else "finish_previous",
            init_timeout=settings.get("init_timeout", 10.0),
            finish_timeout=settings.get("finish_timeout", 30.0),
            finish_timeout_raises=True,
            **({"disable_git": True} if has_foreign_repository(place) else {}),
        ),
    )
    if mode == "online":
        folder.update(wandb={**folder.record["wandb"], "url": run.url})
    return WeightsAndBiases(run, folder, mode, settings.get("log_model", False), whole)


def _words_of_a_sweep(run_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a W&B agent chose for this run, by its words such as ``optimizer.lr``, for W&B's view of the sweep.

    W&B would put them over the config and keep it so: ``scheduler: cosine`` in the place of everything about the schedule.
    They came by the command line, and are in the config.
    """
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import config_util

    settings = wandb_setup.singleton().settings
    if settings.sweep_param_path is None:
        return {}
    words = config_util.dict_from_config_file(settings.sweep_param_path) or {}
    settings.sweep_param_path = None
    return {key: value for key, value in words.items() if key not in run_config}


def _mode(wandb: Any) -> str:
    """Return ``online``, ``offline`` or ``disabled``: what is configured, as far as it is possible without a prompt."""
    from wandb.sdk import wandb_setup

    settings = wandb_setup.singleton().settings
    mode = {"dryrun": "offline", "run": "online"}.get(settings.mode, settings.mode)
    if mode in ("offline", "disabled"):
        return mode
    if settings.base_url in _unreachable:
        log.info("Weights & Biases: %s failed an earlier run, this one is recorded offline", settings.base_url)
        return "offline"
    if key_is_configured():
        return "online"
    if os.environ.get("WANDB_MODE"):
        log.warning("Weights & Biases: no key is configured for %s, the run is recorded offline", settings.base_url)
    return "offline"


def _run_id(folder: RunFolder) -> str:
    """Return the id of the W&B run: the one it had before, the one a W&B agent gives, or a new one."""
    known = recorded_state(folder).get("id")
    given = os.environ.get("WANDB_RUN_ID")
    if known is None and given and given not in _used_ids:
        if not re.fullmatch(RUN_ID, given):
            raise UserError(
                f"WANDB_RUN_ID={given!r:.80}: the id of a run has at most 128 letters, digits, '_', '-' and '.'"
            )
        known = given
    if known is None:
        known = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))
    _used_ids.add(known)
    return known
