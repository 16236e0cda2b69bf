"""--help and --cfg job describe all options and load no torch."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from src.cli.help import help_text, help_topic
from src.config.groups import CONF, groups, sweeps
from src.core.errors import UserError

OPTIONS = [(group, name, text) for group, options in groups([CONF]).items() for name, text in options.items()]


@pytest.mark.parametrize(("group", "name", "text"), OPTIONS, ids=lambda value: value)
def test_the_help_of_a_group_lists_every_option_with_its_summary(group: str, name: str, text: str) -> None:
    assert text and any(line.split(maxsplit=1) == [name, text] for line in help_text(group).splitlines())


def test_the_overview_fits_a_screen_and_counts_the_options() -> None:
    lines = help_text("").splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    counted = dict(re.findall(r"([a-z_/]+) \((\d+)\)", help_text("")))
    assert {group: int(count) for group, count in counted.items()} == {
        group: len(options) for group, options in {**groups([CONF]), "sweeps": sweeps()}.items() if group in counted
    }
    assert {"model", "optimizer", "callbacks", "sweeps"} <= set(counted)


OWN_KEYS = [(group, name) for group, name, _ in OPTIONS if group not in ("debug", "experiment", "hydra/sweeper")]


@pytest.mark.parametrize(("group", "name"), OWN_KEYS)
def test_the_help_of_an_option_has_its_keys_with_defaults_and_allowed_values(group: str, name: str) -> None:
    path = CONF / group / f"{name}.yaml"
    document = yaml.safe_load(path.read_text()) or {}
    text = help_text(f"{group}={name}")
    assert text.startswith(f"{group}={name}: ")
    section = document.get(group, document)
    keys = [key for key in section if key not in ("name", "_target_", "defaults", "_self_")]
    for key in keys:
        assert re.search(rf"\b{re.escape(group.replace('/', '.'))}\.{key}\b", text), key


@pytest.mark.parametrize(
    ("topic", "line"),
    [
        ("model=mlp", r"model\.activation +tanh +tanh \| relu \|.* +the textbook's"),
        ("model=mlp", r"model\.dropout +=.* number from 0\.?0? below 1"),
        ("optimizer=adam", r"optimizer\.lr +1e-3 +number above 0"),
        ("trainer=auto", r"trainer\.max_steps +-1 +integer from -1"),
        ("callbacks=default", r"callbacks\.predictions\.examples +16 +integer from 0 to 10,000"),
        ("search=optuna", r"search\.sampler +tpe +tpe \| gp \| qmc \| nsgaii"),
        ("sweep", r"sweep\.dry_run +false +true \| false +check everything"),
        ("seed", r"seed +0 +integer from 0 below 4,294,967,296 +of weights"),
        ("hydra/launcher=ray", r"hydra\.launcher\.cpus_per_job +1 +integer above 0"),
    ],
)
def test_the_help_has_values_ranges_and_meaning(topic: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert re.search(line, help_text(topic)), help_text(topic)


@pytest.mark.parametrize(
    ("topic", "nearest"), [("modl", "model"), ("model=lstn", "lstm"), ("sweeps=learning_rat", "learning_rate")]
)
def test_an_unknown_topic_is_answered_with_the_nearest(topic: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"Did you mean '{nearest}'"):
        help_text(topic)


@pytest.mark.parametrize(
    ("argv", "topic"),
    [
        (["--help"], ""),
        (["model=mlp", "-h"], ""),
        (["--help", "model"], "model"),
        (["--help=model=mlp"], "model=mlp"),
        (["--help", "--config-dir=x"], ""),
        (["model=mlp"], None),
    ],
)
def test_help_topics(argv: list[str], topic: str | None) -> None:
    assert help_topic(argv) == topic


@pytest.mark.parametrize(
    "verb", ["train", "tune", "compare", "runs", "evaluate", "predict", "export", "preview", "doctor", "sync"]
)
def test_every_verb_has_the_help_of_groups_and_an_overview_of_one_screen(verb: str) -> None:
    for arguments, beginning in ((["--help", "scheduler"], "scheduler: "), (["--help"], "")):
        command = [sys.executable, "-m", f"src.{verb}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"})
        assert done.returncode == 0 and done.stdout.startswith(beginning), done.stderr
        assert len(done.stdout.splitlines()) <= 45


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
    assert "Groups, with the number of their options" in out and "model (9)" in out


def test_cfg_job_loads_no_torch(tmp_path) -> None:
    out = without_torch(["--cfg", "job", "model=lstm", "optimizer.lr=0.5", f"paths.outputs={tmp_path}/outputs"])
    shown = yaml.safe_load(out)
    assert shown["model"]["name"] == "lstm" and shown["optimizer"]["lr"] == 0.5
    assert list(tmp_path.iterdir()) == []


def test_cfg_job_resolves_and_selects_a_package() -> None:
    out = without_torch(["--cfg", "job", "--resolve", "--package", "model", "regularization.dropout=0.25"])
    assert yaml.safe_load(out.partition("\n")[2] if out.startswith("#") else out)["dropout"] == 0.25
