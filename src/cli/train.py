"""Command line of `python -m src.train`: one run, or a resumed one."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from src.core.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(cfg: "DictConfig") -> float | None:
    """Validate a composed config and run it; return the best value of the monitored metric to Hydra."""
    from src.config.trust import trust_user_config
    from src.config.validate import check

    if cfg.sweep.resume or cfg.sweep.dry_run:
        raise UserError("sweep.resume and sweep.dry_run are for sweeps, which begin with -m")
    if cfg.search.name != "grid":
        raise UserError(f"search={cfg.search.name} is for sweeps, which begin with -m")
    if cfg.resume is not None:
        return resume(cfg.resume, sys.argv[1:])
    config = check(cfg)
    trust_user_config(cfg)
    from src.training.run import run

    return run(config).value


def resume(path: str, argv: Sequence[str]) -> float | None:
    """Resume a run; return the best value of the monitored metric.

    Args:
        path: run folder.
        argv: command line, with the keys to change.
    """
    from src.training.resume import prepare_resume

    config, folder = prepare_resume(path, argv)
    from src.training import run

    return run.resume(config, folder).value
