"""--help and --cfg job list all options and load no torch."""

import os
import subprocess
import sys

import pytest
import yaml

from src.cli.hydra_app import help_text
from src.config.groups import CONF, groups

OPTIONS = [(group, name, text) for group, options in groups([CONF]).items() for name, text in options.items()]


@pytest.mark.parametrize(("group", "name", "text"), OPTIONS, ids=lambda value: value)
def test_help_lists_every_option_with_its_summary(group: str, name: str, text: str) -> None:
    lines = help_text([]).splitlines()
    heading = lines.index(group)
    section = lines[heading + 1 : lines.index("", heading)]
    assert text and any(line.split(maxsplit=1) == [name, text] for line in section)


def test_the_required_groups_exist() -> None:
    expected = {
        "model",
        "optimizer",
        "scheduler",
        "regularization",
        "datamodule",
        "trainer",
        "logger",
        "callbacks",
        "debug",
    }
    assert expected <= set(groups([CONF]))


def without_torch(argv: list[str]) -> str:
    """Run a command line in a fresh interpreter that fails if it loads torch, and return what it prints."""
    script = f"""
import sys
sys.argv = ["src.train", *{argv!r}]
from src.train import main
try:
    main()
finally:
    heavy = {{"torch", "lightning", "wandb", "numpy", "sklearn"}} & set(sys.modules)
    assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_loads_no_torch() -> None:
    out = without_torch(["--help"])
    assert "Groups and their options" in out and "transformer" in out


def test_cfg_job_loads_no_torch(tmp_path) -> None:
    out = without_torch(["--cfg", "job", "model=lstm", "optimizer.lr=0.5", f"paths.outputs={tmp_path}/outputs"])
    shown = yaml.safe_load(out)
    assert shown["model"]["name"] == "lstm" and shown["optimizer"]["lr"] == 0.5
    assert list(tmp_path.iterdir()) == []


def test_cfg_job_resolves_and_selects_a_package() -> None:
    out = without_torch(["--cfg", "job", "--resolve", "--package", "model", "regularization.dropout=0.25"])
    assert yaml.safe_load(out.partition("\n")[2] if out.startswith("#") else out)["dropout"] == 0.25
