"""Runs are read from their folders, including damaged ones."""

import json
import math
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from src.compare import main
from src.config.compose import compose
from src.config.validate import check
from src.core.errors import UserError
from src.run_store.filters import flatten
from src.run_store.reader import ReadWarnings, read_config, read_runs
from src.run_store.recorded_run import best_of, curves_of
from src.run_store.run_folder import RunFolder
from src.sweeping.ledger import Ledger, locked
from src.sweeping.pending_jobs import pending
from tests.comparison.conftest import WriteRun


def test_a_run_equals_the_record_of_its_folder(write_run: WriteRun) -> None:
    folder = write_run("a", {"optimizer.lr": 0.1}, losses=[0.9, 0.4, 0.6])
    (recorded,) = read_runs(folder)
    assert (recorded.status, recorded.value, recorded.metric, recorded.mode, recorded.seconds) == (
        "finished",
        0.4,
        "val/loss",
        "min",
        3.0,
    )
    assert recorded.config["optimizer.lr"] == 0.1 and recorded.record["best_epoch"] == 1
    assert recorded.summary == {
        "val/loss": 0.4,
        "val/accuracy": 0.8,
        "train/loss": 0.2,
        "test/loss": pytest.approx(0.41),
    }
    assert list(recorded.curves["val/loss"].epochs) == [1, 2, 3] and list(recorded.curves["val/loss"].values) == [
        0.9,
        0.4,
        0.6,
    ]
    assert list(recorded.curves["lr"].values) == [0.1] * 3


def test_a_running_run_has_its_best_so_far(write_run: WriteRun) -> None:
    folder = write_run("a", losses=[0.9, 0.4, 0.6], status="running")
    (recorded,) = read_runs(folder)
    assert (recorded.status, recorded.value, recorded.record["best_epoch"]) == ("interrupted", 0.4, 1), (
        "its lock is free"
    )
    run_folder = RunFolder.open(folder)
    run_folder._acquire()
    (recorded,) = read_runs(folder)
    assert (recorded.status, recorded.summary["val/accuracy"]) == ("running", 0.8)


def test_damaged_files_are_reported_once_and_omitted(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("good")
    torn = write_run("torn", tail='{"step": 29, "epoch": 2, "val/lo')
    for name, file, text in (
        ("no-config", "config.yaml", "- a list"),
        ("binary", "config.yaml", "\x00\x01"),
        ("no-record", "run.json", "{'single': quotes}"),
        ("list", "run.json", "[1]"),
    ):
        (write_run(name) / file).write_text(text)
    (write_run("bytes") / "config.yaml").write_bytes(b"\xff\xfe\x80")
    (write_run("missing") / "run.json").unlink()
    foreign = tmp_path / "sweep" / "foreign"
    foreign.mkdir()
    (foreign / "config.yaml").write_text("who: knows")
    (tmp_path / "sweep" / "notes.txt").write_text("mine")
    read_warnings = ReadWarnings()
    runs = {run.name: run for run in read_runs(tmp_path / "sweep", read_warnings=read_warnings)}
    assert set(runs) == {"good", "torn", "no-record", "list", "missing"}
    assert list(runs["torn"].curves["val/loss"].values) == [1.0, 0.5]
    assert runs["missing"].status == runs["list"].status == "unknown" and runs["list"].value == 0.5
    lines = str(read_warnings).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "left out, as config.yaml cannot be read",
        "left out, as there is neither run.json nor metrics.jsonl",
        "run.json is damaged, so the status is unknown",
        "run.json is missing, so the status is unknown",
        "lines of metrics.jsonl are damaged and left out",
    ]
    assert all(name in lines[0] for name in ("binary", "bytes", "no-config")) and str(torn) in lines[4]


def test_a_record_of_wrong_types_is_accepted(write_run: WriteRun, tmp_path: Path) -> None:
    wrong = {
        "status": 7,
        "value": "low",
        "seconds": "long",
        "best": [1],
        "final": "x",
        "parameters": {},
        "best_epoch": "x",
    }
    write_run("a", **wrong, monitor=3, mode="up")
    (write_run("b") / "config.yaml").write_text("seed: 1\nwhen: 2026-11-25\nwhat: !!set {a, b}\n1: 2\nmodel: mlp\n")
    main([str(tmp_path), "--export", "csv"])
    main([str(tmp_path), "--diff", "a", "b"])
    main([str(tmp_path), "--html", "--plots", "--columns", "all"])


