"""Composition of configs: options, combined presets, the default data of models, and changes to recorded configs."""

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from src.config.compose import compose, update
from src.config.groups import CONF, groups, search_roots, summary
from src.core.errors import UserError


def test_model_selects_its_default_data_unless_a_datamodule_is_given() -> None:
    assert compose(["model=transformer"]).datamodule.name == "dates"
    assert compose(["model=lstm"]).datamodule.name == "mackey_glass"
    assert compose(["model=transformer", "datamodule=digits"]).datamodule.name == "digits"
    assert compose(["datamodule=digits", "model=transformer"]).datamodule.name == "digits"


def test_regularization_presets_combine() -> None:
    knobs = compose(["regularization=[dropout,label_smoothing]"]).regularization
    assert (knobs.dropout, knobs.label_smoothing, knobs.mixup_alpha) == (0.3, 0.1, 0.0)


def test_command_line_takes_precedence() -> None:
    cfg = compose(["regularization.dropout=0.25", "regularization=[dropout]", "model=transformer"])
    assert cfg.regularization.dropout == cfg.model.dropout == 0.25


def test_preset_overrides_the_regularization_of_the_model() -> None:
    assert compose(["model=transformer"]).model.dropout == 0.1
    assert compose(["model=transformer", "regularization=none"]).model.dropout == 0.0
    assert compose(["optimizer=adamw", "regularization=none"]).optimizer.weight_decay == 0.0


def test_options_interpolate_the_regularization_knobs() -> None:
    cfg = compose(["regularization.weight_decay=0.5", "regularization.early_stopping_patience=7", "seed=3"])
    assert cfg.optimizer.weight_decay == 0.5
    assert cfg.callbacks.early_stopping.patience == 7
    assert cfg.datamodule.seed == 3


def test_callbacks_and_loggers_can_be_changed_by_key() -> None:
    cfg = compose(["callbacks.progress=null", "+callbacks.mine._target_=my.Callback", "logger=[wandb,csv]"])
    assert cfg.callbacks.progress is None and cfg.callbacks.mine._target_ == "my.Callback"
    assert set(cfg.logger) == {"wandb", "csv"}
    assert compose(["logger=none"]).logger == {}


def test_compose_keeps_the_hydra_state_of_the_program() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose(["seed=5"]).seed == 5
        assert hydra_compose("train", overrides=["seed=6"]).seed == 6


def test_update_changes_keys_of_a_recorded_config_but_not_groups() -> None:
    recorded = {"optimizer": {"lr": 0.1, "name": "sgd"}, "seed": 0}
    assert update(recorded, ["optimizer.lr=0.2"])["optimizer"]["lr"] == 0.2
    assert recorded["optimizer"]["lr"] == 0.1, "the recorded config is not modified"
    with pytest.raises(UserError, match=r"'lrr'.*'lr'"):
        update(recorded, ["optimizer.lrr=0.2"])
    with pytest.raises(UserError, match="keeps its optimizer"):
        update(recorded, ["optimizer=adam"])
    with pytest.raises(UserError, match="cannot read"):
        update(recorded, ["optimizer.lr"])
    with pytest.raises(UserError, match=r"optimizer\.lr=1,2: a recorded run has one value per key"):
        update(recorded, ["optimizer.lr=1,2"])
    for override in ("+optimizer.beta=1", "~optimizer.lr"):
        with pytest.raises(UserError, match=r"keys of a recorded run cannot be added or removed"):
            update(recorded, [override])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("launcher.jobs=2", r"^launcher\.jobs=2: unknown key\. Did you mean 'hydra\.launcher\.jobs'\?$"),
        ("launcher.jbos=2", r"launcher\.jbos=2: 'hydra\.launcher' has no key 'jbos'\. Did you mean 'jobs'\?"),
        ("launcher=fused", r"Did you mean 'hydra/launcher'\?"),
        ("sweeper=search", r"Did you mean 'hydra/sweeper'\?"),
        ("traner.max_epochs=2", r"Did you mean 'trainer'\?"),
    ],
)
def test_missing_hydra_prefix_is_suggested(override: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        compose([override])


def test_a_recorded_run_has_no_launcher() -> None:
    with pytest.raises(UserError, match=r"launcher.jobs=2: unknown key or group 'launcher'"):
        update({"seed": 0}, ["launcher.jobs=2"])


def test_user_config_folders_take_precedence(tmp_path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# My model\nname: mine\n")
    (tmp_path / "model" / "mlp.yaml").write_text("# My MLP\nname: mine\n")
    (tmp_path / "model" / "_parts.yaml").write_text("# Not an option\n")
    for argv in (
        ["--config-dir", str(tmp_path)],
        [f"--config-dir={tmp_path}"],
        [f"hydra.searchpath=[file://{tmp_path}]"],
    ):
        models = groups(search_roots(argv))["model"]
        assert models["mine"] == "My model" and models["mlp"] == "My MLP" and "cnn" in models
        assert "_parts" not in models


def test_config_folder_can_be_inside_a_package(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine_of_pkg" / "conf" / "model").mkdir(parents=True)
    (tmp_path / "mine_of_pkg" / "__init__.py").touch()
    (tmp_path / "mine_of_pkg" / "conf" / "model" / "mine.yaml").write_text("# My model\nname: mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    argv = ["hydra.searchpath=[pkg://mine_of_pkg.conf]"]
    assert search_roots(argv)[0] == tmp_path / "mine_of_pkg" / "conf"
    assert groups(search_roots(argv))["model"]["mine"] == "My model"
    assert not search_roots(["hydra.searchpath=[pkg://no_such_package.conf]"])[0].exists()


def test_summary_is_the_first_comment_that_is_not_a_directive(tmp_path) -> None:
    file = tmp_path / "option.yaml"
    file.write_text("# @package _global_\n# What it is\n# More\nkey: 1  # other\n")
    assert summary(file) == "What it is"
    file.write_text("key: 1  # a value\n# late\n")
    assert summary(file) == ""
