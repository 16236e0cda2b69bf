"""Names of sweeps and jobs: readable, without "=", and different for different configs."""

import re
from collections.abc import Sequence

from omegaconf import DictConfig

_LONGEST = 80


def varied(job_overrides: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return for each job the words that differ between jobs."""
    shared = set.intersection(*(set(words) for words in job_overrides)) if len(job_overrides) > 1 else set()
    return [[word for word in words if word not in shared] for words in job_overrides]


def sweep_name(master: DictConfig, keys: Sequence[str]) -> str:
    """Return the default name of a sweep: the model and the swept keys, such as ``mlp-lr-weight_decay``."""
    keys = [key.lstrip("+~") for key in keys]
    parts = [key.rpartition(".")[2].rpartition("/")[2] for key in keys]
    model = [] if "model" in keys else [str(master.model.name)]
    return _clean("-".join([*model, *parts]))[:_LONGEST]


def job_name(words: Sequence[str], digest: str) -> str:
    """Return a job's folder: its values, and the hash of its config, without which two could meet."""
    parts = [f"{key.rpartition('.')[2]}-{value}" for key, _, value in (word.partition("=") for word in words)]
    return f"{_clean('_'.join(parts))[:_LONGEST]}_{digest}".lstrip("_")


def _clean(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.")
