"""Read runs from a Weights & Biases project in the form of a run folder: config, record and metrics.

The summary of a W&B run has the contents of the record: metrics of the best epoch as ``best/<name>``, metrics of the test,
and the metric that selected the best epoch. Runs that others recorded are read as far as they have the same entries.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from src.core.errors import UserError, first_line
from src.core.files import plain_name, read_below
from src.core.records import parse_json
from src.loggers.wandb.connection import key_is_configured, why_unreachable
from src.run_store.best_epoch import best_epoch
from src.run_store.predictions import PREDICTIONS
from src.run_store.recorded_run import is_number
from src.run_store.schema import validate_predictions

log = logging.getLogger(__name__)

MAX_CONCURRENT_DOWNLOADS = 8
"""Number of histories that are downloaded at the same time."""

MAX_DOWNLOAD_BYTES = 256 * 2**20
"""Maximum size of a file of a W&B run."""

_STATUS = {"killed": "interrupted", "crashed": "interrupted", "preempted": "interrupted"}
"""Status of a run whose process could not record it, by the state in W&B."""


@dataclass(frozen=True)
class WandbRun:
    """One run of a project.

    Args:
        id, name, url: in W&B; the name is that of the run folder unless it was changed.
        config: nested, as in config.yaml, without the dotted keys of a W&B sweep (``optimizer.lr``), which duplicate it.
        record: as in run.json: ``status``, ``monitor``, ``mode``, ``value``, ``best``, ``best_epoch``, ``final``, ``seconds``,
            ``parameters``, ``started``, ``tags``, ``notes``, ``wandb``.
        rows: as `src.run_store.metrics_file.read_metrics` returns them.
        summary: as in W&B.
        file: returns the contents of one of its files; None if there is no such file.
    """

    id: str
    name: str
    url: str
    config: Mapping[str, Any]
    record: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]
    file: Callable[[str], bytes | None] = field(repr=False, compare=False)

    def predictions(self) -> Any:
        """Return the contents of predictions.json; None if there is none, or if it is damaged."""
        text = self.file(PREDICTIONS)
        with suppress(UserError):
            return None if text is None else validate_predictions(parse_json(text, PREDICTIONS), PREDICTIONS)
        return None

    def attention(self) -> dict[str, bytes]:
        """Return the attention maps of the run, PNG by name."""
        entries = {
            key.removeprefix("plots/"): value for key, value in self.summary.items() if _is_attention(key, value)
        }
        files = {name: self.file(value["filenames"][0]) for name, value in sorted(entries.items())}
        return {name: png for name, png in files.items() if png is not None}


def _is_attention(key: str, value: Any) -> bool:
    names = value.get("filenames") if isinstance(value, Mapping) else None
    return key.startswith("plots/attention-") and isinstance(names, list) and bool(names)


def read_project(path: str) -> list[WandbRun]:
    """Return all runs of a project, the oldest first.

    Args:
        path: ``entity/project``.

    Raises:
        UserError: if there is no such project, no key is configured, or the server cannot be reached.
    """
    if len(parts := path.split("/")) != 2 or not all(parts):
        raise UserError(f"{path}: a project of Weights & Biases is entity/project")
    if not key_is_configured():
        raise UserError("Weights & Biases: no key is configured; run wandb login, or set WANDB_API_KEY")
    if reason := why_unreachable():
        raise UserError(f"Weights & Biases: {reason}")
    import wandb

    try:
        wandb_runs = list(wandb.Api(timeout=60).runs(path, lazy=False, order="+created_at"))
        with ThreadPoolExecutor(MAX_CONCURRENT_DOWNLOADS) as pool:
            histories = list(pool.map(lambda run: list(run.scan_history(use_cache=False)), wandb_runs))
    except Exception as error:
        raise UserError(f"Weights & Biases: {path} cannot be read: {first_line(error)}") from error
    if not wandb_runs:
        raise UserError(f"Weights & Biases: there are no runs in {path}")
    runs = []
    for run, history in zip(wandb_runs, histories, strict=True):
        try:
            runs.append(_convert_run(run, history))
        except Exception as error:  # a run of another program may contain anything
            log.warning("Weights & Biases: the run %r is left out: %s", run.id, first_line(error))
    return runs


def _convert_run(run: Any, history: Sequence[Mapping[str, Any]]) -> WandbRun:
    config = {key: value for key, value in run.config.items() if not key.startswith(("_", "+")) and "." not in key}
    summary = {key: value for key, value in dict(run.summary).items() if not key.startswith("_")}
    rows = list(history_rows(history))
    candidates = (summary.get("monitor"), config.get("monitor"))
    monitor = next((name for name in candidates if name and isinstance(name, str)), "val/loss")
    mode = "min" if any(part in monitor for part in ("loss", "err", "perplexity")) else "max"
    mode = str(summary["mode"]) if summary.get("mode") in ("min", "max") else mode
    since = _finite(summary.get("best_since"))
    epoch, best = best_epoch(rows, monitor, mode, None if since is None else int(since))
    internal = dict(run.summary).get("_wandb")
    runtime = internal.get("runtime") if isinstance(internal, Mapping) else None
    record = {
        "status": _status(run.state, summary),
        "command": _text(summary.get("command")),
        "error": _text(summary.get("error")),
        "monitor": monitor,
        "mode": mode,
        "value": best.get(monitor),
        "best": best,
        "best_epoch": epoch,
        "final": {key: value for key, value in summary.items() if key.startswith("test/") and is_number(value)},
        "seconds": _finite(summary.get("seconds", runtime)),
        "parameters": _finite(summary.get("parameters")),
        "multiply_adds": _finite(summary.get("multiply_adds")),
        "seed": config.get("seed"),
        "started": run.created_at,
        "tags": list(run.tags or []),
        "notes": run.notes,
        "wandb": {"id": run.id, "mode": "online", "url": run.url},
    }
    return WandbRun(run.id, run.name or run.id, run.url, config, record, rows, summary, partial(_file, run))


def _status(state: str, summary: Mapping[str, Any]) -> str:
    """Return the status of a run: the recorded one if its process ended normally, else one derived from W&B's state."""
    recorded = summary.get("status")
    return recorded if state in ("finished", "failed") and isinstance(recorded, str) else _STATUS.get(state, state)


