"""What a run answers on its test split."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from src.callbacks.predictions import Answers, confusion
from src.core.errors import UserError
from src.run_store.predictions import read_answers
from src.run_store.run_folder import RunFolder
from src.training.inference import load
from src.training.run import run

WHOLE = ["trainer.limit_test_batches=null"]


def answered(words: list[str]) -> tuple[Any, dict[str, Any]]:
    result = run(words, verbose=False)
    answers = read_answers(result.folder)
    assert answers is not None
    return result, answers


@pytest.mark.parametrize("choice", ["datamodule=digits", "datamodule=breast_cancer"])
def test_the_confusion_is_that_of_the_measured_outputs(choice: str, fast: Callable[..., list[str]]) -> None:
    result, answers = answered(fast(choice, *WHOLE))
    loaded = load(result.folder)
    loaded.datamodule.setup()
    x, y = loaded.datamodule.split("test")
    predicted = loaded.model.task.answers(loaded.model(x).detach())
    truth = [answers["classes"][int(label)] for label in y]
    expected = confusion_matrix(truth, [answer["prediction"] for answer in predicted], labels=answers["classes"])
    assert np.array_equal(answers["confusion"], expected) and expected.sum() == len(y)
    assert np.trace(expected) / len(y) == pytest.approx(result.metrics["test/accuracy"])
    for number, example in enumerate(answers["examples"]):
        assert example["truth"] == truth[number] and example["prediction"] == predicted[number]["prediction"]
        assert example["probability"] == pytest.approx(
            predicted[number]["probabilities"][example["prediction"]], abs=1e-5
        )
    assert len(answers["examples"]) == 16


def test_numbers_are_in_their_own_units(fast: Callable[..., list[str]]) -> None:
    from sklearn.datasets import load_diabetes

    _, answers = answered(fast("datamodule=diabetes", "model=mlp"))
    assert answers["confusion"] is None and answers["classes"] == []
    values = {round(float(value), 3) for value in load_diabetes().target}
    assert {round(example["truth"], 3) for example in answers["examples"]} <= values


def test_sequences_are_in_their_own_words(fast: Callable[..., list[str]]) -> None:
    _, answers = answered(fast("datamodule=dates", "callbacks.answers.examples=3"))
    assert len(answers["examples"]) == 3
    for example in answers["examples"]:
        year, month, day = example["truth"].split("-")
        assert len(year) == 4 and 1 <= int(month) <= 12 and 1 <= int(day) <= 31
        assert example["input"] and isinstance(example["prediction"], str)


def test_steps_that_ask_for_nothing_do_not_count() -> None:
    outputs = torch.eye(3)[torch.tensor([[0, 1, 2], [2, 2, 0]])]
    targets = torch.tensor([[0, 2, -100], [2, -100, 0]])
    counts = confusion("tagging", outputs, targets, 3)
    assert counts.tolist() == [[2, 0, 0], [0, 0, 0], [0, 1, 1]]


def test_it_can_be_left_out(fast: Callable[..., list[str]], tmp_path: Path) -> None:
    result = run(fast("callbacks.answers=null"), verbose=False)
    assert read_answers(result.folder) is None
    with pytest.raises(UserError, match="must be 0 or more"):
        Answers(RunFolder.open(result.folder), -1)


MACKEY_GLASS = ["datamodule=mackey_glass", "model=mlp", "datamodule.length=1500"]
FEW_OF_A_BATCH = [*MACKEY_GLASS, "datamodule.length=2000", "datamodule.horizon=20", "datamodule.batch_size=4"]


@pytest.mark.parametrize("words", [["datamodule=diabetes"], MACKEY_GLASS, FEW_OF_A_BATCH])
def test_true_and_predicted_numbers_go_through_the_whole_split(
    words: list[str], fast: Callable[..., list[str]]
) -> None:
    result, answers = answered(fast(*words, *WHOLE))
    true, predicted = np.array(answers["true"]), np.array(answers["predicted"])
    assert true.shape == predicted.shape and 20 < true.size <= 500
    loaded = load(result.folder)
    batch = loaded.datamodule.split("test")
    stride = -(-len(batch[0]) // (500 // loaded.model.spec.output_size))
    outputs = loaded.model(*batch.inputs)[::stride].detach()
    error = (outputs - batch.targets[::stride]).flatten(1).double().numpy()  # in standardised units
    scale = np.polyfit(error.ravel(), (predicted - true).ravel(), 1)[0]
    assert np.allclose(scale * error, predicted - true, atol=2e-3 * abs(scale)), "one scale, and no offset"
    assert np.allclose(true[: len(answers["examples"])].ravel()[:1], np.ravel(answers["examples"][0]["truth"])[:1])
