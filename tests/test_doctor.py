"""`src.doctor` checks an installation in which anything may be missing."""

import subprocess
import sys
from pathlib import Path

import pytest

from src import ROOT
from src.cli.doctor import run_overrides
from src.core.errors import UserError
from src.doctor import main

HIDDEN = """
import sys
from importlib.abc import MetaPathFinder
class Hide(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
sys.meta_path.insert(0, Hide())
from src.doctor import main
main()
"""


def python(*argv: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_outside_the_environment_required_packages_are_reported_missing() -> None:
    process = python("-S", "-m", "src.doctor")
    assert process.returncode == 1 and not process.stderr
    for package in ("torch", "lightning", "wandb", "matplotlib", "pyyaml", "numpy", "pillow", "kornia", "scipy"):
        assert f"MISSING {package} is not installed: pip install -c constraints.txt -e ." in process.stdout
    assert "without wn is not installed: pip install -c constraints.txt -e .[text]" in process.stdout
    assert "config groups" in process.stdout, "all checks run"


@pytest.mark.parametrize("hidden", ["lightning", "wandb"])
def test_a_package_that_does_not_import_stops_nothing(hidden: str) -> None:
    process = python("-c", HIDDEN.format(hidden={hidden}))
    assert (
        "Weights & Biases" in process.stdout and "config groups" in process.stdout and "Traceback" not in process.stderr
    )


def test_this_machine_is_complete() -> None:
    process = python("-m", "src.doctor")
    assert process.returncode == 0 and "MISSING" not in process.stdout and "ok      torch " in process.stdout


@pytest.mark.parametrize("argv", [["-h"], ["resume", "-h"], ["resume", "model=cnn", "--help"]])
def test_help_is_printed_wherever_the_flag_is(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["doctor", *argv])
    main()
    printed = capsys.readouterr()
    assert "python -m src.doctor resume model=cnn" in printed.out and not printed.err


def test_the_bare_name_of_an_experiment_becomes_an_override(tmp_path: Path) -> None:
    argv = ["digits_resnet20", "trainer.max_epochs=3", "~callbacks.progress", "notes='a=b'"]
    assert run_overrides(argv) == ["experiment=digits_resnet20", *argv[1:]]
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# Mine\n")
    search_path = f"hydra.searchpath=[file://{tmp_path}]"
    assert run_overrides([search_path, "mine"]) == [search_path, "experiment=mine"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("digits_resnet", "digits_resnet: there is no such experiment. Did you mean 'digits_resnet20'?"),
        ("--quick", "--quick: the check takes the overrides of one run, such as model=mlp, and no flags but --help"),
    ],
)
def test_arguments_that_are_no_overrides_are_rejected(argument: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        run_overrides([argument])
    assert str(error.value).startswith(message)
    process = python("-m", "src.doctor", "resume", argument)
    assert process.returncode == 2 and message in process.stderr and len(process.stderr.splitlines()) == 1
