"""Comparing the runs of a sweep when some of them are damaged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.callbacks import gradient_through_time, recurrent_comparison
from src.run_store.run_folder import RunFolder
from src.run_store.sweep_runs import sweep_runs_with

CONFIG = {
    "model": {"name": "rnn"},
    "datamodule": {"name": "adding", "_target_": "src.datamodules.synthetic.adding.Adding", "lag": 3},
}
RECORDS = {
    "gradient_through_time": {"before": [1.0, 0.5], "after": [1.0, 0.7]},
    "recurrent_comparison": {"bytes": 5, "seconds": 1.0, "epochs": 2, "test": {"test/loss": 0.1}, "baseline": 0.2},
}
COMPARE: dict[str, Callable[[RunFolder], None]] = {
    "gradient_through_time": gradient_through_time.compare,
    "recurrent_comparison": recurrent_comparison.compare,
}


def write(path: Path, config: Any, record: dict[str, Any]) -> None:
    path.mkdir()
    (path / "config.yaml").write_text(json.dumps(config))
    (path / "run.json").write_text(
        json.dumps({"status": "finished", "parameters": 3, "started": "2026-01-01"} | record)
    )


DAMAGE: list[tuple[Any, Any]] = [
    ({"model": "rnn"}, {}),
    ([1], {}),
    ({"model": {"name": [1]}, "datamodule": 5}, {}),
    (CONFIG | {"datamodule": {"name": "x"}}, {}),
    (CONFIG | {"datamodule": {"name": "x", "_target_": [1], "lag": "3"}}, {}),
    (CONFIG | {"datamodule": {"name": "x", "_target_": "a.B", "lag": 10**400}}, {}),
    (CONFIG, {"parameters": None}),
    *(
        (CONFIG, {key: value})
        for key in RECORDS
        for value in (None, {}, {"before": []}, {"after": [1]}, {"bytes": 1}, [], 5)
    ),
    (CONFIG, {key: RECORDS[key] | {"test": {}, "before": []} for key in RECORDS}),
]


@pytest.mark.parametrize("key", list(RECORDS))
@pytest.mark.parametrize(("config", "record"), DAMAGE, ids=lambda value: str(value)[:40])
def test_a_damaged_run_does_not_stop_the_comparison(
    key: str, config: Any, record: Any, tmp_path: Path, capsys: Any
) -> None:
    write(tmp_path / "good", CONFIG, RECORDS)
    write(tmp_path / "bad", config, RECORDS | record)
    COMPARE[key](RunFolder.open(tmp_path / "good"))
    table = (tmp_path / f"{key}.md").read_text()
    assert "rnn" in table or "good" in table


@pytest.mark.parametrize("missing", ["config.yaml", "run.json"])
def test_a_folder_without_a_run_is_left_out(missing: str, tmp_path: Path) -> None:
    for name in ("good", "bad"):
        write(tmp_path / name, CONFIG, RECORDS)
    (tmp_path / "bad" / missing).unlink()
    (tmp_path / "bad" / missing).symlink_to(tmp_path / "good" / missing)
    assert [run.path.name for run in sweep_runs_with(RunFolder.open(tmp_path / "good"), "recurrent_comparison")] == [
        "good"
    ]
