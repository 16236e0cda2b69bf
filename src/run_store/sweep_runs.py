"""Read the runs of a sweep for the comparison that each run redraws when it ends."""

import logging
from typing import Any

from src.config.schema.run import Config
from src.core.errors import UserError
from src.core.files import is_file_below
from src.run_store.run_folder import RunFolder

log = logging.getLogger(__name__)


def in_sweep(folder: RunFolder, config: Config) -> bool:
    """Return whether a run is a job of a sweep."""
    sweep = folder.path.parent
    return sweep.name == config.sweep.name and is_file_below(sweep, "ledger.jsonl")


def sweep_runs_with(folder: RunFolder, key: str) -> list[RunFolder]:
    """Return the runs of the same sweep, this one included, whose record has a key, in the order of their start.

    Log a warning for each run that cannot be opened.
    """
    paths = [path.parent for path in folder.path.parent.glob("*/run.json")]
    runs = []
    for path in paths:
        try:
            run = RunFolder.open(path)
        except UserError as error:
            log.warning("left out: %s", error)
            continue
        if run.record.get(key) is not None:
            runs.append(run)
    return sorted(runs, key=lambda run: str(run.record.get("started")))


def section_of(run: RunFolder, group: str) -> dict[str, Any]:
    """Return a section of the config of a run, such as ``model``. Its ``name`` is ``?`` if the config has none."""
    section: dict[str, Any] = {}
    try:
        section = run.config().get(group) or {}
    except UserError as error:
        log.warning("%s", error)
    return section | {"name": section.get("name") or "?"}
