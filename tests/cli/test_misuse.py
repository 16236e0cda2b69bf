"""Command lines that mean something else than they say are answered before Hydra takes them at their word."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from src import ROOT
from src.cli.hydra_app import parsed, parser_of_a_run, run_with_hydra
from src.cli.runs import _parser
from src.config.compose import compose
from src.config.trust import TRUST
from src.config.validate import check
from src.core.errors import UserError
from src.training.resume import resumed
from src.training.run import run


def ask(*words: str, **more: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "src.train", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, **more)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "words", [["--trust", "mine", "a", "b"], ["a", "--trust=mine", "b"], ["a", "b", "--trust", "mine"]]
)
def test_trust_may_be_given_anywhere(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST, "")
    verb = parser_of_a_run("verb", None)
    verb.add_argument("changes", nargs="*")
    assert parsed(verb, ["RUN", *words]).changes == ["a", "b"]
    assert parsed(_parser(), ["rerun", "RUN", *words]).changes == ["a", "b"]
    assert os.environ[TRUST] == "mine"


@pytest.mark.parametrize(
    ("words", "says"),
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
def test_misuse_is_answered_in_one_screen(words: list[str], says: str) -> None:
    done = ask(*words)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr and not done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
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
        (["model=mlp", "--cfg", "job", "seed=1"], r"seed=1: overrides stand together, all before or all behind flags"),
    ],
)
def test_flags_that_are_none_are_told_what_is_meant(words: list[str], says: str) -> None:
    with pytest.raises(UserError) as told:
        run_with_hydra(lambda cfg: None, words)
    assert re.fullmatch(says, str(told.value)), str(told.value)


def test_a_dry_run_may_be_asked_for_with_a_flag(tmp_path: Path) -> None:
    words = ["-m", "model=mlp", "datamodule=wine", "seed=1,2", f"paths.outputs={tmp_path}"]
    done = ask(*words, "--dry-run")
    assert "2 of 2 jobs would run; this was a dry run, nothing was started" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())
    assert "begin with -m" in ask("--dry-run").stderr


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("sweep.name=../../x", "it names one folder under sweeps/"),
        ("sweep.name=.hidden", "it names one folder"),
        ("paths.outputs=", "a path must be given"),
        ("paths.data=", "a path must be given"),
    ],
)
def test_paths_that_lead_astray_are_refused(word: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        check(compose([word]))


def test_resume_must_name_a_folder(tmp_path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path, says in (("", "must name a run folder"), (str(file), "this is a file")):
        with pytest.raises(UserError, match=says):
            resumed(path, [])


def test_a_run_without_checkpoints_is_not_resumed(fast) -> None:
    result = run(fast("callbacks=none"), verbose=False)
    with pytest.raises(UserError, match="kept no checkpoint"):
        resumed(str(result.folder), ["trainer.max_epochs=4"])


def test_an_input_may_begin_with_a_negative_number() -> None:
    parser = parser_of_a_run("predict", None)
    parser.add_argument("inputs", nargs="+")
    assert parser.parse_args(["RUN", "-1,0.5", "-.5,2", "--json"]).inputs == ["-1,0.5", "-.5,2"]


def test_the_wrong_python_is_told_what_it_lacks(tmp_path) -> None:
    (tmp_path / "hydra.py").write_text("raise ModuleNotFoundError('no hydra', name='hydra')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from src.train import main; main(['model=mlp'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "source .venv/bin/activate" in done.stderr and "Traceback" not in done.stderr


def test_what_is_optional_is_not_called_required() -> None:
    done = subprocess.run([sys.executable, "-m", "src.evaluate"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.endswith("required: run\n")
