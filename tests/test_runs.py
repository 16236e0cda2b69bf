"""`src.runs` lists, tags, archives, deletes, reruns and exports runs."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.run_store.run_folder import RunFolder
from src.runs import main
from src.training.inference import load
from src.training.run import run
from tests.core.test_console import acts
from tests.hostile import HOSTILE

CONFIG: dict[str, Any] = {
    "model": {"name": "mlp"},
    "datamodule": {"name": "digits"},
    "optimizer": {"name": "adam", "lr": 1e-3},
    "scheduler": {"name": "none"},
    "tags": ["first"],
    "notes": None,
}


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three finished runs, two of them jobs of a sweep, and one that failed."""
    monkeypatch.chdir(tmp_path)
    runs = {"runs/2026-01-01/100000-mlp-digits-aaaaaa": (1e-3, 0.3), "sweeps/rates/lr_1_bbbbbb": (1e-2, 0.2)}
    runs |= {"sweeps/rates/lr_2_cccccc": (1e-1, 0.4), "runs/2026-01-01/110000-mlp-digits-dddddd": (1.0, None)}
    for name, (lr, loss) in runs.items():
        optimizer = {"name": "sgd" if lr == 1e-1 else "adam", "lr": lr}
        folder = RunFolder.create(tmp_path / "outputs" / name, CONFIG | {"optimizer": optimizer}, ["train"])
        folder.update(monitor="val/loss", mode="min", value=loss)
        if loss is None:
            folder.fail(RuntimeError("out of luck"))
        else:
            folder.update(best={"val/loss": loss}, best_epoch=0)
            folder.finish({"test/accuracy": 1 - loss})
    (tmp_path / "outputs/sweeps/rates/ledger.jsonl").write_text("{}")
    return tmp_path / "outputs"


def listed_ids(capsys: Any, *argv: str) -> set[str]:
    """Return the ids of the runs that a list shows."""
    capsys.readouterr()
    main(["list", "--json", *argv])
    return {json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()}


def error_of(capsys: Any, *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("conditions", "ids"),
    [
        ([], {"aaaaaa", "bbbbbb", "cccccc", "dddddd"}),
        (["optimizer=adam", "val/loss<=0.3"], {"aaaaaa", "bbbbbb"}),
        (["status=failed"], {"dddddd"}),
        (["sweep=rates test/accuracy>0.7"], {"bbbbbb"}),
        (["id=a*"], {"aaaaaa"}),
        (["optimizer.lr=0.01"], {"bbbbbb"}),
    ],
)
def test_conditions_select_runs(outputs: Path, capsys: Any, conditions: list[str], ids: set[str]) -> None:
    assert listed_ids(capsys, *conditions) == ids


def test_list_and_show_print_runs(outputs: Path, capsys: Any) -> None:
    main(["list"])
    shown = capsys.readouterr().out
    assert "outputs/sweeps/rates/lr_1_bbbbbb" in shown and "4 runs" in shown
    main(["show", "dddddd"])
    shown = capsys.readouterr().out
    assert "RuntimeError: out of luck" in shown and "failed" in shown


def test_tags_and_notes_are_recorded(outputs: Path, capsys: Any) -> None:
    main(["tag", "rates", "good", "first"])
    main(["note", "outputs/sweeps/rates/lr_1_bbbbbb", "the best one"])
    assert listed_ids(capsys, "tag=good") == {"bbbbbb", "cccccc"}
    assert RunFolder.open(outputs / "sweeps/rates/lr_1_bbbbbb").record["tags"] == ["good", "first"]
    for tag in ("two words", "", "a,b", "=x", "x" * 65):
        assert "a tag consists of" in error_of(capsys, "tag", "rates", tag)
    main(["tag", "bbbbbb", "good", "--remove"])
    assert listed_ids(capsys, "tag=good") == {"cccccc"}
    assert listed_ids(capsys, "tag=first") == {"aaaaaa", "bbbbbb", "cccccc", "dddddd"}
    assert listed_ids(capsys, "notes='the best*'") == {"bbbbbb"}


