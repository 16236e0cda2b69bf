"""An invalid part of a checkpoint is reported as a user error, when it is loaded and when it is resumed."""

import copy
import json
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytorch_optimizer
import torch

from src.config.groups import CONF
from src.core.batches import LabelledBatch
from src.core.checkpoint_schema import check_optimizer, list_parameters_without_state
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.datamodules.preparation import load_preparation
from src.training.build import build_data
from src.training.inference import evaluate_split, load, predict_batch
from src.training.resume import prepare_resume
from src.training.run import resume, run
from tests.conftest import SMALL

OVERRIDES = [
    *("model=mlp", "model.hidden_sizes=[8]", "datamodule=digits", "scheduler=cosine", "logger=none"),
    *("trainer.max_epochs=1", "trainer.limit_train_batches=3", "regularization.ema_decay=0.5"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged") / "run"
    run(OVERRIDES, folder=folder, verbose=False)
    return folder


def changed(finished: Path, target: Path, *path: Any, value: Any) -> Path:
    """Return a copy of a run, interrupted, whose checkpoints have another value at a path."""
    shutil.copytree(finished, target)
    checkpoint = copy.deepcopy(torch.load(target / "checkpoints" / "last.ckpt", weights_only=True))
    part = checkpoint
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    for name in ("best", "last"):
        (target / "checkpoints" / f"{name}.ckpt").unlink()
        torch.save(checkpoint, target / "checkpoints" / f"{name}.ckpt")
    record = json.loads((target / "run.json").read_text()) | {"status": "interrupted"}
    (target / "run.json").write_text(json.dumps(record))
    return target


OWN: list[tuple[tuple[Any, ...], Any]] = [
    (("gridlight",), []),
    (("gridlight", "format_version"), 99),
    (("gridlight", "spec"), "x"),
    (("gridlight", "spec", "task"), "x"),
    (("gridlight", "spec", "input_shape"), [2**20, 2**20]),
    (("gridlight", "spec", "output_shape"), [-1]),
    (("gridlight", "spec", "class_names"), [1]),
    (("gridlight", "spec", "more"), 1),
    (("gridlight", "preparation"), {}),
    (("gridlight", "preparation", "scale"), {"mean": ["x"], "deviation": [1.0]}),
    (("gridlight", "preparation", "scale"), {"mean": [1.0], "deviation": [0.0]}),
    (("gridlight", "config", "model", "hidden_sizes"), [99_999_999]),
    (("gridlight", "config", "model", "hidden_sizes"), [100_000, 100_000]),
    (("gridlight", "config", "model", "hidden_sizes"), [1] * 100_000),
    (("gridlight", "config", "model", "hidden_sizes"), [1] * 1_000_000),
    (("state_dict",), {"x": 1}),
    (("pytorch-lightning_version",), 7),
    (("pytorch-lightning_version",), "1.0.0"),
    (("callbacks",), [1]),
    (("loops", "fit_loop", "epoch_progress", "current", "reset"), 5),
]


@pytest.mark.parametrize(("path", "value"), OWN)
def test_loading(finished: Path, tmp_path: Path, path: tuple[Any, ...], value: Any) -> None:
    folder = changed(finished, tmp_path / "run", *path, value=value)
    with pytest.raises(UserError):
        evaluate_split(load(folder), "test")


@pytest.mark.parametrize("of_layer", [{"version": "x"}, 7, {"version": 1, "assign_to_params_buffers": True}])
def test_versions_of_layers(finished: Path, tmp_path: Path, of_layer: Any) -> None:
    state = OrderedDict(torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    state._metadata = {"": of_layer}  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="damaged"):
        load(changed(finished, tmp_path / "run", "state_dict", value=state))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.float8_e5m2])
def test_weights_of_another_type_are_converted(finished: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    state = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    weights = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    loaded = load(changed(finished, tmp_path / "run", "state_dict", value=weights))
    assert loaded.model.dtype == torch.float32
    assert set(evaluate_split(loaded, "test")) == set(evaluate_split(load(finished), "test"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("task", "translation"), ("task", "language_modelling"), ("task", "tagging"), ("class_names", ["a"])],
)
def test_parts_that_do_not_fit_each_other(key: str, value: Any, finished: Path, tmp_path: Path) -> None:
    folder = changed(finished, tmp_path / "run", "gridlight", "spec", key, value=value)
    with pytest.raises(UserError, match="cannot be used with its data"):
        loaded = load(folder)
        batch = LabelledBatch(torch.zeros(2, *loaded.model.spec.input_shape), torch.zeros(2))
        predict_batch(loaded, batch)


STATES: list[tuple[tuple[Any, ...], Any]] = [
    (("loops",), {}),
    (("loops", "fit_loop", "epoch_progress", "current", "ready"), "x"),
    (("epoch",), -1),
    (("random_states", 0, "torch"), torch.zeros(3)),
    (("random_states", 0, "numpy"), {}),
    (("random_states", 0, "python", 1), torch.full((625,), 2**40)),
    (("random_states", 0, "partial_sums"), ["x", 1]),
    (("optimizer_states",), []),
    (("optimizer_states", 0, "state", 0, "exp_avg"), torch.zeros(1)),
    (("optimizer_states", 0, "state", 0, "exp_avg"), None),
    (("optimizer_states", 0, "state", 0), {}),
    (("optimizer_states", 0, "state"), {}),
    (("optimizer_states", 0, "param_groups", 0, "lr"), "x"),
    (("optimizer_states", 0, "param_groups", 0, "betas"), (0.9,)),
    (("optimizer_states", 0, "param_groups", 0, "capturable"), True),
    (("optimizer_states", 0, "param_groups", 0, "differentiable"), True),
    (("optimizer_states", 0, "param_groups", 0, "amsgrad"), True),
    (("callbacks", "EarlyStopping{'monitor': 'val/loss', 'mode': 'min'}", "best_score"), torch.ones(1)),
    (
        ("callbacks", "EarlyStopping{'monitor': 'val/loss', 'mode': 'min'}", "best_score"),
        torch.ones((), dtype=torch.cfloat),
    ),
    (("lr_schedulers", 0, "step"), 5),
    (("lr_schedulers", 0, "last_epoch"), None),
]


@pytest.mark.parametrize(("path", "value"), STATES)
def test_resuming(finished: Path, tmp_path: Path, path: tuple[Any, ...], value: Any) -> None:
    folder = changed(finished, tmp_path / "run", *path, value=value)
    with pytest.raises(UserError, match="damaged"):
        resume(*prepare_resume(str(folder), ["trainer.max_epochs=2"]), verbose=False)


def test_a_missing_state_of_a_parameter_is_refused(finished: Path, tmp_path: Path) -> None:
    optimizer = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]
    del optimizer["state"][1]
    folder = changed(finished, tmp_path / "run", "optimizer_states", 0, value=optimizer)
    with pytest.raises(UserError, match="damaged: the state of an optimizer is missing for 1 of 4 parameters"):
        resume(*prepare_resume(str(folder), ["trainer.max_epochs=2"]), verbose=False)


