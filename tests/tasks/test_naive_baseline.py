"""The naive baseline against scikit-learn and manual computations."""

import math

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import accuracy_score, f1_score, log_loss, mean_absolute_error, mean_squared_error, r2_score

from src.core.batches import LabelledBatch, LanguageBatch, TranslationBatch
from src.core.data_spec import DataSpec
from src.tasks.naive_baseline import score_naive_baseline

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("task", ["classification", "binary_classification"])
def test_class_baseline_equals_scikit_learn(task):
    size = 3 if task == "classification" else 2
    train, test = (RNG.choice(size, n, p=[0.2, 0.8, 0.0][:size] if size == 2 else [0.2, 0.5, 0.3]) for n in (4000, 300))
    dtype = torch.int64 if size == 3 else torch.float32
    spec = DataSpec(task, "vector", (1,), (3,) if size == 3 else ())
    batches = [LabelledBatch(torch.zeros(len(y), 1), torch.tensor(y, dtype=dtype)) for y in (train, test)]
    metrics = score_naive_baseline(spec, *batches)
    dummy = DummyClassifier(strategy="prior").fit(np.zeros((len(train), 1)), train)
    x = np.zeros((len(test), 1))
    predictions = dummy.predict(x)
    assert metrics["test/accuracy"] == pytest.approx(accuracy_score(test, predictions))
    assert metrics["test/f1"] == pytest.approx(f1_score(test, predictions, average="macro" if size == 3 else "binary"))
    assert metrics["test/loss"] == pytest.approx(log_loss(test, dummy.predict_proba(x)), rel=1e-3)
    if size == 2:
        assert metrics["test/auroc"] == 0.5


def test_number_baseline_equals_scikit_learn():
    train, test = RNG.normal(2, 3, (500, 2)), RNG.normal(2.5, 3, (80, 2))
    batches = [LabelledBatch(torch.zeros(len(y), 1), torch.tensor(y, dtype=torch.float32)) for y in (train, test)]
    metrics = score_naive_baseline(DataSpec("regression", "vector", (1,), (2,)), *batches)
    predictions = DummyRegressor().fit(np.zeros((500, 1)), train).predict(np.zeros((80, 1)))
    mse = mean_squared_error(test, predictions)
    assert metrics["test/mse"] == pytest.approx(mse, rel=1e-5)
    assert metrics["test/loss"] == pytest.approx(mse, rel=1e-5)
    assert metrics["test/rmse"] == pytest.approx(math.sqrt(mse), rel=1e-5)
    assert metrics["test/mae"] == pytest.approx(mean_absolute_error(test, predictions), rel=1e-5)
    assert metrics["test/r2"] == pytest.approx(r2_score(test.ravel(), predictions.ravel()), abs=1e-5)


def test_text_baseline_uses_token_frequencies():
    train = torch.tensor([[9, 1, 1, 2], [9, 1, 1, 0]])  # the first token of a window is no target
    test = torch.tensor([[9, 1, 2, 3]])
    metrics = score_naive_baseline(
        DataSpec("language_modelling", "tokens", (3,), (5,)), LanguageBatch(train), LanguageBatch(test)
    )
    frequencies = {0: 2 / 11, 1: 5 / 11, 2: 2 / 11, 3: 1 / 11}  # counts start at one
    loss = -sum(math.log(frequencies[token]) for token in (1, 2, 3)) / 3
    assert metrics["test/loss"] == pytest.approx(loss)
    assert metrics["test/perplexity"] == pytest.approx(math.exp(loss))
    assert metrics["test/accuracy"] == pytest.approx(1 / 3)


def test_translation_baseline_predicts_the_most_frequent_token_of_each_position():
    train = TranslationBatch(torch.zeros(3, 1), torch.tensor([[1, 5, 6, 2], [1, 5, 7, 2], [1, 4, 7, 2]]))
    test = TranslationBatch(torch.zeros(3, 1), torch.tensor([[1, 5, 7, 2], [1, 4, 7, 2], [1, 5, 2, 0]]))
    spec = DataSpec("translation", "tokens", (1,), (8,), padding_id=0)
    metrics = score_naive_baseline(spec, train, test)  # the prediction is 5 7 2
    assert metrics["test/exact_match"] == pytest.approx(1 / 3)
    assert metrics["test/token_accuracy"] == pytest.approx((3 + 2 + 1) / 8)
