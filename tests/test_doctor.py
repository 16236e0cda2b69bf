"""The doctor examines a machine on which anything may be missing."""

import subprocess
import sys

import pytest

from src import ROOT

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
