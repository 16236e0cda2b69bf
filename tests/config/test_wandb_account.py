"""The W&B entities and projects of the user."""

import sys
from pathlib import Path

import pytest

from src.config.wandb_account import user_account


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    for name in ("WANDB_ENTITY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def test_default_project_belongs_to_the_user() -> None:
    account = user_account()
    assert account.entities == frozenset() and account.projects == {"gridlight"}


def test_all_sources_of_user_settings_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings").write_text("[default]\nentity = settings\nproject = of_settings\n")
    monkeypatch.setenv("WANDB_ENTITY", "environment")
    (tmp_path / "own" / "logger").mkdir(parents=True)
    (tmp_path / "own" / "logger" / "wandb.yaml").write_text("wandb: {entity: team, project: '${oc.env:NAME}'}")
    monkeypatch.setenv("NAME", "of_config")
    monkeypatch.setattr(sys, "argv", ["train", "--config-dir", str(tmp_path / "own")])
    account = user_account("additional")
    assert account.entities == {"settings", "environment", "team", "additional"}
    assert account.projects == {"of_settings", "of_config", "gridlight"}


@pytest.mark.parametrize("text", ["", "[]", "wandb: 3", "wandb: {project: '${nothing}'}", "{", "\0"])
def test_config_without_a_project_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "logger").mkdir()
    (tmp_path / "logger" / "wandb.yaml").write_text(text)
    monkeypatch.setattr(sys, "argv", ["train", f"--config-dir={tmp_path}"])
    assert user_account().projects == {"gridlight"}


@pytest.mark.parametrize("name", ["x; rm -rf /", 3, ["x"], "mine "])
def test_other_account_is_refused(name: object) -> None:
    account = user_account("mine", "mine")
    assert account.refusal("mine", "mine") is None and account.refusal(None, "") is None
    assert "WANDB_ENTITY=" in str(account.refusal(entity=name)) and "WANDB_PROJECT=" in str(
        account.refusal(project=name)
    )
    assert "WANDB_ENTITY='x; rm -rf /'" in str(account.refusal(entity="x; rm -rf /"))