def test_a_config_of_too_many_keys_is_left_out(
    write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run("a")
    (write_run("b") / "config.yaml").write_text("x:\n" + "".join(f"  k{i}: 1\n" for i in range(101)))
    monkeypatch.setattr("src.run_store.reader.MAX_KEYS", 100)
    read_warnings = ReadWarnings()
    assert [run.name for run in read_runs(tmp_path, read_warnings=read_warnings)] == ["a"]
    assert "config.yaml cannot be read" in str(read_warnings)


def test_attention_maps_of_a_run_are_bounded(
    write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run("a")
    (folder / "plots").mkdir()
    for number, size in enumerate((60, 50, 40)):
        (folder / "plots" / f"attention-{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n".ljust(size))
    monkeypatch.setattr("src.run_store.reader.MAX_ATTENTION_BYTES", 100)
    (run,) = read_runs(tmp_path)
    assert list(run.read_attention()) == ["attention-0", "attention-2"]


def test_many_remarks_fit_on_one_line(tmp_path: Path) -> None:
    read_warnings = ReadWarnings()
    for number in range(100):
        read_warnings.add("left out", tmp_path / str(number))
    assert str(read_warnings).count("\n") == 0 and str(read_warnings).endswith(" and 97 more")


def test_folders_may_contain_sweeps_and_overlap(write_run: WriteRun, tmp_path: Path) -> None:
    one = write_run("a")
    write_run("b/plots/../c")
    assert len(read_runs(tmp_path)) == 2
    assert [run.folder for run in read_runs(one, tmp_path / "sweep", one)][:1] == [one] and len(
        read_runs(one, tmp_path)
    ) == 2
    with pytest.raises(UserError, match="this is a file"):
        read_runs(one / "run.json")


@pytest.mark.parametrize(
    "overrides", [["model=transformer"], ["model=cnn", "regularization=[dropout,l2,mixup]", "tags=[a,b]"]]
)
def test_a_config_is_read_as_omegaconf_reads_it(overrides: list[str], tmp_path: Path) -> None:
    config = check(compose(overrides)).plain()
    folder = RunFolder.create(tmp_path / "run", config, [])
    text = (folder.path / "config.yaml").read_text()
    assert read_config(text.encode()) == dict(flatten(folder.config()))


def test_sections_are_read_as_the_whole() -> None:
    """Each section is parsed by itself and once: with any keys and values, the result is that of the whole file."""
    random = Random(0)
    leaves = [
        None,
        True,
        1e-8,
        3,
        "",
        "a: b",
        "two\nlines: x\n\nthree",
        "#",
        "- x",
        "'",
        "\ttab",
        "ünï",
        [1, "a: b"],
        [],
        {},
    ]

    def tree(depth: int) -> dict[str, Any]:
        return {
            f"{random.choice('abc')}{number}": random.choice(leaves)
            if depth == 0 or random.random() < 0.6
            else tree(depth - 1)
            for number in range(random.randint(1, 5))
        }

    for _ in range(200):
        config = json.loads(json.dumps(tree(3)))  # no shared object, which would become an anchor
        for width in (20, 200):
            text = yaml.safe_dump(config, sort_keys=False, width=width, allow_unicode=random.random() < 0.5)
            assert read_config(text.encode()) == dict(flatten(config))


@pytest.mark.parametrize(
    "text",
    [
        "---\na:\n  b: 1\n",
        "{a: 1,\nb: {c: 2}}",
        "# a comment\na:\n- 1\n- 2\nb: |\n  text: no key\n\n  more\nc: {}\n",
        'a: "one\n\n  two: 2"\nb: null\n',
    ],
)
def test_other_yaml_styles_are_read(text: str) -> None:
    document = yaml.safe_load(text)
    assert read_config(text.encode()) == {
        f"{key}.{inner}" if inner else key: value
        for key, node in document.items()
        for inner, value in (node.items() if isinstance(node, dict) and node else [("", node)])
    }


@pytest.mark.parametrize(
    "text", ["a: &x {b: 1}\nc: *x\n", "a: !!python/name:os.system\n", "- 1", "a: " + "[" * 100_000]
)
def test_yaml_with_anchors_or_tags_is_rejected(text: str) -> None:
    with pytest.raises(UserError):
        read_config(text.encode())


def test_curves_are_of_epochs() -> None:
    nan = math.nan
    entries = [
        {"step": 1, "epoch": 0, "train/loss_step": 9.0},
        {"step": 9, "epoch": 0, "val/loss": 0.5},
        {"step": 9, "epoch": 0, "train/loss": nan, "lr": 0.1, "time": 1.0},
        {"step": 19, "epoch": 1, "val/loss": 0.4, "gradients/norm": 3.0},
        {"step": 20, "epoch": 2, "test/loss": 0.3},
        {"step": 21, "epoch": nan, "val/loss": 7.0},
    ]
    curves = curves_of(entries)
    assert set(curves) == {"val/loss", "train/loss", "lr"}
    assert list(curves["val/loss"].epochs) == [1, 2] and math.isnan(curves["train/loss"].values[0])
    assert best_of(curves, "val/loss", "min") == (1, {"val/loss": 0.4})
    assert best_of(curves, "train/loss", "min") == (None, {}), "NaN is never best"
    assert best_of(curves, "val/accuracy", "max") == (None, {})


def test_jobs_that_have_not_started_are_counted(tmp_path: Path, write_run: WriteRun) -> None:
    folder = tmp_path / "sweep"
    ledger = Ledger.create(folder, "sweep", ["train"])
    jobs = [ledger.add([f"seed={n}"], [f"seed={n}"], {"seed": n}) for n in range(3)]
    ledger.save()
    write_run(jobs[1].slug)
    assert pending([folder]) == pending([tmp_path]) == pending([folder, tmp_path]) == (2, False)
    with locked(folder):
        assert pending([folder]) == (2, True), "a driver is running"
    (folder / "ledger.jsonl").write_text(json.dumps({"version": 99}))
    assert pending([folder]) == (0, False)


def test_attention_maps_are_png_files_of_a_bounded_size(write_run: WriteRun) -> None:
    folder = write_run("a")
    (folder / "plots").mkdir(exist_ok=True)
    for number in range(9):
        with (folder / "plots" / f"attention-{number}.png").open("wb") as file:
            file.write(b"\x89PNG\r\n\x1a\n" if number else b"")
            file.truncate(5 * 2**20)
    (run,) = read_runs(folder)
    maps = run.read_attention()
    assert "attention-0" not in maps and len(maps) == 6
