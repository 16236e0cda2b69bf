"""Command lines that Hydra would misinterpret are rejected before Hydra reads them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from src import ROOT
from src.cli.hydra_app import parse_arguments, run_parser, run_with_hydra
from src.cli.runs import parser as runs_parser
from src.config.compose import compose
from src.config.trust import TRUST
from src.config.validate import check
from src.core.errors import UserError
from src.training.resume import prepare_resume
from src.training.run import run


def train(*argv: str, **more: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "src.train", *argv]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, **more)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "argv", [["--trust", "mine", "a", "b"], ["a", "--trust=mine", "b"], ["a", "b", "--trust", "mine"]]
)
def test_trust_flags_may_be_anywhere(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST, "")
    verb = run_parser("verb", None)
    verb.add_argument("changes", nargs="*")
    assert parse_arguments(verb, ["RUN", *argv]).changes == ["a", "b"]
    assert parse_arguments(runs_parser(), ["rerun", "RUN", *argv]).overrides == ["a", "b"]
    assert os.environ[TRUST] == "mine"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["datamodule=[digits,wine]"], "a run has one datamodule. To compare them: -m datamodule=digits,wine"),
        (["-m", "model=mlp,cnn", "--cfg", "job"], "leave out -m"),
        (["--config-dir", "/no/such/folder"], "/no/such/folder: there is no such config folder"),
        (["optimizer.lr=1e-3,1e-2"], "several values make a sweep"),
        (["-m", "--mode=mlp"], "--mode=mlp: overrides have no dashes: mode=mlp"),
        (["-m", "--mode=mlp"], "mode=mlp: unknown key or group 'mode'. Did you mean 'model'?"),
        (["-1"], "cannot read '-1': overrides are written key=value"),
        (["--cfg", "job", "modl=mlp"], "error: modl=mlp: unknown key or group 'modl'. Did you mean 'model'?"),
    ],
)
def test_misuse_is_reported_in_one_screen(argv: list[str], message: str) -> None:
    process = train(*argv)
    assert (
        process.returncode == 2
        and message in process.stderr
        and "Traceback" not in process.stderr
        and not process.stdout
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--optimizer.lr=0.1"], r"--optimizer.lr=0.1: overrides have no dashes: optimizer.lr=0.1"),
        (["model=mlp", "--seed", "3"], r"--seed: overrides have no dashes: seed=3"),
        (
            ["--lr", "0.1", "--seed=3"],
            r"--lr: .* no dashes: lr=0.1 seed=3\nlr=0.1: unknown key. Did you mean 'optimizer.lr'.*",
        ),
        (["--model.channels=[8]", "model=cnn"], r"--model.channels=\[8\]: .* no dashes: model.channels=\[8\]"),
        (["-m", "--dryrun"], r"--dryrun: there is no such flag. Did you mean '--dry-run'\? Possible: --cfg, .*"),
        (["--cfg", "foo"], r"argument --cfg/-c: invalid choice: 'foo'.*"),
        (["--cfg"], r"argument --cfg/-c: expected one argument"),
        (["--c", "job"], r"ambiguous option: --c could match --cfg, .*"),
        (
            ["model=mlp", "--cfg", "job", "seed=1"],
            r"seed=1: overrides must be together, all before or all after the flags",
        ),
    ],
)
def test_unknown_flags_are_reported_with_a_correction(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        run_with_hydra(lambda cfg: None, argv)
    assert re.fullmatch(message, str(error.value)), str(error.value)


def test_dry_run_is_a_flag(tmp_path: Path) -> None:
    argv = ["-m", "model=mlp", "datamodule=wine", "seed=1,2", f"paths.outputs={tmp_path}"]
    process = train(*argv, "--dry-run")
    assert "2 of 2 jobs would run; this was a dry run, nothing was started" in process.stdout, process.stderr
    assert not list(tmp_path.iterdir())
    assert "begin with -m" in train("--dry-run").stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep.name=../../x", "must be the name of one folder under sweeps/"),
        ("sweep.name=.hidden", "must be the name of one folder"),
        ("paths.outputs=", "a path must be given"),
        ("paths.data=", "a path must be given"),
    ],
)
def test_invalid_paths_are_rejected(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(compose([override]))


def test_resume_must_name_a_folder(tmp_path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path, message in (("", "must name a run folder"), (str(file), "this is a file")):
        with pytest.raises(UserError, match=message):
            prepare_resume(path, [])


def test_a_run_without_checkpoints_is_not_resumed(fast) -> None:
    result = run(fast("callbacks=none"), verbose=False)
    with pytest.raises(UserError, match="kept no checkpoint"):
        prepare_resume(str(result.folder), ["trainer.max_epochs=4"])


def test_an_input_may_start_with_a_negative_number() -> None:
    parser = run_parser("predict", None)
    parser.add_argument("inputs", nargs="+")
    assert parser.parse_args(["RUN", "-1,0.5", "-.5,2", "--json"]).inputs == ["-1,0.5", "-.5,2"]


def test_a_missing_package_is_named(tmp_path) -> None:
    (tmp_path / "hydra.py").write_text("raise ModuleNotFoundError('no hydra', name='hydra')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from src.train import main; main(['model=mlp'])"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (
        process.returncode == 2 and "source .venv/bin/activate" in process.stderr and "Traceback" not in process.stderr
    )


def test_only_required_arguments_are_called_required() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "src.evaluate"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 2 and process.stderr.endswith("required: run\n")
