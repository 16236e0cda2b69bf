"""Hash of a config: equal for configs that train the same model."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.run_store.config_file import plain

_NO_INFLUENCE = (
    "paths",
    "resume",
    "tags",
    "notes",
    "logger",
    "sweep",
    "callbacks.progress",
    "callbacks.checkpoints",
    "callbacks.answers",
    "trainer.profiler",
    "trainer.detect_anomaly",
    "trainer.log_every_n_steps",
    "trainer.loop",
    "model.checkpoint_activations",
)
"""Keys that change where and how a run is recorded, not what comes out."""


def config_hash(config: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits that two configs share when the same result is to be expected of them.

    The order of keys does not count, nor do the keys that only say where and how a run is recorded. Paths below the
    working directory count from there, so that a project may lie anywhere.
    """
    relevant = plain(config)
    for key in _NO_INFLUENCE:
        *parents, last = key.split(".")
        node = relevant
        for parent in parents:
            node = node.get(parent) if isinstance(node.get(parent), dict) else {}
        node.pop(last, None)
    text = json.dumps(relevant, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    here = json.dumps(f"{Path.cwd()}{os.sep}")[:-1]
    return hashlib.sha256(text.replace(here, '"').encode()).hexdigest()[:12]
