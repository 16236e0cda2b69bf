"""Runs read back from a Weights & Biases project, as they stand in a run folder: config, record and metrics.

What the record of a run folder says is in the summary of its W&B run: metrics of the best epoch as ``best/<name>``, those of
the test, and by which metric the best epoch was chosen. Runs that others recorded are read as far as they say the same.
"""

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
from src.run_store.predictions import ANSWERS
from src.run_store.schema import predictions

AT_ONCE = 8
"""Histories that are fetched at the same time."""

MAX_DOWNLOAD_BYTES = 256 * 2**20
"""The largest file of a W&B run that is read."""

_STATUS = {"killed": "interrupted", "crashed": "interrupted", "preempted": "interrupted"}
"""What becomes of a run whose process could not say itself how it ended."""


@dataclass(frozen=True)
class WandbRun:
    """One run of a project.

    Args:
        id, name, url: in W&B; the name is that of the run folder unless it was changed.
        config: nested, as in config.yaml; without the words of a W&B sweep (``optimizer.lr``), which say the same.
        record: as in run.json: ``status``, ``monitor``, ``mode``, ``value``, ``best``, ``best_epoch``, ``final``, ``seconds``,
            ``parameters``, ``started``, ``tags``, ``notes``, ``wandb``.
        rows: as `src.run_store.metrics_file.read_metrics` returns them.
        summary: as W&B has it.
        file: gives the bytes of one of its files; None where there is none.
    """

    id: str
    name: str
    url: str
    config: Mapping[str, Any]
    record: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]
    file: Callable[[str], bytes | None] = field(repr=False, compare=False)

    def answers(self) -> Any:
        """Return what answers.json of the run folder holds; None if there is none, or if it is damaged."""
        text = self.file(ANSWERS)
        with suppress(UserError):
            return None if text is None else predictions(parse_json(text, ANSWERS), ANSWERS)
        return None

    def attention(self) -> dict[str, bytes]:
        """Return the attention maps of the run, PNG by name."""
        logged = {key.removeprefix("plots/"): value for key, value in self.summary.items() if _is_attention(key, value)}
        found = {name: self.file(value["filenames"][0]) for name, value in sorted(logged.items())}
        return {name: png for name, png in found.items() if png is not None}


def _is_attention(key: str, value: Any) -> bool:
    names = value.get("filenames") if isinstance(value, Mapping) else None
    return key.startswith("plots/attention-") and isinstance(names, list) and bool(names)


def read_project(path: str) -> list[WandbRun]:
    """Return all runs of a project, the oldest first.

    Args:
        path: ``entity/project``.

    Raises:
        UserError: if there is no such project, no key, or no answer.
    """
    if len(parts := path.split("/")) != 2 or not all(parts):
        raise UserError(f"{path}: a project of Weights & Biases is entity/project")
    if not key_is_configured():
        raise UserError("Weights & Biases: no key is configured; wandb login, or set WANDB_API_KEY")
    if reason := why_unreachable():
        raise UserError(f"Weights & Biases: {reason}")
    import wandb

    try:
        found = list(wandb.Api(timeout=60).runs(path, lazy=False, order="+created_at"))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            histories = list(pool.map(lambda run: list(run.scan_history(use_cache=False)), found))
    except Exception as error:
        raise UserError(f"Weights & Biases: {path} cannot be read: {first_line(error)}") from error
    if not found:
        raise UserError(f"Weights & Biases: there are no runs in {path}")
    return [_run(run, history) for run, history in zip(found, histories, strict=True)]


def _run(run: Any, history: Sequence[Mapping[str, Any]]) -> WandbRun:
    config = {key: value for key, value in run.config.items() if not key.startswith(("_", "+")) and "." not in key}
    summary = {key: value for key, value in dict(run.summary).items() if not key.startswith("_")}
    rows = list(history_rows(history))
    named = (summary.get("monitor"), config.get("monitor"))
    monitor = next((name for name in named if name and isinstance(name, str)), "val/loss")
    mode = "min" if any(word in monitor for word in ("loss", "err", "perplexity")) else "max"
    mode = str(summary["mode"]) if summary.get("mode") in ("min", "max") else mode
    epoch, best = best_epoch(rows, monitor, mode, summary.get("best_since"))
    runtime = (dict(run.summary).get("_wandb") or {}).get("runtime")
    record = {
        "status": _status(run.state, summary),
        "command": summary.get("command"),
        "error": summary.get("error"),
        "monitor": monitor,
        "mode": mode,
        "value": best.get(monitor),
        "best": best,
        "best_epoch": epoch,
        "final": {key: value for key, value in summary.items() if key.startswith("test/") and _is_number(value)},
        "seconds": summary.get("seconds", runtime),
        "parameters": summary.get("parameters"),
        "multiply_adds": summary.get("multiply_adds"),
        "seed": config.get("seed"),
        "started": run.created_at,
        "tags": list(run.tags or []),
        "notes": run.notes,
        "wandb": {"id": run.id, "mode": "online", "url": run.url},
    }
    return WandbRun(run.id, run.name or run.id, run.url, config, record, rows, summary, partial(_file, run))


def _status(state: str, summary: Mapping[str, Any]) -> str:
    """Return what became of a run, as its folder says it where it has ended by itself."""
    said = summary.get("status")
    return said if state in ("finished", "failed") and isinstance(said, str) else _STATUS.get(state, state)


def _file(run: Any, name: str) -> bytes | None:
    """Return the contents of a file of a run; None if there is none, or if it cannot be had.

    The name may come from the server: W&B writes below a folder by it.
    """
    if not _is_plain_path(name):
        return None
    with TemporaryDirectory() as place:
        try:
            run.file(name).download(root=place, replace=True).close()
            return read_below(Path(place).resolve(), name, MAX_DOWNLOAD_BYTES)
        except Exception:  # the run has none, or the server fails
            return None


def _is_plain_path(name: object) -> bool:
    """Return whether a name is a relative path in which every component is plain."""
    try:
        return isinstance(name, str) and all(plain_name(part) for part in name.split("/"))
    except UserError:
        return False


def history_rows(history: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the lines of metrics.jsonl; what a resumed run repeated counts once, as it was the last time."""
    rows: list[dict[str, Any]] = []
    for line in sorted(history, key=lambda line: line.get("_step", 0)):
        numbers = {key: _number(value) for key, value in line.items() if not key.startswith("_")}
        values = {key: value for key, value in numbers.items() if _is_number(value)}
        step, epoch = values.pop("trainer/global_step", line.get("_step")), values.pop("epoch", None)
        if not values or not isinstance(step, int | float):
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
    """Return what W&B writes as a word, as the number that it is."""
    return math.nan if value in ("NaN", "Infinity", "-Infinity") else value


def _is_number(value: Any) -> bool:
    """Tell numbers from pictures and tables."""
    return isinstance(value, int | float) and not isinstance(value, bool)