def test_parameters_without_gradients_have_no_state(finished: Path) -> None:
    unused, used = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([unused, used])
    used.sum().backward()
    optimizer.step()
    checkpoint = {"optimizer_states": [optimizer.state_dict()]}
    list_parameters_without_state(checkpoint)
    check_optimizer(torch.optim.Adam([unused, used]), checkpoint["optimizer_states"][0], steps=1)


@pytest.mark.parametrize("name", ["Lamb", "ScheduleFreeAdamW"])
def test_states_that_are_scalars_and_switches_that_change_in_training_are_accepted(name: str) -> None:
    optimizers = [getattr(pytorch_optimizer, name)([torch.nn.Parameter(torch.ones(3, 2))]) for _ in range(2)]
    for mode in ("train", "step", "eval"):
        optimizers[0].param_groups[0]["params"][0].grad = torch.ones(3, 2)
        getattr(optimizers[0], mode, lambda: None)()
    check_optimizer(optimizers[1], optimizers[0].state_dict(), steps=1)


def test_recorded_paths_of_checkpoints_are_not_written(finished: Path, tmp_path: Path) -> None:
    victim = tmp_path / "thesis.ckpt"
    victim.write_text("precious")
    state = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    key = next(key for key in state if key.startswith("Checkpoints"))
    for name in ("best_model_path", "last_model_path", "kth_best_model_path", "dirpath"):
        state[key][name] = str(victim)
    state[key]["best_k_models"] = {str(victim): torch.tensor(9.0), str(tmp_path / "other"): torch.tensor(8.0)}
    folder = changed(finished, tmp_path / "run", "callbacks", value=state)
    resume(*prepare_resume(str(folder), ["trainer.max_epochs=2"]), verbose=False)
    assert victim.read_text() == "precious"
    assert sorted(file.name for file in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_a_spec_is_read_back_as_it_was_written() -> None:
    spec = DataSpec("tagging", "tokens", (7,), (3,), vocabulary_size=9, padding_id=0, class_names=("a", "b", "c"))
    assert DataSpec.from_plain(spec.to_plain()) == spec


DATAMODULES = sorted(path.stem for path in (CONF / "datamodule").glob("*.yaml"))
OTHER_TYPES: tuple[Any, ...] = ("x", 7, [1], [None], 1e400, {"mean": [torch.zeros(2)], "deviation": [1.0]}, None)


def places(state: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value of a preparation; of a list, of its first entry."""
    if path:
        yield path
    if isinstance(state, dict):
        for key, value in state.items():
            yield from places(value, (*path, key))
    elif isinstance(state, list | tuple) and state:
        yield from places(state[0], (*path, 0))


def with_value(state: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of a preparation with another value at a path."""
    if not path:
        return value
    copied: Any = dict(state) if isinstance(state, dict) else list(state)
    copied[path[0]] = with_value(copied[path[0]], path[1:], value)
    return copied


@pytest.mark.parametrize("name", DATAMODULES)
def test_a_preparation_is_restored_or_refused(name: str, complete: Callable[..., list[str]]) -> None:
    from src.config.compose import compose
    from src.config.validate import check

    overrides = complete(f"datamodule={name}")
    config = check(
        compose([*overrides, *(f"datamodule.{override}" for override in SMALL.get(name, []))]), for_training=False
    )
    datamodule = build_data(config)
    datamodule.setup()
    state = datamodule.state_dict()
    load_preparation(build_data(config), copy.deepcopy(state), "a.ckpt")
    for path in places(state):
        own: Any = state
        for key in path:
            own = own[key]
        for bad in OTHER_TYPES:
            changed = with_value(state, path, bad)
            if type(bad) is type(own) or (isinstance(own, float) and bad == 7):
                with suppress(UserError):  # it may be refused for its value
                    load_preparation(build_data(config), changed, "a.ckpt")
            else:
                with pytest.raises(UserError, match=r"a\.ckpt: .*damaged"):
                    load_preparation(build_data(config), changed, "a.ckpt")
