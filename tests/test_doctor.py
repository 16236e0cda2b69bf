"""The doctor examines a machine on which anything may be missing."""

import subprocess
import sys
from pathlib import Path

import pytest

from src import ROOT
from src.cli.doctor import words_of_a_run
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


def doctor(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_outside_the_environment_every_required_package_is_missing() -> None:
    done = doctor("-S", "-m", "src.doctor")
    assert done.returncode == 1 and not done.stderr
    for package in ("torch", "lightning", "wandb", "matplotlib", "pyyaml", "numpy", "pillow", "kornia", "scipy"):
        assert f"MISSING {package} is not installed: pip install -c constraints.txt -e ." in done.stdout
    assert "without wn is not installed: pip install -c constraints.txt -e .[text]" in done.stdout
    assert "config groups" in done.stdout, "it goes on to the end"


@pytest.mark.parametrize("hidden", ["lightning", "wandb"])
def test_a_package_that_does_not_import_is_no_end(hidden: str) -> None:
    done = doctor("-c", HIDDEN.format(hidden={hidden}))
    assert "Weights & Biases" in done.stdout and "config groups" in done.stdout and "Traceback" not in done.stderr


def test_this_machine_is_as_it_should_be() -> None:
    done = doctor("-m", "src.doctor")
    assert done.returncode == 0 and "MISSING" not in done.stdout and "ok      torch " in done.stdout


@pytest.mark.parametrize("words", [["-h"], ["resume", "-h"], ["resume", "model=cnn", "--help"]])
def test_help_is_shown_whatever_stands_before_it(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["doctor", *words])
    main()
    said = capsys.readouterr()
    assert "python -m src.doctor resume model=cnn" in said.out and not said.err


def test_the_bare_name_of_an_experiment_is_that_experiment(tmp_path: Path) -> None:
    words = ["digits_resnet20", "trainer.max_epochs=3", "~callbacks.progress", "notes='a=b'"]
    assert words_of_a_run(words) == ["experiment=digits_resnet20", *words[1:]]
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# Mine\n")
    own = f"hydra.searchpath=[file://{tmp_path}]"
    assert words_of_a_run([own, "mine"]) == [own, "experiment=mine"]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("digits_resnet", "digits_resnet: there is no such experiment. Did you mean 'digits_resnet20'?"),
        ("--quick", "--quick: the proof takes the words of one run, such as model=mlp, and no flags but --help"),
    ],
)
def test_words_that_are_of_no_run_are_refused(word: str, says: str) -> None:
    with pytest.raises(UserError) as told:
        words_of_a_run([word])
    assert str(told.value).startswith(says)
    done = doctor("-m", "src.doctor", "resume", word)
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1
