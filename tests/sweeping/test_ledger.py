"""The ledger: what is frozen, what is read back, what became of the jobs, and that thousands of them are no burden."""

import json
import os
import time
from pathlib import Path

import pytest

from src.core.errors import UserError
from src.run_store.run_folder import RunFolder
from src.sweeping.ledger import Ledger, State, locked

BASE = {"seed": 0, "model": {"name": "mlp", "width": 8}, "optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}}


def config(lr: float) -> dict:
    return {**BASE, "optimizer": {"lr": lr, "betas": [0.9, 0.99]}}


def ledger(folder: Path, count: int) -> Ledger:
    made = Ledger.create(folder, "test", ["python", "-m", "src.train"])
    for number in range(count):
        made.add([f"optimizer.lr={number}", "model=mlp"], [f"optimizer.lr={number}"], config(number))
    made.save()
    return made


def test_a_ledger_is_read_back(tmp_path: Path) -> None:
    made = ledger(tmp_path, 3)
    read = Ledger.open(tmp_path)
    assert read.jobs == made.jobs and read.head["name"] == "test"
    assert [read.config(job) for job in read.jobs] == [config(number) for number in range(3)]
    assert read.find(["optimizer.lr=1", "model=mlp"]) == made.jobs[1] and read.find(["optimizer.lr=9"]) is None
    assert len({job.slug for job in read.jobs}) == 3 and all("=" not in job.slug for job in read.jobs)


def test_the_same_config_is_the_same_job(tmp_path: Path) -> None:
    made = ledger(tmp_path, 2)
    job = made.add(["optimizer.lr=1.0", "logger=none"], ["optimizer.lr=1.0"], {**config(1), "logger": {}})
    assert len(made.jobs) == 2 and made.jobs[1] == job
    assert job.slug == Ledger.open(tmp_path).jobs[1].slug, "its folder stays"
    assert made.config(job)["logger"] == {}, "keys without influence have their latest values"


def test_an_incomplete_last_line_is_skipped_and_damage_is_an_error(tmp_path: Path) -> None:
    ledger(tmp_path, 3)
    file = tmp_path / "ledger.jsonl"
    text = file.read_text()
    file.write_text(text[:-20])
    assert len(Ledger.open(tmp_path).jobs) == 2
    file.write_text(text.replace('"number":1', '"numb', 1))
    with pytest.raises(UserError, match="damaged"):
        Ledger.open(tmp_path)
    with pytest.raises(UserError, match="no ledger"):
        Ledger.open(tmp_path / "nowhere")


def test_states_follow_the_records(tmp_path: Path) -> None:
    made = ledger(tmp_path, 4)
    finished, failed, killed, _ = (made.path(job) for job in made.jobs)
    run = RunFolder.create(finished, BASE, [])
    run.update(monitor="val/loss", mode="min", value=0.5)
    run.finish({})
    RunFolder.create(failed, BASE, []).fail(ValueError("too large"))
    RunFolder.create(killed, BASE, [])._release()  # as if its process were gone
    found = Ledger.open(tmp_path).states()
    assert [state.status for state in found.values()] == ["finished", "failed", "interrupted", "pending"]
    assert (found[1].metric, found[1].value) == ("val/loss", 0.5) and found[2].error == "ValueError: too large"

    os.replace(finished / "run.json", finished / "away.json")
    assert Ledger.open(tmp_path).states()[1] == State(), "a record that was taken away"
    record = json.loads((finished / "away.json").read_text())
    (finished / "run.json").write_text(json.dumps(record | {"value": 0.25}))
    assert Ledger.open(tmp_path).states()[1].value == 0.25, "the record is believed, not the copy"


def test_a_running_job_is_seen(tmp_path: Path) -> None:
    made = ledger(tmp_path, 1)
    run = RunFolder.create(made.path(made.jobs[0]), BASE, [])
    assert made.states()[1].status == "running"
    run.finish({})
    assert made.states()[1].status == "finished"


def test_two_drivers_cannot_run_one_sweep(tmp_path: Path) -> None:
    ledger(tmp_path / "sweep", 1)
    with locked(tmp_path / "sweep"), pytest.raises(UserError, match="running already"), locked(tmp_path / "sweep"):
        pass
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not (tmp_path / "a").exists(), "a sweep that was refused leaves nothing"


def test_changed_code_is_reported_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from src.sweeping import ledger as module

    made = ledger(tmp_path, 1)
    for revision, changed, expected in (
        ("a" * 40, "", None),
        ("a" * 40, "x", "files were changed"),
        ("a" * 40, "x", "files were changed"),
        ("b" * 40, "x", "revision bbbbbbbbb"),
        ("a" * 40, "", None),
    ):
        monkeypatch.setattr(module, "code_state", lambda r=revision, c=changed: {"revision": r, "changed": c})
        message = made.code_changed()
        assert (message is None) if expected is None else (message is not None and expected in message)
        made.save()
        made = Ledger.open(tmp_path)


@pytest.mark.slow
def test_ten_thousand_jobs_are_opened_and_listed_in_linear_time(tmp_path: Path) -> None:
    made = ledger(tmp_path, 10_000)
    for job in made.jobs:
        folder = made.path(job)
        folder.mkdir()
        (folder / "config.yaml").write_text("seed: 0\n")
        (folder / "run.json").write_text(json.dumps({"status": "finished", "monitor": "val/loss", "value": 0.5}))
    assert len(Ledger.open(tmp_path).states()) == 10_000
    start = time.process_time()
    states = Ledger.open(tmp_path).states()
    assert {state.status for state in states.values()} == {"finished"}
    assert time.process_time() - start < 30, "in quadratic time it takes minutes"


def test_line_ends_of_other_alphabets_end_no_line(tmp_path: Path) -> None:
    made = ledger(tmp_path, 1)
    made.add(["notes=a\u2028b\u0085c", "model=mlp"], [], {**config(9), "model": {"name": "a\u2028b"}})
    made.save()
    assert Ledger.open(tmp_path).jobs == made.jobs


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"[1]\n"])
def test_a_file_that_is_not_a_ledger_is_an_error(tmp_path: Path, damage: bytes) -> None:
    ledger(tmp_path, 1)
    file = tmp_path / "ledger.jsonl"
    file.write_bytes(damage + file.read_bytes())
    with pytest.raises(UserError, match="damaged"):
        Ledger.open(tmp_path)


def test_a_sweep_stays_in_its_place() -> None:
    from src.config.schema.search import Sweep
    from src.config.validate import check_section

    for name in ("../evil", ".", "", "a/b"):
        with pytest.raises(UserError, match="one folder"):
            check_section(Sweep, {"name": name}, "sweep")
