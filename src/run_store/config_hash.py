"""Hash of a config: equal for configs that train the same model."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.run_store.config_file import to_plain

_NO_INFLUENCE = (
    "paths",
    "resume",
    "tags",
    "notes",
    "logger",
    "sweep",
    "callbacks.progress",
    "callbacks.checkpoints",
    "callbacks.predictions",
    "trainer.profiler",
    "trainer.detect_anomaly",
    "trainer.log_every_n_steps",
    "trainer.loop",
    "model.checkpoint_activations",
)
"""Keys that change where and how a run is recorded, but not its result."""


def config_hash(config: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits, which are equal for configs that must give the same result.

    The order of keys does not matter, nor do the keys in `_NO_INFLUENCE`. Paths below the working directory are made
    relative to it, so that the hash does not depend on where a project is stored.
    """
    relevant = to_plain(config)
    for key in _NO_INFLUENCE:
        *parents, last = key.split(".")
        node = relevant
        for parent in parents:
            node = node.get(parent) if isinstance(node.get(parent), dict) else {}
        node.pop(last, None)
    text = json.dumps(relevant, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    quoted_prefix = json.dumps(f"{Path.cwd()}{os.sep}")[:-1]
    return hashlib.sha256(text.replace(quoted_prefix, '"').encode()).hexdigest()[:12]
