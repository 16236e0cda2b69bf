"""Runs to compare, created without training."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.comparison.page import write_report
from src.comparison.view import views
from src.run_store.recorded_run import Curve, RecordedRun

MakeRun = Callable[..., RecordedRun]
WriteRun = Callable[..., Path]


def nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested config of dotted keys."""
    config: dict[str, Any] = {}
    for key, value in keys.items():
        *parents, last = key.split(".")
        node = config
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return config


@pytest.fixture
def run() -> MakeRun:
    """Return a function that creates a run in memory from a value of val/loss and the keys of its config."""
    numbers = iter(range(10**6))

    def make(
        value: float | None,
        keys: Mapping[str, Any] | None = None,
        status: str = "finished",
        metric: str = "val/loss",
        mode: str = "min",
        summary: Mapping[str, float] | None = None,
        curves: Mapping[str, Sequence[float]] | None = None,
        command: str = "",
        name: str = "",
        **record: Any,
    ) -> RecordedRun:
        number = next(numbers)
        measured = {} if value is None else {metric: value}
        recorded = {key: Curve(range(1, len(values) + 1), list(values)) for key, values in (curves or {}).items()}
        return RecordedRun(
            name=name or f"run-{number}",
            place=f"outputs/runs/{name or number}",
            config={"model.name": "mlp", "datamodule.name": "digits", **(keys or {})},
            status=status,
            metric=metric,
            mode=mode,
            value=value,
            seconds=2.0,
            summary=measured | dict(summary or {}),
            record={"command": command, "parameters": 100, "best_epoch": 4, **record},
            read_curves=lambda: recorded,
        )

    return make


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Return a function that writes a run folder and returns its path."""

    def write(
        name: str,
        keys: Mapping[str, Any] | None = None,
        losses: Sequence[float] = (1.0, 0.5),
        status: str = "finished",
        tail: str = "",
        **record: Any,
    ) -> Path:
        folder = tmp_path / "sweep" / name
        folder.mkdir(parents=True)
        keys = {"seed": 0, "model.name": "mlp", "datamodule.name": "digits", **(keys or {})}
        (folder / "config.yaml").write_text(yaml.safe_dump(nested(keys), sort_keys=False))
        lines = []
        for epoch, loss in enumerate(losses):
            step = {"step": 10 * epoch + 9, "epoch": epoch}
            lines.append(step | {"val/loss": loss, "val/accuracy": 1 - loss / 2, "time": 1.0})
            lines.append(step | {"train/loss": loss / 2, "lr": 0.1, "time": 1.0})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
        best = min(range(len(losses)), key=losses.__getitem__) if losses else None
        entries: dict[str, Any] = {"status": status, "seconds": 3.0, "parameters": 1000, "error": None}
        if status == "finished" and best is not None:
            metrics = {"val/loss": losses[best], "val/accuracy": 1 - losses[best] / 2, "train/loss": losses[best] / 2}
            entries |= {
                "monitor": "val/loss",
                "mode": "min",
                "value": losses[best],
                "best_epoch": best,
                "best": metrics,
            }
            entries["final"] = {"test/loss": losses[best] + 0.01}
        (folder / "run.json").write_text(json.dumps(entries | record))
        return folder

    return write


# ---- the page --------------------------------------------------------------------------------------------------

NASTY = '</script><img src=x onerror="document.title=1"><b>&amp;$'


def write_page(runs: list[RecordedRun], folder: Path, **more: Any) -> Path:
    tables = [(view, view.columns) for view in views(runs)]
    return write_report(folder / "report.html", tables, ["outputs/sweeps/lr"], **more)


@pytest.fixture
def many(run: MakeRun) -> list[RecordedRun]:
    runs = [
        run(
            0.1 * lr + 0.01 * seed + (0.5 if name == NASTY else 0.0),
            {"optimizer.lr": lr, "notes.name": name, "seed": seed},
            curves={
                "val/loss": [1 / (epoch + lr) for epoch in range(1, 6)],
                "train/loss": [1.0, 0.5, float("nan"), 0.2],
                "lr": [lr] * 5,
            },
            summary={"train/loss": 0.05},
            name=f"lr-{lr}-{seed}" + (NASTY if seed else ""),
        )
        for lr in (0.001, 0.01, 0.1, 1.0, 3.0, 10.0)
        for name in ("plain", NASTY)
        for seed in (0, 1)
    ]
    return [*runs, run(None, {"optimizer.lr": 100.0}, status="failed", error="Error: <b>diverged</b>")]
