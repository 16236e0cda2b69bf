"""Validation of a command line, before torch is imported."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from src.config.compose import compose
from src.config.schema.run import Config
from src.config.validate import check
from src.core.errors import MAX_LISTED, UserError, nearest


def validated(*overrides: str) -> Config:
    return check(compose(overrides))


def error_message(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        validated(*overrides)
    message = str(caught.value)
    assert "{'" not in message and "Traceback" not in message, "neither Python containers nor stack frames"
    assert len(message.splitlines()) <= 20, "fits on one screen"
    return message


def test_default_config_is_valid() -> None:
    config = validated()
    assert (config.model.name, config.datamodule.name, config.optimizer.name) == ("mlp", "digits", "adam")
    assert config.trainer.max_epochs == config.datamodule.default_epochs  # type: ignore[attr-defined]


# (overrides, parts of the message): the key as typed, the nearest match, what is allowed
MISSPELLED = [
    (["modle=mlp"], ["modle=mlp", "'model'"]),
    (["optimizr.lr=0.1"], ["optimizr.lr=0.1", "'optimizer'"]),
    (["model=mpl"], ["model=mpl", "'mlp'", "cnn, gru, lstm, mlp"]),
    (["optimizer=adma"], ["optimizer=adma", "'adam'", "radam"]),
    (["regularization=[dropout,l3]"], ["regularization=l3", "'l2'", "mixup"]),
    (["trainer=cpuu"], ["trainer=cpuu", "'cpu'"]),
    (["optimizer.lrr=0.1"], ["optimizer.lrr=0.1", "'lr'", "betas"]),
    (["lr=0.1"], ["lr=0.1", "'optimizer.lr'"]),
    (["model.hidden_size=[3]"], ["model.hidden_size=[3]", "'hidden_sizes'"]),
    (["trainer.max_epoch=3"], ["'max_epochs'"]),
    (["optimizer.lr.x=1"], ["'optimizer.lr' is a value"]),
    (["+optimizer.amsgrd=true"], ["optimizer.amsgrd", "'amsgrad'"]),
    (["+sed=1"], ["'seed'"]),
    (["model.activation=reluu"], ["model.activation=reluu", "'relu'", "gelu", "tanh"]),
    (["trainer.precision=32-tru"], ["'32-true'", "bf16-mixed"]),
    (["monitor=val/acc"], ["monitor=val/acc", "'val/accuracy'", "val/loss"]),
    (["regularization.augmentation.rotaton=10"], ["'rotation'", "horizontal_flip"]),
    (["model._target_=src.models.mlp.MPL"], ["model._target_=src.models.mlp.MPL", "'MLP'"]),
    (["datamodule._target_=src.models.mlp.MLP"], ["datamodule._target_", "src.datamodules.base.DataModule"]),
    (["model._target_=nowhere.at.All"], ["model._target_=nowhere.at.All", "cannot import"]),
]


@pytest.mark.parametrize(("overrides", "parts"), MISSPELLED, ids=lambda value: value[0])
def test_misspelled_key_or_option_suggests_the_nearest_match(overrides: list[str], parts: list[str]) -> None:
    message = error_message(*overrides)
    for part in parts:
        assert part in message


OVERSIZED_CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("datamodule", {f"k{i}": i for i in range(1000)}),
    ("datamodule", {"function": "x" * 1_000_000}),
    ("datamodule", {"x" * 1_000_000: 1}),
    ("datamodule", {"": 1, "a.b": 1}),
    ("model", {"hidden_sizes": ["x"] * 10_000}),
    ("callbacks", {f"c{i}": {"a": 1} for i in range(1000)}),
    *(
        ("callbacks", {name: {"_target_": "src.callbacks.progress.Progress", "a": 1}})
        for name in ("a.b", "", "x" * 300, ".", "a..b")
    ),
    ("logger", {"a.b": {"_target_": 3}}),
]


@pytest.mark.parametrize(("section", "change"), OVERSIZED_CHANGES, ids=range(len(OVERSIZED_CHANGES)))
def test_errors_of_a_recorded_config_fit_on_one_screen(section: str, change: dict[str, Any]) -> None:
    config = validated("model=mlp", "datamodule=function", "logger=none").plain()
    config[section] |= change
    with pytest.raises(UserError) as caught:
        check(config)
    assert len(str(caught.value).splitlines()) <= MAX_LISTED + 1 and len(str(caught.value)) < 10_000


def test_nearest_match_of_long_names_is_fast() -> None:
    start = time.process_time()
    message = nearest("ab" * 10**6, ["ab" * 10**6, *(f"b{i}" for i in range(100_000))])
    assert len(message) < 10_000 and time.process_time() - start < 5
    assert nearest("adma", ["adam", "sgd"]) == "Did you mean 'adam'? Possible: adam, sgd."


INVALID_VALUES = [
    # wrong type
    (["optimizer.lr=abc"], "optimizer.lr=abc: must be a valid number"),
    (["optimizer.lr=null"], "optimizer.lr=null: must be a valid number"),
    (["seed=1.5"], "seed=1.5: must be a valid integer"),
    (["seed=null"], "seed=null: must be a valid integer"),
    (["trainer.max_epochs=ten"], "trainer.max_epochs=ten: must be a valid integer"),
    (["model.hidden_sizes=128"], "model.hidden_sizes=128: must be a valid list"),
    (["model.hidden_sizes=[128,x]"], "model.hidden_sizes[1]=x: must be a valid integer"),
    (["optimizer.amsgrad=1"], "optimizer.amsgrad=1: must be a valid boolean"),
    (["tags=good"], "tags=good: must be a valid list"),
    # out of range
    (["datamodule.batch_size=1000000000"], "datamodule.batch_size=1000000000: must be less than or equal to 100000000"),
    (["model.hidden_sizes=[128,9999999]"], "model.hidden_sizes[1]=9999999: must be less than or equal to 1048576"),
    (["model=transformer", "model.num_layers=1001"], "model.num_layers=1001: must be less than or equal to 1000"),
    (["trainer.devices=65"], "trainer.devices=65: at most 64 devices"),
    (["optimizer.lr=0"], "optimizer.lr=0: must be greater than 0"),
    (["optimizer.lr=nan"], "optimizer.lr=nan: must be"),
    (["optimizer.lr=inf"], "optimizer.lr=inf: must be"),
    (["seed=-1"], "seed=-1: must be greater than or equal to 0"),
    (["seed=4294967296"], "seed=4294967296: must be less than 4294967296"),
    (["model.hidden_sizes=[128,0]"], "model.hidden_sizes[1]=0: must be greater than 0"),
    (["optimizer.betas=[0.9,1.0]"], "optimizer.betas[1]=1.0: must be less than 1"),
    (["optimizer.betas=[0.9]"], "optimizer.betas=[0.9]: must have at least 2 items"),
    (["trainer.max_epochs=0"], "trainer.max_epochs=0: must be greater than 0"),
    (["trainer.limit_train_batches=1.5"], "trainer.limit_train_batches=1.5: must be"),
    (["trainer.limit_val_batches=-1"], "trainer.limit_val_batches=-1: must be"),
    (["datamodule.batch_size=0"], "datamodule.batch_size=0: must be greater than 0"),
    (["datamodule.val_fraction=1"], "datamodule.val_fraction=1: must be less than 1"),
    (["datamodule.val_fraction=0.6", "datamodule.test_fraction=0.5"], "nothing is left for training"),
    (["model=transformer", "model.num_heads=3"], "model: num_heads=3 does not divide d_model=128"),
    (
        ["regularization.gradient_clip_norm=1", "regularization.gradient_clip_value=1"],
        "regularization.gradient_clip_norm=null",
    ),
    # missing
    (["model=transformer", "datamodule=text"], "datamodule.path must be set"),
    (["model=transformer", "datamodule=text", "datamodule.path=nowhere.txt"], "nowhere.txt: there is no such file"),
    (
        ["model=transformer", "datamodule=text", "datamodule.path=conf"],
        "conf: expected a file, but this is a folder",
    ),
    (["model=cnn", "datamodule=image_folder", "datamodule.path=README.md"], "expected a folder, but this is a file"),
    (["~optimizer.lr"], "optimizer.lr is missing"),
    (["model=null"], "model must be chosen"),
    (["~scheduler"], "scheduler must be chosen"),
    # cannot be read
    (["optimizer.lr"], "cannot read 'optimizer.lr'"),
    (["model.hidden_sizes=[128"], "cannot read 'model.hidden_sizes=[128'"),
    (["paths.outputs=${nowhere}"], "nowhere"),
]


@pytest.mark.parametrize(
    ("overrides", "expected"), INVALID_VALUES, ids=lambda value: value if isinstance(value, str) else value[-1]
)
def test_invalid_value_is_reported_under_its_key(overrides: list[str], expected: str) -> None:
    assert expected in error_message(*overrides)


INCOMPATIBLE = [
    (["model=cnn", "datamodule=wine"], ["model=cnn", "datamodule=wine", "vector", "Data for cnn: digits"]),
    (["model=mlp", "datamodule=dates"], ["translation", "Models for translation of tokens: transformer"]),
    (["model=resnet", "datamodule=mackey_glass"], ["forecasting", "mlp"]),
    (["model=lstm", "datamodule=breast_cancer"], ["vector", "Models for binary_classification of vector: mlp"]),
    (["regularization=batch_norm", "datamodule.batch_size=1"], ["normalises over a batch", "must be 2 or more"]),
    (["regularization=stochastic_depth"], ["regularization.stochastic_depth", "model=mlp", "resnet"]),
    (["regularization=spatial_dropout", "model=lstm"], ["regularization.spatial_dropout", "cnn"]),
    (["regularization=batch_norm", "model=transformer"], ["regularization.batch_norm", "mlp, cnn"]),
    (["regularization=label_smoothing", "datamodule=diabetes"], ["label_smoothing", "regression", "classification"]),
    (["regularization=mixup", "model=transformer"], ["mixup_alpha", "tokens"]),
    (["regularization=cutmix", "datamodule=wine"], ["cutmix_alpha", "vector"]),
    (["regularization=augmentation", "datamodule=wine"], ["augmentation", "vector"]),
    (["scheduler=inverse_sqrt", "scheduler.warmup_steps=0"], ["scheduler.warmup_steps must be 1 or more"]),
    (["trainer.strategy=fsdp", "trainer.accelerator=cpu"], ["fsdp", "trainer.strategy=ddp"]),
    (["trainer=cpu", "trainer.precision=16-mixed"], ["trainer.precision=16-mixed", "bf16-mixed"]),
    (["monitor=val/r2"], ["monitor=val/r2", "val/accuracy"]),
]


@pytest.mark.parametrize(("overrides", "parts"), INCOMPATIBLE, ids=lambda value: "+".join(value))
def test_incompatible_choices_are_refused_with_the_alternatives(overrides: list[str], parts: list[str]) -> None:
    message = error_message(*overrides)
    for part in parts:
        assert part in message


def test_all_errors_are_reported_at_once() -> None:
    lines = error_message("optimizer.lr=abc", "model.activation=reluu", "trainer.max_epochs=0").splitlines()
    assert sorted(line.partition("=")[0] for line in lines) == [
        "model.activation",
        "optimizer.lr",
        "trainer.max_epochs",
    ]
    lines = error_message("optimizer.lrr=1", "seeed=3", "model.hiden_sizes=[3]").splitlines()
    assert len(lines) == 3
    lines = error_message("model=mpl", "optimizer=admaw").splitlines()
    assert len(lines) == 2


def test_error_of_an_interpolated_value_names_the_key_to_change() -> None:
    assert error_message("regularization.dropout=1.5") == "regularization.dropout=1.5: must be less than 1"
    assert error_message("regularization.weight_decay=-1").startswith("regularization.weight_decay=-1: ")
    assert error_message("datamodule.default_epochs=0") == "datamodule.default_epochs=0: must be greater than 0"
    assert error_message("model.dropout=1.5") == "model.dropout=1.5: must be less than 1"


def test_suggested_keys_can_be_set_by_an_override() -> None:
    message = error_message("+optimizer.foo=1")
    assert "target" not in message and "lr" in message
    assert "'rotation'" not in error_message("callbacks.progress.refresh=3")


@pytest.mark.parametrize("overrides", [["model=mlp,cnn"], ["optimizer.lr=1e-3,1e-2"]])
def test_several_values_without_multirun_flag_suggest_it(overrides: list[str]) -> None:
    assert "-m" in error_message(*overrides)


def test_integers_are_accepted_as_floats() -> None:
    config = validated("optimizer.lr=1", "regularization.dropout=0", "trainer.limit_train_batches=0.5")
    assert config.optimizer.lr == 1 and config.trainer.limit_train_batches == 0.5  # type: ignore[attr-defined]
    assert validated("trainer.limit_train_batches=20").trainer.limit_train_batches == 20


def test_validated_config_survives_a_round_trip_through_plain_containers() -> None:
    config = validated("model=transformer", "optimizer=adamw", "scheduler=inverse_sqrt", "regularization=[dropout,l2]")
    assert check(config.plain()) == config


def test_validated_config_is_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        validated().seed = 3


# ---- the command in a new process ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model=mpl"], "Did you mean 'mlp'?"),
        (
            ["datamodule=text", "datamodule.path=a.txt", "datamodule.contxt=5"],
            "error: datamodule.contxt=5: 'datamodule' has",
        ),
        (["optimizer.lr=abc"], "optimizer.lr=abc: must be a valid number"),
        (["model=mlp", "datamodule=dates"], "Models for translation of tokens: transformer"),
        (["model=transformer", "datamodule=text", "datamodule.path=nowhere.txt"], "there is no such file"),
        (["model=null"], "model must be chosen"),
        (["--optimizer.lr=0.1"], "overrides have no dashes: optimizer.lr=0.1"),
        (["resume=nowhere"], "nowhere"),
        (["-m", "model=mlp,mpl"], "Did you mean 'mlp'?"),
        (["-m", "optimizer.lr=0.1,-1"], "optimizer.lr=-1: must be greater than 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_command_exits_with_code_2_and_writes_nothing(
    command, tmp_path: Path, overrides: list[str], expected: str
) -> None:
    completed = command("src.train", *overrides, f"paths.outputs={tmp_path}/outputs")
    assert completed.returncode == 2, completed.stderr
    assert completed.stderr.startswith("error: ") and expected in completed.stderr
    assert "Traceback" not in completed.stderr + completed.stdout
    assert len(completed.stderr.splitlines()) <= 20
    assert list(tmp_path.iterdir()) == []


def test_validation_does_not_import_torch() -> None:
    script = """
import sys
from src.config.validate import check
from src.config.compose import compose
check(compose(["model=transformer", "optimizer=adabound", "scheduler=cosine", "regularization=[dropout,l2]"]))
heavy = {"torch", "lightning", "wandb", "kornia", "sklearn", "babel", "numpy", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""
    completed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr


def test_long_list_of_options_is_truncated() -> None:
    assert nearest("x", map(str, range(100, 125))).endswith("118, 119, …, 5 more.")
    assert nearest("x", "abc") == "Possible: a, b, c."


@pytest.mark.parametrize("key", ["paths.data", "datamodule.path", "notes"])
def test_nul_characters_are_refused(key: str) -> None:
    config = OmegaConf.to_container(compose(["datamodule=table", "datamodule.path=x", "datamodule.target_column=y"]))
    *parents, last = key.split(".")
    section = config
    for parent in parents:
        section = section[parent]
    section[last] = "a\0b"
    with pytest.raises(UserError, match=f"{key}=…: must not contain a NUL character"):
        check(config)
