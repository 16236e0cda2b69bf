"""The documented ranges: what they vary, that every point of them can run, and that W&B's agents get the same."""

import itertools

import pytest
import yaml

from src.config.groups import SWEEPS, sweeps
from src.config.isolated_hydra import isolated_hydra
from src.run_store.config_hash import config_hash
from src.sweeping.job_composer import JobComposer
from src.sweeping.wandb_sweep_files import COMMAND, FOLDER, files, master_config, values

DOCUMENTED = {
    "learning_rate": ("optimizer.lr", 1e-4, 1e-1),
    "momentum": ("optimizer.momentum", 0.9, 0.99),
    "beta1": ("optimizer.betas", [0.9, 0.999], [0.95, 0.999]),
    "beta2": ("optimizer.betas", [0.9, 0.99], [0.9, 0.999]),
    "weight_decay": ("regularization.weight_decay", 1e-6, 1e-2),
    "weight_decay_dense": ("regularization.weight_decay", 1e-5, 1e-3),
    "dropout": ("regularization.dropout", 0.1, 0.7),
    "dropout_dense": ("regularization.dropout", 0.1, 0.5),
    "plateau_factor": ("scheduler.factor", 0.1, 0.5),
}
"""The textbook's table, Common Hyperparameter Ranges and Regularization Strategy: key, smallest and largest value."""


@pytest.mark.req("H1")
@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_range_reaches_from_end_to_end(name: str) -> None:
    key, smallest, largest = DOCUMENTED[name]
    with isolated_hydra():
        _, master = master_config(name)
        found = values(master)
    assert list(found) == [key]
    points = [
        yaml.safe_load(override.replace("e-", ".0e-") if "." not in override else override) for override in found[key]
    ]
    assert points[0] == smallest and points[-1] == largest and points == sorted(points)


def test_the_rest_of_the_documented_ranges_are_there() -> None:
    names = set(sweeps())
    models = {"mlp", "cnn", "resnet", "rnn", "lstm", "gru", "transformer"}
    assert {"batch_size", *(f"architecture_{model}" for model in models)} <= names
    schedules = {path.stem for path in (SWEEPS.parent / "conf" / "scheduler").glob("*.yaml")} - {"none"}
    assert {f"scheduler_{schedule}" for schedule in schedules} <= names


@pytest.mark.req("H1")
@pytest.mark.parametrize("name", sweeps())
def test_every_point_can_run_and_wandb_gets_the_same(name: str) -> None:
    with isolated_hydra():
        loader, master = master_config(name)
        composer = JobComposer(loader, master, "test")
        axes = [[f"{key}={value}" for value in overrides] for key, overrides in values(master).items()]
        ours = [config_hash(composer.config([f"+sweeps={name}", *p]).plain()) for p in itertools.product(*axes)]
        assert len(set(ours)) == len(ours) >= 3

        sweep = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
        assert sweep["command"] == COMMAND
        given = [entry.get("values", [entry.get("value")]) for entry in sweep["parameters"].values()]
        overrides = [[f"{key}={value}" for value in v] for key, v in zip(sweep["parameters"], given, strict=True)]
        theirs = [config_hash(composer.config(point).plain()) for point in itertools.product(*overrides)]
    assert theirs == ours


def test_the_files_for_wandb_are_as_written() -> None:
    assert {path.name: path.read_text() for path in FOLDER.glob("*.yaml")} == dict(files())