def _file(run: Any, name: str) -> bytes | None:
    """Return the contents of a file of a run; None if there is no such file, or if it cannot be downloaded.

    The name may come from the server, and the client uses it as a path below the target folder, so it is checked.
    """
    if not _is_plain_path(name):
        return None
    with TemporaryDirectory() as folder:
        try:
            run.file(name).download(root=folder, replace=True).close()
            return read_below(Path(folder).resolve(), name, MAX_DOWNLOAD_BYTES)
        except Exception:  # there is no such file, or the server fails
            return None


def _is_plain_path(name: object) -> bool:
    """Return whether a name is a relative path in which every component is plain."""
    try:
        return isinstance(name, str) and all(plain_name(part) for part in name.split("/"))
    except UserError:
        return False


def history_rows(history: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a history in the form of metrics.jsonl. Of steps that a resumed run repeated, the last ones count."""
    rows: list[dict[str, Any]] = []
    for line in sorted(history, key=lambda line: _finite(line.get("_step")) or 0):
        numbers = {key: _number(value) for key, value in line.items() if not key.startswith("_")}
        values = {key: value for key, value in numbers.items() if is_number(value)}
        step, epoch = _finite(values.pop("trainer/global_step", line.get("_step"))), _finite(values.pop("epoch", None))
        if not values or step is None:
            continue
        row = {
            "step": int(step),
            "epoch": None if epoch is None else int(epoch),
            **values,
            "time": line.get("_timestamp"),
        }
        if rows and row["step"] < rows[-1]["step"]:
            rows = [earlier for earlier in rows if earlier["step"] < row["step"]]
        rows.append(row)
    yield from rows


def _number(value: Any) -> Any:
    """Return NaN for a non-finite number, which W&B writes as a text; return any other value unchanged."""
    return math.nan if value in ("NaN", "Infinity", "-Infinity") else value


def _finite(value: Any) -> Any:
    return value if is_number(value) and math.isfinite(value) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
