"""Open a run of Weights & Biases, online or offline."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from src.core.errors import UserError
from src.core.wandb_account import Account
from src.loggers.wandb.connection import (
    has_foreign_repository,
    refuse_foreign_settings,
)
from src.loggers.wandb.logger import WeightsAndBiases
from src.loggers.wandb.pending import recorded_state
from src.run_store.run_folder import RunFolder

log = logging.getLogger(__name__)


def reopen(folder: RunFolder, timeout: float, account: Account, client_folder: Path) -> WeightsAndBiases:
    """Open the W&B run of a run that has ended, online, to backfill it.

    Args:
        folder: folder of the run. This process holds its lock.
        timeout: seconds to wait for the end of the upload.
        account: where the run may be uploaded.
        client_folder: a temporary folder for the client's files.

    Raises:
        Exception: any error of the client.
    """
    import wandb

    refuse_foreign_settings([folder.path])
    config = folder.config()
    logger = config.get("logger")
    settings = _recorded_settings(logger.get("wandb") if isinstance(logger, dict) else None, account)
    run_id = recorded_state(folder)["id"]
    settings |= {"init_timeout": 60, "finish_timeout": timeout}
    return open_run(wandb, "online", run_id, settings, folder, config, client_folder)


def _recorded_settings(recorded: object, account: Account) -> dict[str, Any]:
    """Return the settings of a recorded config that may be passed to the client.

    Raises:
        UserError: if a value has a wrong type, or if the run belongs to another account.
    """
    from pydantic import ValidationError

    from src.config.schema.logger import WeightsAndBiases as Settings

    values = recorded if isinstance(recorded, dict) else {}
    try:
        settings = Settings.model_validate(
            {key: value for key, value in values.items() if key in Settings.model_fields}
        )
    except ValidationError as error:
        raise UserError(f"config.yaml: logger.wandb: {error.errors()[0]['msg']}") from error
    if reason := account.refusal(settings.entity, settings.project):
        raise UserError(f"config.yaml: {reason}")
    return settings.model_dump()


def host(wandb: Any) -> str:
    from wandb.sdk import wandb_setup

    return str(wandb_setup.singleton().settings.base_url)


def _quiet(wandb: Any) -> None:
    """Prevent wandb from printing, and from waiting at exit for its own telemetry that cannot be delivered."""
    with suppress(Exception):
        from wandb.analytics.opentelemetry import opentelemetry_proxy

        opentelemetry_proxy.disable()
    silent = wandb.Settings(silent=True)
    wandb.setup(settings=silent)
    wandb.termsetup(silent, None)


def open_run(
    wandb: Any,
    mode: str,
    run_id: str,
    settings: Mapping[str, Any],
    folder: RunFolder,
    run_config: Mapping[str, Any],
    client_folder: Path,
    complete: bool = True,
    concurrent: bool = False,
) -> WeightsAndBiases:
    _quiet(wandb)
    run = wandb.init(
        id=run_id,
        dir=str(client_folder),
        resume="allow",
        config=dict(run_config) | _sweep_parameters(run_config),
        name=settings.get("name") or folder.path.name,
        **{key: settings.get(key) for key in ("project", "entity", "group", "job_type", "tags", "notes")},
        settings=wandb.Settings(
            mode=mode,
            silent=True,
            use_dot_wandb=False,
            # An earlier run that was not closed must not receive the metrics of this one.
            reinit="create_new" if concurrent else "finish_previous",
            init_timeout=settings.get("init_timeout", 10.0),
            finish_timeout=settings.get("finish_timeout", 30.0),
            finish_timeout_raises=True,
            **({"disable_git": True} if has_foreign_repository(client_folder) else {}),
        ),
    )
    if mode == "online":
        folder.update(wandb={**folder.record["wandb"], "url": run.url})
    return WeightsAndBiases(run, folder, mode, settings.get("log_model", False), complete)


def _sweep_parameters(run_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that a W&B agent chose for this run, by dotted keys such as ``optimizer.lr``, for W&B's page of
    the sweep.

    W&B would overwrite the config with them: ``scheduler: cosine`` in place of the whole section. They are part of the
    command line, so the config already has them.
    """
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import config_util

    settings = wandb_setup.singleton().settings
    if settings.sweep_param_path is None:
        return {}
    parameters = config_util.dict_from_config_file(settings.sweep_param_path) or {}
    settings.sweep_param_path = None
    return {key: value for key, value in parameters.items() if key not in run_config}
