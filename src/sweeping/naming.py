"""Names of sweeps and jobs: readable, without "=", and unique for each config."""

import re
from collections.abc import Sequence

from omegaconf import DictConfig

_MAX_LENGTH = 80


def varied(job_overrides: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the overrides of each job that differ between jobs."""
    shared = set.intersection(*(set(overrides) for overrides in job_overrides)) if len(job_overrides) > 1 else set()
    return [[override for override in overrides if override not in shared] for overrides in job_overrides]


def sweep_name(master: DictConfig, keys: Sequence[str]) -> str:
    """Return the default name of a sweep: the model and the swept keys, such as ``mlp-lr-weight_decay``."""
    keys = [key.lstrip("+~") for key in keys]
    parts = [key.rpartition(".")[2].rpartition("/")[2] for key in keys]
    model = [] if "model" in keys else [str(master.model.name)]
    return _clean("-".join([*model, *parts]))[:_MAX_LENGTH]


def job_name(overrides: Sequence[str], digest: str) -> str:
    """Return the folder name of a job: its values, and the hash of its config, which makes it unique."""
    parts = [
        f"{key.rpartition('.')[2]}-{value}" for key, _, value in (override.partition("=") for override in overrides)
    ]
    return f"{_clean('_'.join(parts))[:_MAX_LENGTH]}_{digest}".lstrip("_")


def _clean(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.")