def test_archived_runs_are_hidden_until_restored(outputs: Path, capsys: Any) -> None:
    main(["archive", "rates"])
    assert listed_ids(capsys) == {"aaaaaa", "dddddd"}
    assert listed_ids(capsys, "--archived") == {"aaaaaa", "bbbbbb", "cccccc", "dddddd"}
    main(["restore", "bbbbbb"])
    assert listed_ids(capsys) == {"aaaaaa", "bbbbbb", "dddddd"}


def test_delete_asks_for_confirmation(outputs: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "add --yes to delete 1 run" in error_of(capsys, "delete", "status=failed")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("n\ny\n"))
    main(["delete", "status=failed"])
    assert listed_ids(capsys, "status=failed") == {"dddddd"}
    main(["delete", "status=failed"])
    assert listed_ids(capsys) == {"aaaaaa", "bbbbbb", "cccccc"}
    (outputs / "sweeps/rates/plots").mkdir()
    (outputs / "sweeps/rates/report.html").write_text("of a comparison")
    main(["delete", "rates", "--yes"])
    assert listed_ids(capsys) == {"aaaaaa"} and not (outputs / "sweeps/rates").exists()


def test_nothing_but_the_listed_runs_is_deleted(outputs: Path, tmp_path: Path) -> None:
    sweep = outputs / "sweeps" / "rates"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("keep")
    (sweep / "notes").mkdir()
    (sweep / "notes" / "idea.txt").write_text("keep")
    (sweep / "plots").symlink_to(tmp_path / "thesis")
    (sweep / "report.html").symlink_to(tmp_path / "thesis" / "thesis.tex")
    main(["delete", "rates", "--yes"])
    assert sorted(path.name for path in sweep.iterdir()) == ["notes", "plots"]
    assert (sweep / "notes" / "idea.txt").read_text() == (tmp_path / "thesis" / "thesis.tex").read_text() == "keep"


def test_deleting_a_link_deletes_no_files(outputs: Path, tmp_path: Path) -> None:
    real = outputs / "runs/2026-01-01/110000-mlp-digits-dddddd"
    (tmp_path / "linked").symlink_to(real)
    main(["delete", str(tmp_path / "linked"), "--yes"])
    assert (real / "run.json").is_file() and not list(tmp_path.glob("*linked*"))


@pytest.mark.parametrize("argument", ["rates", "sweeps/rates", "sweeps/rates/{name}", "sweeps"])
def test_a_sweep_replaced_by_a_link_before_the_confirmation_is_not_followed(
    argument: str, outputs: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, other = outputs / "sweeps" / "rates", tmp_path / "home"
    shutil.copytree(sweep, other)
    name = next(file.parent.name for file in sweep.glob("*/config.yaml"))

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            sweep.rename(tmp_path / "moved")
            sweep.symlink_to(other)
            return True

    before = sorted(other.rglob("*"))
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    argument = argument.format(name=name)
    error_of(capsys, "delete", argument if argument == "rates" else str(outputs / argument))
    assert sorted(other.rglob("*")) == before


def test_a_running_run_is_not_changed(outputs: Path, capsys: Any) -> None:
    running = RunFolder.open(outputs / "runs/2026-01-01/110000-mlp-digits-dddddd")
    with running.locked():
        assert "is running" in error_of(capsys, "delete", "aaaaaa", "dddddd", "--yes")
        assert "still running" in error_of(capsys, "tag", "dddddd", "x")
    assert listed_ids(capsys) == {"aaaaaa", "bbbbbb", "cccccc", "dddddd"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["show", "bbbbba"], "no run has this name. Did you mean 'bbbbbb'?"),
        (["show", "rates"], "matches 2 runs, and one is needed"),
        (["show", "optimizer=lion"], "no run in outputs matches"),
        (["list", "optimizer.lrr=1"], "Did you mean 'optimizer.lr'?"),
        (["export", "aaaaaa", "there"], "the run has no checkpoint"),
        (["export", "aaaaaa", "outputs"], "it already exists"),
        (["--outputs", "nowhere", "list"], "nowhere: there is no such folder"),
    ],
)
def test_invalid_input_is_reported(outputs: Path, capsys: Any, argv: list[str], message: str) -> None:
    assert message in error_of(capsys, *argv)


