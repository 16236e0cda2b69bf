"""What holds for every shipped datamodule, with the values of its option file."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from pydantic import ValidationError

from src.config.locate import locate
from src.config.schema.datamodule import DataOption
from src.config.schema.registry import SCHEMAS
from src.core.batches import Batch
from src.core.data_spec import SPLITS, DataSpec
from src.datamodules.base import DataModule
from src.datamodules.splits.cross_validation import Fold
from src.tasks.registry import TASKS
from src.tasks.tagging import IGNORE_INDEX

CONF = Path(__file__).parents[2] / "conf" / "datamodule"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml") if "_target_" in path.read_text())  # others: a key changed
WITH_A_VOCABULARY = ("dates", "parallel_text", "text", "text_classification", "tiny_shakespeare")
REPEATING = ("text", "tiny_shakespeare", "ett")  # lines may occur twice; a window may begin in the split before
NOTHING_FITTED = ("adding", "copy")
FEWER = {"adding": 400, "copy": 400, "dates": 400, "shapes": 200}
"""Smaller numbers of generated training examples."""
OF_THEIR_OWN = ("multi30k", "table")  # what they fit is neither a scale nor a list of characters or words


Files = Callable[[str], list[str]]


def option(name: str, files: Files, **changes) -> DataOption:
    raw = OmegaConf.load(CONF / f"{name}.yaml")
    raw["seed"] = 0
    for word in files(name):
        group, _, rest = word.partition(".")
        if group == "datamodule":
            key, _, value = rest.partition("=")
            raw[key] = yaml.safe_load(value)
    if name in FEWER:  # the rest is as shipped
        raw["train_size"], raw["val_size"], raw["test_size"] = FEWER[name], 50, 50
    plain = {**OmegaConf.to_container(raw), **changes}
    return SCHEMAS["datamodule"][plain["_target_"]].model_validate(plain)


def make(name: str, files: Files, fold: Fold | None = None, **changes) -> DataModule:
    chosen = option(name, files, **changes)
    folders = [Path(word.partition("=")[2]) for word in files(name) if word.startswith("paths.data=")]
    data_dir = folders[0] if folders else Path("data")
    return locate(chosen.target, DataModule)(**chosen.arguments(), data_dir=data_dir, fold=fold)


@pytest.fixture(scope="module")
def data(users_files):
    """Each datamodule, set up once."""
    made = {name: make(name, users_files) for name in NAMES}
    for datamodule in made.values():
        datamodule.setup()
    return made


def equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_every_schema_has_its_option_file():
    assert {OmegaConf.load(CONF / f"{name}.yaml")["_target_"] for name in NAMES} == set(SCHEMAS["datamodule"])


@pytest.mark.parametrize("name", NAMES)
def test_class_schema_and_spec_agree(name, data, users_files):
    schema, datamodule = option(name, users_files), data[name]
    assert schema.task == datamodule.task == datamodule.spec.task in TASKS
    assert schema.inputs == datamodule.inputs == datamodule.spec.inputs
    assert (CONF / f"{name}.yaml").read_text().startswith("# ")
    assert DataSpec.from_plain(datamodule.spec.to_plain()) == datamodule.spec


@pytest.mark.parametrize("name", NAMES)
def test_tensors_match_the_spec(name, data):
    datamodule = data[name]
    spec = datamodule.spec
    for split in SPLITS:
        batch = datamodule.split(split)
        assert len({len(tensor) for tensor in batch}) == 1 and len(batch[0]) > 0
        for tensor in batch:
            assert tensor.dtype in (torch.float32, torch.int64)
            assert tensor.is_contiguous() and torch.isfinite(tensor).all()
        x = batch.inputs[0]
        if spec.task != "translation":
            assert tuple(x.shape[1:]) == spec.input_shape
        if spec.inputs == "tokens":
            assert x.shape[1] <= spec.input_shape[0]
            assert x.min() >= 0 and x.max() < spec.vocabulary_size
            asked = batch.targets[batch.targets != IGNORE_INDEX]
            assert asked.min() >= 0 and asked.max() < spec.output_size
        elif spec.task == "classification":
            assert set(batch.targets.tolist()) == set(range(len(spec.class_names)))
        elif spec.task == "binary_classification":
            assert set(batch.targets.tolist()) == {0.0, 1.0} and len(spec.class_names) == 2
        else:
            assert tuple(batch.targets.shape[1:]) == spec.output_shape


@pytest.mark.parametrize("name", [n for n in NAMES if n not in REPEATING])
def test_no_example_is_in_two_splits(name, data):
    rows = {split: {row.numpy().tobytes() for row in data[name].split(split).inputs[0]} for split in SPLITS}
    assert not rows["train"] & rows["val"] and not rows["train"] & rows["test"] and not rows["val"] & rows["test"]


@pytest.mark.parametrize("name", NAMES)
def test_the_run_s_seed_changes_the_order_and_not_the_split(name, data, users_files):
    other = make(name, users_files, seed=1)
    assert all(equal(other.split(split), data[name].split(split)) for split in SPLITS)
    first, second = (next(iter(datamodule.train_dataloader())) for datamodule in (other, data[name]))
    assert not all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_training_is_shuffled_unless_it_is_switched_off(name, users_files):
    still = make(name, users_files, shuffle=False, batch_size=8)
    last = next(iter(still.train_dataloader()))[-1]
    assert torch.equal(last, still.split("train")[-1][:8][..., : last.shape[-1]])  # but for padding that was cut


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_carries_the_preparation(name, data, users_files):
    original = data[name]
    file = io.BytesIO()
    torch.save(original.state_dict(), file)
    file.seek(0)
    fresh = make(name, users_files)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    inputs = original.example_inputs(1)
    assert equal(fresh.encode(inputs), original.encode(inputs))
    assert fresh.spec == original.spec
    assert fresh._splits is None, "encode and spec need no data"
    assert fresh.state_dict() == original.state_dict()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in (*WITH_A_VOCABULARY, *OF_THEIR_OWN, *NOTHING_FITTED)])
def test_a_loaded_preparation_is_used_in_place_of_a_fitted_one(name, data, users_files):
    state = data[name].state_dict()
    state["scale"] = {"mean": state["scale"]["mean"], "deviation": [2 * d for d in state["scale"]["deviation"]]}
    before, late = make(name, users_files), make(name, users_files)
    before.load_state_dict(state)
    late.setup()
    late.load_state_dict(state)  # as Lightning does when a run is resumed
    for other in (before, late):
        torch.testing.assert_close(other.split("test").inputs[0], data[name].split("test").inputs[0] / 2)


def shift(state: dict) -> None:
    """Put something before the first character or word of a vocabulary: every id is one more."""
    for part in (state, *(value for value in state.values() if isinstance(value, dict))):
        if "characters" in part:
            part["characters"] = "\u0000" + part["characters"]
        if "words" in part:
            part["words"] = ["\u0000", *part["words"]]


@pytest.mark.parametrize("name", WITH_A_VOCABULARY)
def test_a_loaded_vocabulary_is_used_in_place_of_a_fitted_one(name, data, users_files):
    state = data[name].state_dict()
    shift(state)
    other = make(name, users_files)
    other.load_state_dict(state)
    tokens, shifted = data[name].split("test").inputs[0], other.split("test").inputs[0]
    assert torch.equal(shifted, torch.where(tokens >= 4, tokens + 1, tokens))


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("text", "tiny_shakespeare")])
def test_example_inputs_encode_to_the_test_split(name, data):
    inputs = data[name].example_inputs(2)
    encoded, test = data[name].encode(inputs).inputs[0], data[name].split("test").inputs[0][:2]
    assert len(inputs) == len(encoded) == 2
    test = test[:, : encoded.shape[1]] if data[name].inputs == "tokens" else test
    torch.testing.assert_close(encoded, test, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_an_encoded_batch_has_targets_of_zeros(name, data):
    datamodule = data[name]
    assert not datamodule.encode(datamodule.example_inputs(1))[-1][..., -1:].any()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_printed(name, users_files, capfd):
    datamodule = make(name, users_files)
    datamodule.setup()
    datamodule.baseline()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", NAMES)
def test_naive_baseline_has_metrics_of_the_task(name, data):
    facts = TASKS[data[name].task]
    found = data[name].baseline()
    assert found and {key.removeprefix("test/") for key in found} <= set(facts.metrics | facts.test_metrics)


@pytest.mark.parametrize("name", [n for n in NAMES if "test_fraction" in OmegaConf.load(CONF / f"{n}.yaml")])
def test_fractions_that_leave_nothing_for_training_are_refused(name, users_files):
    with pytest.raises(ValidationError, match=r"val_fraction=0\.5 nothing is left for training"):
        option(name, users_files, val_fraction=0.5, test_fraction=0.5)
