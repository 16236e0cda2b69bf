"""The run folder: atomic writes, a reliable status, and one run per folder."""

import json
import math
import os
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from src import ROOT
from src.config.compose import compose
from src.config.validate import check
from src.core.errors import UserError
from src.run_store.best_epoch import best_epoch
from src.run_store.config_file import as_yaml, to_plain
from src.run_store.config_hash import config_hash
from src.run_store.metrics_file import read_metrics
from src.run_store.recorded_run import curves_of
from src.run_store.run_folder import RunFolder, new_run_path

CONFIG: dict[str, Any] = {
    "seed": 0,
    "tags": ["first"],
    "notes": None,
    "paths": {"data": "data", "outputs": "outputs"},
    "model": {"name": "mlp", "hidden_sizes": [128, 64], "dropout": 0.0},
    "optimizer": {"lr": 1e-5, "betas": [0.9, 0.999]},
    "trainer": {"max_epochs": 3, "profiler": None, "log_every_n_steps": 50},
    "callbacks": {"progress": {"_target_": "src.callbacks.progress.Progress"}, "early_stopping": {"patience": 10}},
    "logger": {"wandb": {"project": "gridlight"}},
}


def create(path: Path, config: dict[str, Any] = CONFIG) -> RunFolder:
    return RunFolder.create(path, config, ["python", "-m", "src.train", "notes=two words"])


def test_a_finished_run_read_back(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    assert json.loads((run.path / "run.json").read_text())["status"] == "running"
    run.update(parameters=42, best={"val/loss": torch.tensor(0.25)}, best_epoch=np.int64(3))
    run.finish({"test/accuracy": 0.5, "test/loss": float("nan")})

    record = RunFolder.open(tmp_path / "run").record
    assert record["status"] == "finished" and record["error"] is None
    assert record["best"] == {"val/loss": 0.25} and record["best_epoch"] == 3 and record["parameters"] == 42
    assert record["final"] == {"test/accuracy": 0.5, "test/loss": None}
    assert record["command"] == "python -m src.train 'notes=two words'"
    assert record["config_hash"] == config_hash(CONFIG) and record["seed"] == 0
    assert record["pid"] == os.getpid() and record["host"] and record["hardware"]["cores"] >= 1
    assert (
        record["packages"]["torch"] == torch.__version__.split("+")[0]
        or record["packages"]["torch"] == torch.__version__
    )
    started, ended = (datetime.fromisoformat(record[key]) for key in ("started", "ended"))
    assert started.utcoffset() is not None and started.utcoffset().total_seconds() == 0  # type: ignore[union-attr]
    assert 0 <= (ended - started).total_seconds() <= 60 and 0 <= record["seconds"] <= 60


def test_the_config_comes_back_as_it_was(tmp_path: Path) -> None:
    config = CONFIG | {"notes": "text with ${dollars}, 1e-3: and – dashes", "tags": ["1e-3", "true", "null", "08"]}
    create(tmp_path / "run", config)
    assert RunFolder.open(tmp_path / "run").config() == config


def test_a_failure_keeps_its_traceback(tmp_path: Path) -> None:
    run = create(tmp_path / "run")

    def inner() -> None:
        raise ZeroDivisionError("the cause")

    try:
        try:
            inner()
        except ZeroDivisionError as cause:
            raise RuntimeError("the failure") from cause
    except RuntimeError as error:
        run.fail(error)
    record = RunFolder.open(run.path).record
    assert record["status"] == "failed"
    assert all(text in record["error"] for text in ("in inner", "the cause", "the failure", "direct cause"))


def test_interrupt_and_resume_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 1000.0}
    monkeypatch.setattr("src.run_store.run_folder.monotonic", lambda: clock["now"])
    run = create(tmp_path / "run")
    clock["now"] += 10
    run.interrupt()
    assert RunFolder.open(run.path).record["status"] == "interrupted"
    clock["now"] += 1000
    again = RunFolder.open(run.path)
    again.resume()
    assert RunFolder.open(run.path).record["status"] == "running"
    assert len(again.record["resumed"]) == 1 and again.record["command"].startswith("python")
    clock["now"] += 5
    again.finish({})
    assert again.record["seconds"] == 15.0


