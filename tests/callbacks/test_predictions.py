"""Prediction file of a run: confusion matrix, numbers and examples of the test split."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from src.callbacks.predictions import Predictions, confusion
from src.core.errors import UserError
from src.run_store.predictions import load_predictions
from src.run_store.run_folder import RunFolder
from src.training.inference import load
from src.training.run import run

WHOLE = ["trainer.limit_test_batches=null"]


def run_and_read_predictions(overrides: list[str]) -> tuple[Any, dict[str, Any]]:
    result = run(overrides, verbose=False)
    contents = load_predictions(result.folder)
    assert contents is not None
    return result, contents


@pytest.mark.parametrize("choice", ["datamodule=digits", "datamodule=breast_cancer"])
def test_the_confusion_matrix_is_of_the_tested_outputs(choice: str, fast: Callable[..., list[str]]) -> None:
    result, contents = run_and_read_predictions(fast(choice, *WHOLE))
    loaded = load(result.folder)
    loaded.datamodule.setup()
    x, y = loaded.datamodule.split("test")
    predicted = loaded.model.task.predictions(loaded.model(x).detach())
    targets = [contents["classes"][int(label)] for label in y]
    expected = confusion_matrix(
        targets, [prediction["prediction"] for prediction in predicted], labels=contents["classes"]
    )
    assert np.array_equal(contents["confusion"], expected) and expected.sum() == len(y)
    assert np.trace(expected) / len(y) == pytest.approx(result.metrics["test/accuracy"])
    for index, example in enumerate(contents["examples"]):
        assert example["target"] == targets[index] and example["prediction"] == predicted[index]["prediction"]
        assert example["probability"] == pytest.approx(
            predicted[index]["probabilities"][example["prediction"]], abs=1e-5
        )
    assert len(contents["examples"]) == 16


def test_numbers_are_in_the_units_of_the_data(fast: Callable[..., list[str]]) -> None:
    from sklearn.datasets import load_diabetes

    _, contents = run_and_read_predictions(fast("datamodule=diabetes", "model=mlp"))
    assert contents["confusion"] is None and contents["classes"] == []
    values = {round(float(value), 3) for value in load_diabetes().target}
    assert {round(example["target"], 3) for example in contents["examples"]} <= values


def test_sequences_are_decoded_to_text(fast: Callable[..., list[str]]) -> None:
    _, contents = run_and_read_predictions(fast("datamodule=dates", "callbacks.predictions.examples=3"))
    assert len(contents["examples"]) == 3
    for example in contents["examples"]:
        year, month, day = example["target"].split("-")
        assert len(year) == 4 and 1 <= int(month) <= 12 and 1 <= int(day) <= 31
        assert example["input"] and isinstance(example["prediction"], str)


def test_ignored_positions_are_not_counted() -> None:
    outputs = torch.eye(3)[torch.tensor([[0, 1, 2], [2, 2, 0]])]
    targets = torch.tensor([[0, 2, -100], [2, -100, 0]])
    counts = confusion("tagging", outputs, targets, 3)
    assert counts.tolist() == [[2, 0, 0], [0, 0, 0], [0, 1, 1]]


def test_the_callback_can_be_disabled(fast: Callable[..., list[str]], tmp_path: Path) -> None:
    result = run(fast("callbacks.predictions=null"), verbose=False)
    assert load_predictions(result.folder) is None
    with pytest.raises(UserError, match="must be 0 or more"):
        Predictions(RunFolder.open(result.folder), -1)


MACKEY_GLASS = ["datamodule=mackey_glass", "model=mlp", "datamodule.length=1500"]
SMALL_BATCHES = [*MACKEY_GLASS, "datamodule.length=2000", "datamodule.horizon=20", "datamodule.batch_size=4"]


@pytest.mark.parametrize("overrides", [["datamodule=diabetes"], MACKEY_GLASS, SMALL_BATCHES])
def test_numbers_are_sampled_through_the_whole_split(overrides: list[str], fast: Callable[..., list[str]]) -> None:
    result, contents = run_and_read_predictions(fast(*overrides, *WHOLE))
    true, predicted = np.array(contents["true"]), np.array(contents["predicted"])
    assert true.shape == predicted.shape and 20 < true.size <= 500
    loaded = load(result.folder)
    batch = loaded.datamodule.split("test")
    stride = -(-len(batch[0]) // (500 // loaded.model.spec.output_size))
    outputs = loaded.model(*batch.inputs)[::stride].detach()
    error = (outputs - batch.targets[::stride]).flatten(1).double().numpy()  # in standardised units
    scale = np.polyfit(error.ravel(), (predicted - true).ravel(), 1)[0]
    assert np.allclose(scale * error, predicted - true, atol=2e-3 * abs(scale)), "one scale, and no offset"
    assert np.allclose(true[: len(contents["examples"])].ravel()[:1], np.ravel(contents["examples"][0]["target"])[:1])
