"""answers.json is what the tested weights answer."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from src.experiment import RunResult, load, run

SHORT = ["trainer.max_epochs=2", "logger=none", "callbacks=quiet"]


def trained(tmp_path: Path, *words: str) -> tuple[RunResult, dict]:
    result = run([*SHORT, *words, f"paths.outputs={tmp_path}"], verbose=False)
    return result, json.loads((result.folder / "answers.json").read_text())


@pytest.mark.parametrize("data", ["wine", "breast_cancer", "digits"])
def test_a_confusion_matrix_is_that_of_scikit_learn(tmp_path: Path, data: str) -> None:
    result, found = trained(tmp_path, f"datamodule={data}")
    loaded = load(result.folder)
    x, y = loaded.datamodule.split("test")
    outputs = loaded.model(x)
    predicted = outputs.argmax(1) if outputs.ndim == 2 else (outputs > 0)
    assert found["confusion"] == confusion_matrix(y.long(), predicted).tolist()
    assert found["classes"] == list(loaded.model.spec.class_names or map(str, range(len(found["confusion"]))))
    right = np.trace(np.array(found["confusion"])) / len(y)
    assert right == pytest.approx(result.metrics["test/accuracy"])


def test_a_padded_step_is_no_answer(tmp_path: Path) -> None:
    sizes = ["datamodule.lag=2", "datamodule.train_size=64", "datamodule.val_size=16", "datamodule.test_size=16"]
    result, found = trained(tmp_path, "model=rnn", "datamodule=copy", *sizes)
    asked = (load(result.folder).datamodule.split("test").targets != -100).sum()
    assert np.sum(found["confusion"]) == asked


MACKEY_GLASS = ["datamodule=mackey_glass", "datamodule.length=600"]
FEW_OF_A_BATCH = [
    "datamodule=mackey_glass",
    "datamodule.length=2000",
    "datamodule.horizon=20",
    "datamodule.batch_size=4",
]


@pytest.mark.parametrize("words", [["datamodule=diabetes"], MACKEY_GLASS, FEW_OF_A_BATCH])
def test_predictions_are_in_the_units_of_the_data(tmp_path: Path, words: list[str]) -> None:
    result, found = trained(tmp_path, *words)
    truth, predicted = np.array(found["truth"]), np.array(found["predicted"])
    assert truth.shape == predicted.shape and 20 < truth.size <= 500
    loaded = load(result.folder)
    batch = loaded.datamodule.split("test")
    stride = -(-len(batch[0]) * loaded.model.spec.output_size // 500)
    outputs = loaded.model(*batch.inputs)[::stride].detach()
    error = (outputs - batch.targets[::stride]).flatten(1).double().numpy()  # in standardised units
    scale = np.polyfit(error.ravel(), (predicted - truth).ravel(), 1)
    assert np.allclose(scale[0] * error, predicted - truth, atol=2e-3 * abs(scale[0])), "one scale, no offset"
    if "diabetes" in words[0]:
        assert set(truth.ravel().round()) <= set(range(25, 347)), "the targets of scikit-learn's table"


def test_a_text_has_no_answers(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 50)
    words = ["model=gru", "datamodule=text", f"datamodule.path={text}", "datamodule.context=16", "model.hidden_size=8"]
    result = run([*SHORT, *words, f"paths.outputs={tmp_path}"], verbose=False)
    assert result.status == "finished" and not (result.folder / "answers.json").exists()