@pytest.mark.parametrize("name", ["config.yaml", "run.json"])
def test_a_folder_that_cannot_be_written_is_not_resumed(name: str, tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    run.interrupt()
    (run.path / f".{name}.partial").mkdir()
    with pytest.raises(UserError, match=rf"run/\.{name}\.partial: this is a folder"):
        RunFolder.open(run.path).resume(CONFIG)


def test_a_used_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    create(tmp_path / "empty").finish({})
    with pytest.raises(UserError, match="resume="):
        create(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        create(tmp_path / "file")


def test_only_one_of_many_processes_gets_a_folder(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def attempt(_: int) -> RunFolder | None:
        barrier.wait()
        try:
            return create(tmp_path / "run")
        except UserError:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = [run for run in pool.map(attempt, range(8)) if run is not None]
    assert len(made) == 1


def test_a_running_run_differs_from_a_killed_one(tmp_path: Path) -> None:
    path = tmp_path / "run"
    script = f"""
import sys, time
from pathlib import Path
from src.run_store.run_folder import RunFolder
run = RunFolder.create(Path({str(path)!r}), {{"seed": 0}}, [])
print("made", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "made\n"
        run = RunFolder.open(path)
        assert run.record["status"] == "running" and run.alive
        with pytest.raises(UserError, match="still running"):
            run.resume()
    finally:
        process.kill()
        process.wait()
    assert run.record["status"] == "running" and not run.alive
    run.resume()
    assert run.alive


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    create(tmp_path / "120000-mlp-digits-abc").finish({})
    with pytest.raises(UserError, match="Did you mean '120000-mlp-digits-abc'"):
        RunFolder.open(tmp_path / "120000-mlp-digits-abd")
    with pytest.raises(UserError, match="not a run folder, which contains"):
        RunFolder.open(tmp_path)
    with pytest.raises(UserError, match="no such checkpoint"):
        RunFolder.open(tmp_path / "120000-mlp-digits-abc").checkpoint("best")


@pytest.mark.parametrize("text", [None, "", '{"status": "fini', "[]", "\x00\x00"])
def test_a_damaged_record_does_not_hide_the_run(tmp_path: Path, text: str | None, caplog: Any) -> None:
    run = create(tmp_path / "run")
    (run.path / "run.json").unlink() if text is None else (run.path / "run.json").write_text(text)
    opened = RunFolder.open(run.path)
    assert opened.record["status"] == "unknown" and "run.json" in caplog.text
    assert opened.config() == CONFIG


def test_a_damaged_config_names_the_file(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    for text in ("", "a: [1,", "- 1\n"):
        (run.path / "config.yaml").write_text(text)
        with pytest.raises(UserError, match="config"):
            run.config()


def test_the_record_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """A concurrent reader sees the old or the new record."""
    run = create(tmp_path / "run")
    done = threading.Event()
    seen: set[int] = set()

    def read() -> None:
        while not done.is_set():
            seen.add(len(json.loads((run.path / "run.json").read_text()).get("filler", "")))

    thread = threading.Thread(target=read)
    thread.start()
    for size in range(0, 200_000, 4000):
        run.update(filler="x" * size)
    done.set()
    thread.join()
    assert len(seen) > 1
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "run.json"]


def test_a_write_that_fails_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = create(tmp_path / "run")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        run.update(status="finished")
    monkeypatch.undo()
    assert RunFolder.open(run.path).record["status"] == "running"


def test_discard_removes_only_the_folders_of_create(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    run = create(new_run_path(outputs, "mlp", "digits"))
    run.discard()
    assert outputs.is_dir() and not list(outputs.iterdir())
    first = create(new_run_path(outputs, "mlp", "digits"))
    second = create(new_run_path(outputs, "mlp", "digits"))
    first.discard()
    assert not first.path.exists() and second.path.is_dir()


def test_run_paths_are_unique_for_any_seed(tmp_path: Path) -> None:
    paths = set()
    for _ in range(200):
        np.random.seed(0), torch.manual_seed(0)
        paths.add(new_run_path(tmp_path, "mlp", "digits"))
    assert len(paths) == 200
    path = paths.pop()
    assert path.parent.parent == tmp_path / "runs" and "=" not in str(path.name) and "-mlp-digits-" in path.name


def changed(key: str, value: Any) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(json.dumps(CONFIG))
    *parents, last = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[last] = value
    return config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tags", []),
        ("notes", "x"),
        ("paths.outputs", "elsewhere"),
        ("logger", {}),
        ("resume", "outputs/runs/x"),
        ("sweep", {"name": "x"}),
        ("trainer.profiler", "simple"),
        ("trainer.log_every_n_steps", 1),
        ("callbacks.progress", None),
    ],
)
def test_the_hash_ignores_keys_without_influence_on_the_result(key: str, value: Any) -> None:
    assert config_hash(changed(key, value)) == config_hash(CONFIG)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("model.dropout", 0.1),
        ("model.hidden_sizes", [64, 128]),
        ("optimizer.lr", 1.1e-5),
        ("trainer.max_epochs", 4),
        ("callbacks.early_stopping", None),
    ],
)
def test_the_hash_depends_on_keys_that_change_the_result(key: str, value: Any) -> None:
    assert config_hash(changed(key, value)) != config_hash(CONFIG)


def test_the_hash_does_not_depend_on_order_or_process() -> None:
    backwards = {key: CONFIG[key] for key in reversed(CONFIG)}
    assert config_hash(backwards) == config_hash(CONFIG)
    assert config_hash({"a": 1}) == "015abd7f5cc5"  # sha256 of {"a":1}, from sha256sum
    assert CONFIG["logger"], "hashing changes nothing"


def test_metrics_with_torn_lines_and_a_resume(tmp_path: Path) -> None:
    lines = [
        '{"step": 4, "epoch": 0, "val/loss": 3.0, "time": 1}',
        '{"step": 4, "epoch": 0, "train/loss": null, "time": 1}',
        '{"step": 8, "epoch": 1, "val/loss": 2.0, "time": 2}',
        '{"step": 12, "epoch": 2, "val/lo',  # cut off by a kill; the resumed run continues below
        '{"step": 8, "epoch": 1, "val/loss": 2.5, "resumed": true, "time": 3}',
        '{"step": 12, "epoch": 2, "val/loss": 1.0, "time": 4}',
        '{"step": 16, "ep',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    entries = read_metrics(tmp_path)
    assert [(entry["step"], entry.get("val/loss")) for entry in entries] == [(4, 3.0), (4, None), (8, 2.5), (12, 1.0)]
    assert math.isnan(entries[1]["train/loss"])
    assert read_metrics(tmp_path / "nowhere") == []


def test_plain_values_are_json() -> None:
    values = {
        "tensor": torch.tensor([1.0, float("inf")]),
        "scalar": np.float32(0.5),
        "path": Path("a/b"),
        "tuple": (1, True, None),
        2: {"set": {"b", "a"}},
    }
    expected = {"tensor": [1.0, None], "scalar": 0.5, "path": "a/b", "tuple": [1, True, None], "2": {"set": ["a", "b"]}}
    assert to_plain(values) == expected
    json.dumps(to_plain(values), allow_nan=False)


def test_the_record_needs_no_torch() -> None:
    """The command line and `compare` read run folders before, or without, torch."""
    code = (
        "import sys, src.run_store.run_folder, src.run_store.reader, src.run_store.provenance;"
        "assert not {'torch', 'lightning', 'wandb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_run_is_alive_until_nothing_writes_into_its_folder(tmp_path: Path) -> None:
    """Loggers write after the record has ended; no sync or delete may start before they finish."""
    run = RunFolder.create(tmp_path / "run", CONFIG, [])
    with run.keep_locked():
        run.finish({})
        assert run.alive
    assert not run.alive


def test_a_killed_session_counts_until_its_last_write(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    run.update(started=(datetime.now(UTC) - timedelta(seconds=100)).isoformat(timespec="seconds"))
    run._release()  # as if its process were gone
    log = run.path / "metrics.jsonl"
    log.write_text("")
    os.utime(log, times=(time.time() - 40, time.time() - 40))
    os.utime(run.path / "run.json", times=(time.time() - 90, time.time() - 90))
    again = RunFolder.open(run.path)
    again.resume()
    assert again.record["seconds"] == pytest.approx(60, abs=1.5)
    again._session_start -= 5  # type: ignore[operator]
    again.finish({})
    assert again.record["seconds"] == pytest.approx(65, abs=1.5)


def test_the_duration_of_a_killed_run_is_recorded_by_the_driver(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    run.update(started=(datetime.now(UTC) - timedelta(seconds=30)).isoformat(timespec="seconds"))
    run._release()
    RunFolder.open(run.path).fail(RuntimeError("killed"))
    assert RunFolder.open(run.path).record["seconds"] == pytest.approx(30, abs=1.5)


def test_texts_in_a_config_are_read_back_as_texts(tmp_path: Path) -> None:
    texts = [
        "1e-3",
        "yes",
        "1_000",
        "0x1F",
        "nan",
        "",
        "a\nb\u2028c\u0085d",
        "null",
        "~",
        "1:30",
        "2020-01-01",
        ".5",
        "=",
        "<<",
    ]
    texts += [" led", "tab\t", "#c", "@x", "- x", "a: b", "'q'", "é" * 200, "\U0001f4a5", "+1", "1.", "-.inf", "True"]
    config = {"texts": texts, "numbers": [1, 2.5, 1e-5, 1e20, None, True], "empty": {}, "none": []}
    (tmp_path / "config.yaml").write_text(as_yaml(config), encoding="utf-8")
    read = OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml"), resolve=False)
    assert repr(read) == repr(config)


def test_a_config_is_written_as_omegaconf_would() -> None:
    config = check(compose(["model=lstm", "optimizer=adamw", "callbacks=default"])).plain()
    assert as_yaml(config) == OmegaConf.to_yaml(OmegaConf.create(config))


TEXTS = [
    "1e-3",
    "null",
    "Null",
    "~",
    "true",
    "True",
    "yes",
    "no",
    "on",
    "2024-01-01",
    "0x10",
    "0o7",
    "089",
    "1_000",
    "1:30",
    "",
    " x",
    "x ",
    "a: b",
    "- x",
    "#x",
    "&a",
    "*a",
    "!x",
    "%x",
    "@x",
    "`x",
    "{",
    "[",
    "'",
    '"',
    "\\",
    "\t",
    "two\nlines\n",
    ".inf",
    ".nan",
    "inf",
    "+1",
    "-",
    "--",
    "---",
    "...",
    "?",
    "? x",
    "é",
    "\u2028",
    "\x1b[0m",
    "=",
    "<<",
    "1.",
    ".5",
    "${x}",
]


def test_a_config_is_read_back_as_it_was(tmp_path: Path) -> None:
    config = {"texts": TEXTS, "keys": {text or "empty": text for text in TEXTS}}
    config |= {"numbers": [0, -1, 10**30, 0.1, 1e-30, 1e300, True, False, None], "empty": [{}, []]}
    folder = RunFolder.create(tmp_path / "run", config, [])
    assert folder.config() == config


DAMAGE = [
    b"",
    b"[]",
    b"5",
    b"null",
    b"\xff",
    b"[" * 100_000,
    b'{"status": 5}',
    b'{"status": "nonsense"}',
    b'{"status": "finished", "value": "high"}',
    b'{"status": "running", "started": "yesterday"}',
    b'{"status": "finished", "best": {"a": []}}',
    b'{"status": "finished", "git": "x"}',
    b'{"status": "finished", "wandb": {"id": "../x"}}',
    b'{"status": "finished", "wandb": {"id": ".."}}',
    b'{"status": "finished", "wandb": {"id": "-x"}}',
    b'{"status": "finished", "wandb": {"id": "x\\n"}}',
    b'{"status": "finished", "tags": {"a": 1}}',
    b'{"format_version": 7, "status": "finished"}',
    b'{"status": "finished", "value": %s}' % (b"9" * 400),
    b'{"status": "finished", "seconds": %s}' % (b"9" * 400),
    b'{"status": "finished", "best": {"val/loss": %s}}' % (b"9" * 400),
]


@pytest.mark.parametrize("damage", DAMAGE, ids=ascii)
def test_a_damaged_record_is_named_and_counts_as_unknown(damage: bytes, tmp_path: Path, caplog) -> None:
    folder = RunFolder.create(tmp_path / "run", {"seed": 0}, [])
    folder.finish({})
    (folder.path / "run.json").write_bytes(damage)
    assert RunFolder.open(folder.path).record == {"status": "unknown"}
    assert "run.json" in caplog.text


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder", "sparse"])
@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl"])
def test_only_regular_files_are_read(kind: str, name: str, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {"seed": 0}, [])
    folder.finish({})
    file = folder.path / name
    file.unlink(missing_ok=True)
    (tmp_path / "secret").write_text('{"status": "finished", "step": 1, "notes": "secret"}')
    if kind == "link":
        file.symlink_to(tmp_path / "secret")
    elif kind == "dangling":
        file.symlink_to(tmp_path / "nowhere")
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        with file.open("wb") as sparse:
            sparse.truncate(2**30)
    opened = RunFolder.open(folder.path)
    assert opened.record.get("notes") is None and opened.metrics() == []


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "train.log", "config.yaml", "plots", "checkpoints"])
def test_a_run_with_a_link_that_leaves_it_is_not_resumed(name: str, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {"seed": 0}, [])
    folder.interrupt()
    file = folder.path / name
    file.unlink(missing_ok=True)
    (tmp_path / "victim").write_text("keep")
    file.symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="points out of the folder"):
        folder.resume()
    assert (tmp_path / "victim").read_text() == "keep"


@pytest.mark.parametrize(
    ("name", "is_client"),
    [
        ("wandb/run-1/logs/debug-core.log", True),
        ("wandb/run-1/files/predictions.json", True),
        ("wandb", False),
        ("wandb/evil", False),
        ("wandb/run-1/logs", False),
        ("wandb/run-1/logs/debug.log", False),
        ("wandb/run-1/deeper/logs/debug-core.log", False),
        ("other/wandb/run-1/logs/debug-core.log", False),
    ],
)
def test_only_links_of_the_wandb_client_may_leave_a_run_that_is_resumed(
    name: str, is_client: bool, tmp_path: Path
) -> None:
    (tmp_path / "log").touch()
    (tmp_path / "folder").mkdir()
    for target in ("log", "folder"):
        folder = RunFolder.create(tmp_path / f"to_{target}", {"seed": 0}, [])
        folder.interrupt()
        link = folder.path / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(tmp_path / target)
        with nullcontext() if is_client and target == "log" else pytest.raises(UserError, match="points out of the"):
            folder.resume()


def test_metrics_of_many_resumes_are_read_in_linear_time(tmp_path: Path) -> None:
    lines = (json.dumps({"step": step, "resumed": True}) for step in range(100_000))
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    started = time.monotonic()
    assert len(read_metrics(tmp_path)) == 100_000
    assert time.monotonic() - started < 30  # in quadratic time it takes minutes


def test_integers_beyond_floats_are_nan_in_metrics(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "val/loss": 1' + "0" * 400 + '}\n{"step": 2, "epoch": 1}\n')
    beyond, other = read_metrics(tmp_path)
    assert (beyond["step"], other) == (1, {"step": 2, "epoch": 1}) and math.isnan(beyond["val/loss"])


@pytest.mark.parametrize("entry", [{"error": "\\ud800"}, {"mine": math.nan}, {"hardware": {"cpu": math.nan}}])
def test_a_record_that_was_read_can_be_written_again(tmp_path: Path, entry: dict[str, Any]) -> None:
    run = create(tmp_path / "run")
    text = json.dumps(run.record | entry).replace("\\\\ud800", "\\ud800")
    (run.path / "run.json").write_text(text)
    RunFolder.open(run.path).update(tags=["a"])
    assert RunFolder.open(run.path).record["tags"] == ["a"]


@pytest.mark.parametrize(
    "wrong",
    [{"tags": 3}, {"tags": [1]}, {"trainer": True}, {"callbacks": [None]}, {"model": {"name": []}}, {"notes": []}],
)
def test_a_config_of_other_types_is_named(tmp_path: Path, wrong: dict[str, Any]) -> None:
    run = create(tmp_path / "run", CONFIG | wrong)
    with pytest.raises(UserError, match=next(iter(wrong))):
        run.config()


HUGE = b"9" * 400


@pytest.mark.parametrize("value", [b'"high"', b"[1]", b'{"a": 1}', b"true", b"1e999", b"null"], ids=lambda v: v[:9])
def test_metrics_are_numbers(value: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "epoch": 0, "val/loss": %s, "lr": 0.5}\n' % value)
    (entry,) = read_metrics(tmp_path)
    assert entry["lr"] == 0.5 and type(entry.get("val/loss", 0.0)) in (float, int)
    best_epoch([entry], "val/loss", "min")
    curves_of([entry])


@pytest.mark.parametrize("place", [b'"step": 1, "epoch": %s', b'"step": %s, "epoch": 1'])
@pytest.mark.parametrize("value", [b'"1"', b"[1]", b"1.5", b"true", HUGE, b"-" + HUGE, b"{}"], ids=lambda v: v[:9])
def test_entries_without_a_step_and_an_epoch_are_left_out(place: bytes, value: bytes, tmp_path: Path) -> None:
    good = b'{"step": 2, "epoch": 1, "val/loss": 0.5}'
    (tmp_path / "metrics.jsonl").write_bytes(b'{%s, "val/loss": 1}\n%s\n' % (place % value, good))
    assert read_metrics(tmp_path) == [json.loads(good)]


@pytest.mark.parametrize(
    "line", ["\n", "x\n", "0\n", "{}\n", '{"step": 1, "resumed": true}\n', '{"step": %d, "resumed": true}\n'], ids=ascii
)
def test_reading_metrics_takes_time_in_proportion_to_their_size(line: str, tmp_path: Path) -> None:
    count = 17 * 2**20 // len(line)
    lines = "".join(line % step for step in range(count)) if "%" in line else line * count
    (tmp_path / "metrics.jsonl").write_text(lines)
    started = time.process_time()
    read_metrics(tmp_path)
    assert time.process_time() - started < 40


def test_steps_that_are_repeated_count_once(tmp_path: Path) -> None:
    generator = random.Random(0)
    for _ in range(200):
        steps = [(generator.randrange(20), generator.random() < 0.2) for _ in range(30)]
        lines = [
            {"step": step, "value": place} | ({"resumed": True} if again else {})
            for place, (step, again) in enumerate(steps)
        ]
        (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        expected: list[dict[str, int]] = []
        for place, (step, again) in enumerate(steps):
            expected = [entry for entry in expected if not again or entry["step"] < step]
            expected.append({"step": step, "value": place})
        assert read_metrics(tmp_path) == expected


@pytest.mark.parametrize(
    "text",
    ["".join(f"k{i}: 1\n" for i in range(1_000_000)), "a: 1\n" * 3_000_000, "a: [" + "1," * 7_000_000 + "1]"],
    ids=["keys", "lines", "flow"],
)
def test_a_config_of_too_many_values_is_refused_at_once(text: str, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {"seed": 0}, [])
    (folder.path / "config.yaml").write_text(text)
    started = time.process_time()
    with pytest.raises(UserError, match="values"):
        folder.config()
    assert time.process_time() - started < 20


@pytest.mark.parametrize(
    "change",
    [
        {"notes": "a\ud800b"},
        {"notes": "caf\udce9"},
        {"tags": ["\udc80"]},
        {"logger": {"\ud800": 1}},
        {"callbacks": {"x": {"y": "\udfff"}}},
    ],
)
def test_a_config_with_a_single_surrogate_is_one_error_and_leaves_nothing(
    change: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"{next(iter(change))}: .* single surrogate"):
        create(tmp_path / "run", CONFIG | change)
    assert not (tmp_path / "run").exists()
    run = create(tmp_path / "run")
    run.interrupt()
    before = (run.path / "config.yaml").read_bytes(), (run.path / "run.json").read_bytes()
    with pytest.raises(UserError, match="single surrogate"):
        RunFolder.open(run.path).resume(CONFIG | change)
    assert before == ((run.path / "config.yaml").read_bytes(), (run.path / "run.json").read_bytes())


def test_a_single_surrogate_in_a_record_is_written_back(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {"seed": 0}, [])
    folder.update(notes="\ud800")
    assert RunFolder.open(folder.path).record["notes"] == "\ud800"


def test_a_line_that_spans_two_groups_is_read(tmp_path: Path) -> None:
    rows = [{"step": step, "epoch": step, "val/loss": 0.5, "time": 1.0} for step in range(40_000)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    assert len(text) > 2 * 2**20
    (tmp_path / "metrics.jsonl").write_text(text.rstrip("\n"))
    assert read_metrics(tmp_path) == rows


def test_zeros_after_a_power_loss_damage_one_line_only(tmp_path: Path) -> None:
    rows = [{"step": step, "epoch": step, "val/loss": 0.5} for step in range(2)]
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(rows[0])}\n\0\0\0\0\n{json.dumps(rows[1])}\n")
    damaged: list[None] = []
    assert read_metrics(tmp_path, lambda: damaged.append(None)) == rows
    assert damaged == [None]


@pytest.mark.parametrize("line", ['{"step": 1}', "x"])
def test_reading_of_endless_metrics_stops(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.run_store.metrics_file.MAX_ENTRIES", 1000)
    first = {"step": 0, "epoch": 0, "val/loss": 1.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(first) + "\n" + f"{line}\n" * 2**21)
    damaged: list[None] = []
    found = read_metrics(tmp_path, lambda: damaged.append(None))
    assert found[0] == first and len(found) < 2**20
    assert damaged == [None]


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 1, "a": [' + ",".join(["[]"] * 30_000) + "]}\n",
        '{"step": 1, "a": [' + ",".join(["[]"] * 1_000_000) + "]}\n",
        '{"a": 1}\n',
        '{"step": 1' + "".join(f', "val/%d_{i}": 0.5' for i in range(30_000)) + "}\n",
    ],
    ids=["containers", "long", "no step", "names"],
)
def test_memory_for_metrics_is_limited_to_the_returned_entries(line: str, tmp_path: Path) -> None:
    count = 3 * 2**20 // len(line) + 1
    with (tmp_path / "metrics.jsonl").open("w") as file:
        file.writelines(line.replace("%d", str(number)) for number in range(count))
    tracemalloc.start()
    try:
        found = read_metrics(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len({name for entry in found for name in entry}) <= 10_000
    assert peak < 30e6  # all values of the file at once take more than 50 MB


@pytest.mark.parametrize("name", ["\0", "x" * 300, "\U0001f600" * 300, "../../x", "a/b", "\x1b[2J"])
def test_the_folder_of_a_new_run_is_one_plain_component(tmp_path: Path, name: str) -> None:
    made = new_run_path(tmp_path, name, "digits")
    made.mkdir(parents=True)
    assert made.parents[2] == tmp_path
