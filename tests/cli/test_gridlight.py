"""The console command, from the checkout and from a package that is not editable."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from src import ROOT
from src.cli.gridlight import main, overview
from src.cli.verbs import VERBS


def gridlight(*arguments: str, folder: Path, path: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """Run the command as its script does: without the working directory on the import path."""
    script = "from src.cli.gridlight import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_it_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    lines = capsys.readouterr().out.splitlines()
    modules = {file.stem for file in (ROOT / "src").glob("*.py")} - {"__init__", "api"}
    assert set(VERBS) - {"completion"} == modules
    assert all(sum(line.startswith(f"  {verb} ") for line in lines) == 1 for verb in VERBS)
    assert overview() == "\n".join(lines)


def test_the_script_is_declared() -> None:
    (script,) = entry_points(group="console_scripts", name="gridlight")
    assert script.load() is main


def test_an_unknown_verb_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(["trian"])
    assert exit_code.value.code == 2 and "Did you mean 'train'?" in capsys.readouterr().err


def test_a_verb_has_the_help_of_its_module(tmp_path: Path) -> None:
    module = subprocess.run([sys.executable, "-m", "src.runs", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert gridlight("runs", "--help", folder=tmp_path).stdout == module.stdout != ""


RUN = ("train", "model=mlp", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "logger=none", "callbacks=quiet")


@pytest.mark.slow
def test_a_project_with_its_own_package_src(tmp_path: Path) -> None:
    """The package of the project replaces Gridlight's neither in the command nor in the processes of its jobs."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "__init__.py").write_text("")
    (tmp_path / "src" / "train.py").write_text("raise SystemExit('the train.py of the project')")
    sweep = gridlight(*RUN, "-m", "seed=0,1", "hydra.launcher.jobs=2", folder=tmp_path)
    assert "2 of 2 jobs finished" in sweep.stdout + sweep.stderr, sweep.stderr
    devices = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    processes = gridlight(*RUN, *devices, folder=tmp_path)
    assert processes.returncode == 0, processes.stderr
    own = gridlight("train", "model=mlp", "model._target_=src.{}.Net".format("nets"), folder=tmp_path)
    assert own.returncode == 2 and "has the name of Gridlight's package" in own.stderr


@pytest.mark.slow
def test_a_package_that_is_not_editable_works_from_an_empty_folder(tmp_path: Path) -> None:
    site, folder = tmp_path / "site", tmp_path / "empty"
    folder.mkdir()
    ignored = shutil.ignore_patterns(".*", "outputs", "data", "build", "tests", "__pycache__")
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=ignored)  # building leaves files in its folder
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(source)]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    assert (site / "conf" / "train.yaml").is_file() and not (site / "tests").exists()
    single = gridlight(*RUN, folder=folder, path=site)
    assert single.returncode == 0, single.stderr
    sweep = gridlight(
        "train", "-m", "+sweeps=learning_rate", *RUN[1:], "optimizer.lr=0.1,0.01", folder=folder, path=site
    )
    assert "2 of 2 jobs finished" in sweep.stdout + sweep.stderr, sweep.stderr
    compared = gridlight("compare", "outputs", "--html", folder=folder, path=site)
    assert compared.returncode == 0 and (folder / "outputs" / "report.html").is_file(), compared.stderr
    (run,) = (folder / "outputs" / "runs").glob("*/*")
    exported = gridlight("runs", "export", str(run), "export", folder=folder, path=site)
    assert exported.returncode == 0 and (folder / "export").is_dir(), exported.stderr
    assert gridlight("doctor", folder=folder, path=site).stdout.count("MISSING") == 0