@pytest.mark.slow
def test_a_run_is_rerun_and_exported(fast: Callable[..., list[str]], tmp_path: Path, capsys: Any) -> None:
    first = run(fast("model=mlp", "seed=3"), verbose=False)
    outputs = ["--outputs", str(tmp_path / "outputs")]
    main([*outputs, "rerun", str(first.folder)])
    main([*outputs, "rerun", str(first.folder), "seed=4"])
    runs = [RunFolder.open(file.parent) for file in (tmp_path / "outputs").rglob("run.json")]
    losses = {seed: [r.record["best"]["val/loss"] for r in runs if r.record["seed"] == seed] for seed in (3, 4)}
    assert len(losses[3]) == 2 and len(set(losses[3])) == 1, "the same to the last digit"
    assert len(losses[4]) == 1 and losses[4][0] not in losses[3]

    capsys.readouterr()
    main([*outputs, "export", str(first.folder), str(tmp_path / "packed")])
    assert "start with its README.md" in capsys.readouterr().out
    card = (tmp_path / "packed/README.md").read_text()
    assert "# mlp on digits" in card and f"{first.metrics['test/accuracy']:.4g}" in card
    assert (tmp_path / "packed/code/src/predict.py").is_file() and not (tmp_path / "packed/run/wandb").exists()
    inputs = load(first.folder).datamodule.example_inputs(1)
    argv = [sys.executable, "-m", "src.predict", "../run", *inputs]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(argv, cwd=tmp_path / "packed/code", env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "→" in done.stdout, done.stderr


def test_an_empty_argument_matches_nothing(outputs: Path, capsys: Any) -> None:
    assert "an empty name selects no run" in error_of(capsys, "delete", "", "--yes")
    assert len(listed_ids(capsys)) == 4


def test_a_killed_run_has_the_status_interrupted(outputs: Path, capsys: Any) -> None:
    RunFolder.create(outputs / "runs" / "2026-01-01" / "120000-mlp-digits-eeeeee", CONFIG, [])._release()
    assert listed_ids(capsys, "status=interrupted") == {"eeeeee"}
    main(["show", "eeeeee"])
    assert "interrupted" in capsys.readouterr().out


def test_damaged_runs_are_named_and_the_others_listed(outputs: Path, capsys: Any, caplog: Any) -> None:
    (outputs / "sweeps/rates/lr_1_bbbbbb/config.yaml").write_text("a: [")
    record = outputs / "sweeps/rates/lr_2_cccccc/run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"best": 5, "monitor": None}))
    assert listed_ids(capsys, "optimizer.lr=0.001") == {"aaaaaa"}
    assert "lr_1_bbbbbb" in caplog.text
    main(["show", "cccccc"])
    main(["list"])


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_names_are_shown_on_one_line(text: str, tmp_path: Path, capsys: Any) -> None:
    folder = RunFolder.create(tmp_path / "outputs" / "runs" / "120000-mlp-digits-aaaaaa", CONFIG, [])
    folder._release()
    record = json.loads((folder.path / "run.json").read_text())
    best = {"val/loss": 0.5, f"val/{text}": 0.25}
    record |= {"status": "finished", "command": text, "error": text, "tags": [text], "notes": text, "best": best}
    (folder.path / "run.json").write_text(json.dumps(record))
    for argv in (["list"], ["show", str(folder.path)]):
        main(["--outputs", str(tmp_path / "outputs"), *argv])
        out = capsys.readouterr().out
        assert not acts(out) and (argv[0] != "list" or len(out.splitlines()) == 3)
        assert not any(row.startswith(("break", "end")) for row in out.splitlines())


CONFIGS = [
    "tags: 5",
    "tags: [[1]]",
    "tags: {a: 1}",
    "notes: [1]",
    "model: mlp",
    "model: [1]",
    "model: {name: [1]}",
    "datamodule: 5",
]
CONFIGS += ["model: &a {name: x}", "1: 2", f"optimizer: {{lr: {'9' * 400}}}", "optimizer: {lr: 1e999}", "[", "- 1"]


@pytest.mark.parametrize("config", CONFIGS)
def test_list_accepts_values_of_any_type_in_a_config(config: str, outputs: Path, capsys: Any) -> None:
    (outputs / "sweeps/rates/lr_1_bbbbbb/config.yaml").write_text(config)
    assert listed_ids(capsys) == {"aaaaaa", "bbbbbb", "cccccc", "dddddd"}
    for argv in (["list"], ["show", "bbbbbb"], ["list", "optimizer.lr>0"], ["list", "tag=x"]):
        main(argv)


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
def test_a_folder_whose_config_is_no_file_is_named_and_the_others_listed(
    kind: str, outputs: Path, tmp_path: Path, capsys: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config = outputs / "sweeps/rates/lr_1_bbbbbb/config.yaml"
    place(kind, config, tmp_path)
    assert listed_ids(capsys) == {"aaaaaa", "cccccc", "dddddd"}
    assert "lr_1_bbbbbb" in caplog.text


def place(kind: str, file: Path, elsewhere: Path) -> None:
    """Put something that is no regular file in the place of a file."""
    file.rename(elsewhere / "original") if file.exists() else None
    if kind in ("link", "dangling"):
        file.symlink_to(elsewhere / ("original" if kind == "link" else "nowhere"))
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.mkdir()


@pytest.mark.parametrize("name", ["run.json", ".run.json.partial"])
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
def test_a_record_that_cannot_be_written_is_a_user_error(
    kind: str, name: str, outputs: Path, tmp_path: Path, capsys: Any
) -> None:
    folder = outputs / "runs/2026-01-01/100000-mlp-digits-aaaaaa"
    (tmp_path / "original").write_text("keep")
    before = (folder / name).read_text() if name == "run.json" else "keep"
    place(kind, folder / name, tmp_path)
    if kind == "folder":
        assert "this is a folder" in error_of(capsys, "tag", str(folder), "new")
    else:
        main(["tag", str(folder), "new"])
        assert "new" in json.loads((folder / "run.json").read_text())["tags"]
        assert not (folder / "run.json").is_symlink()
    assert (tmp_path / "original").read_text() == before and not (tmp_path / "nowhere").exists()


def test_a_deletion_that_fails_names_what_is_left(
    outputs: Path, capsys: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = outputs / "runs/2026-01-01/100000-mlp-digits-aaaaaa"

    def raise_error(path: str, dir_fd: int | None = None) -> None:
        raise OSError(errno.EIO, "Input/output error", "checkpoints")

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", raise_error)
        message = error_of(capsys, "delete", str(folder), "--yes")
    (rest,) = folder.parent.glob(".deleted-*")
    assert "Input/output error" in message and f"by hand: {rest}" in message
    main(["list"])
    assert "aaaaaa" not in capsys.readouterr().out
    other = RunFolder.create(folder.with_name("100000-mlp-digits-eeeeee"), RunFolder.open(rest).config(), [])
    other.finish({})
    main(["delete", str(other.path), "--yes"])
    assert rest.is_dir() and f"{rest.name}: an earlier delete was stopped" in caplog.text


def test_long_values_are_truncated(outputs: Path, capsys: Any) -> None:
    folder = RunFolder.open(outputs / "runs/2026-01-01/100000-mlp-digits-aaaaaa")
    folder.update(error="E" * 10**6)
    main(["show", "aaaaaa"])
    assert 1000 < capsys.readouterr().out.count("E") < 3000


def test_a_read_only_run_is_not_deleted(outputs: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = sorted(path.name for path in (outputs / "runs/2026-01-01").iterdir())
    folder = outputs / "runs/2026-01-01" / runs[-1] / "checkpoints"
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != folder)
    message = error_of(capsys, "delete", *(str(folder.parents[1] / name) for name in runs), "--yes")
    assert "checkpoints: this folder is read-only, so nothing was deleted" in message
    assert sorted(path.name for path in (outputs / "runs/2026-01-01").iterdir()) == runs


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
def test_a_leftover_of_a_deletion_does_not_prevent_another(kind: str, outputs: Path, tmp_path: Path) -> None:
    folder = outputs / "runs/2026-01-01/100000-mlp-digits-aaaaaa"
    (tmp_path / "original").mkdir()
    beside = folder.with_name(f".deleted-{folder.name}")
    place(kind, beside, tmp_path)
    main(["delete", str(folder), "--yes"])
    assert not folder.exists() and os.path.lexists(beside) and (tmp_path / "original").is_dir()
