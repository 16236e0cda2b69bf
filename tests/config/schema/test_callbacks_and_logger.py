"""Callbacks and loggers are checked with the rest, before anything is loaded."""

import inspect
from importlib import import_module
from typing import Any

import pytest

from src.config.compose import compose
from src.config.groups import CONF, groups
from src.config.schema.callbacks import ENTRIES
from src.config.validate import check
from src.core.errors import UserError
from src.training.build import build_trainer

WRONG = [
    ("callbacks.early_stopping.patience=abc", "callbacks.early_stopping.patience=abc: must be a valid integer"),
    ("+callbacks.progress.refresh=0.01", "callbacks.progress.refresh=0.01: must be greater than or equal to 0.1"),
    ("+callbacks.progress.refesh=1", "callbacks.progress.refesh=1: unknown key 'refesh'. Did you mean 'refresh'?"),
    ("logger.wandb.init_timeout=abc", "logger.wandb.init_timeout=abc: must be a valid number"),
    ("+logger.wandb.projct=x", "logger.wandb.projct=x: unknown key 'projct'. Did you mean 'project'?"),
    ("+callbacks.mine.x=1", "callbacks.mine._target_ is missing"),
    ("+callbacks.mine._target_=os.system", "this is no lightning.pytorch.callbacks"),
    ("+callbacks.t={_target_:lightning.pytorch.callbacks.Timer,intervall:x}", "Did you mean 'interval'?"),
    (
        "+callbacks.d={_target_:lightning.pytorch.callbacks.DeviceStatsMonitor,cpu_stats:x}",
        "callbacks.d.cpu_stats=x: must",
    ),
    ("+logger.l={_target_:lightning.pytorch.loggers.CSVLogger,nam:x}", "Did you mean 'name'?"),
    ("trainer.max_time=12h", "trainer.max_time=12h: days:hours:minutes:seconds"),
    ("trainer.devices=1000000000", "trainer.devices=1000000000: at most 64 devices"),
    ("trainer.max_time='9999999999:00:00:00'", "days:hours:minutes:seconds"),
    ("datamodule.batch_size=99999999999999999999", "datamodule.batch_size=…: must be an integer of at most 2^53"),
    ("trainer.devices=[0,99999999999999999999]", "trainer.devices=…: must be an integer of at most 2^53"),
    ("trainer.devices=0", "trainer.devices=0: how many devices, from 1"),
    ("datamodule.split_seed=-1", "datamodule.split_seed=-1: must be greater than or equal to 0"),
    ("datamodule.seed=4294967296", "datamodule.seed=4294967296: must be less than 4294967296"),
]


@pytest.mark.parametrize(("word", "says"), WRONG, ids=[word for word, _ in WRONG])
def test_a_wrong_entry_is_refused_under_its_key(word: str, says: str) -> None:
    with pytest.raises(UserError) as refused:
        check(compose([word]))
    assert says in str(refused.value) and len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    "word",
    [
        "+callbacks.early_stopping.monitor=val/loss",
        "+logger.b={_target_:lightning.pytorch.loggers.TensorBoardLogger,flush_secs:3}",  # its ** goes to SummaryWriter
        "trainer.max_time=00:12:00:00",
        "trainer.devices=[0,2]",
        "logger.wandb.log_model=all",
    ],
)
def test_a_right_entry_is_taken(word: str) -> None:
    check(compose([word]))


def test_a_key_that_is_unknown_is_told_as_such_though_its_value_is_interpolated() -> None:
    with pytest.raises(UserError, match=r"logger\.wandb\.notes=null: unknown key 'notes'"):
        check(compose(["+logger.wandb._target_=lightning.pytorch.loggers.CSVLogger"]))


@pytest.mark.parametrize("group", ["callbacks", "logger"])
def test_every_shipped_entry_has_a_schema(group: str) -> None:
    for option in groups([CONF])[group]:
        for entry in compose([f"{group}={option}"])[group].values():
            assert entry is None or "_target_" not in entry or entry["_target_"] in ENTRIES


@pytest.mark.parametrize("target", ENTRIES)
def test_the_schema_has_the_arguments_and_defaults_of_the_class(target: str) -> None:
    module, _, name = target.rpartition(".")
    cls: Any = getattr(import_module(module), name)
    theirs = {key: p.default for key, p in inspect.signature(cls).parameters.items()}
    from_run = {"monitor", "mode", "dirpath", "folder", "save_dir"}
    fields = {key: field for key, field in ENTRIES[target].model_fields.items() if key != "target"}
    assert set(fields) - from_run == set(theirs) - from_run - {"args", "kwargs"}
    for key in set(fields) - from_run:
        assert fields[key].is_required() == (theirs[key] is inspect.Parameter.empty)
        assert fields[key].is_required() or fields[key].default == theirs[key]


def test_devices_that_this_machine_does_not_have_are_one_error() -> None:
    """A run that was recorded on a GPU is resumed elsewhere."""
    config = check(compose(["trainer.devices=[0]", "trainer.accelerator=cpu", "logger=none"]))
    with pytest.raises(UserError, match=r"trainer: .*devices"):
        build_trainer(config)
