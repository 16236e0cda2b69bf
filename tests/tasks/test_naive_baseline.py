import math

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import accuracy_score, f1_score, log_loss, mean_absolute_error, mean_squared_error, r2_score

from src.core.batches import LabelledBatch, LanguageBatch, TranslationBatch
from src.core.data_spec import DataSpec
from src.tasks.naive_baseline import trivial_scores

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("task", ["classification", "binary_classification"])
def test_classes_score_as_scikit_learn_s_dummy(task):
    size = 3 if task == "classification" else 2
    train, test = (RNG.choice(size, n, p=[0.2, 0.8, 0.0][:size] if size == 2 else [0.2, 0.5, 0.3]) for n in (4000, 300))
    dtype = torch.int64 if size == 3 else torch.float32
    spec = DataSpec(task, "vector", (1,), (3,) if size == 3 else ())
    batches = [LabelledBatch(torch.zeros(len(y), 1), torch.tensor(y, dtype=dtype)) for y in (train, test)]
    found = trivial_scores(spec, *batches)
    dummy = DummyClassifier(strategy="prior").fit(np.zeros((len(train), 1)), train)
    x = np.zeros((len(test), 1))
    said = dummy.predict(x)
    assert found["test/accuracy"] == pytest.approx(accuracy_score(test, said))
    assert found["test/f1"] == pytest.approx(f1_score(test, said, average="macro" if size == 3 else "binary"))
    assert found["test/loss"] == pytest.approx(log_loss(test, dummy.predict_proba(x)), rel=1e-3)
    if size == 2:
        assert found["test/auroc"] == 0.5


def test_numbers_score_as_scikit_learn_s_dummy():
    train, test = RNG.normal(2, 3, (500, 2)), RNG.normal(2.5, 3, (80, 2))
    batches = [LabelledBatch(torch.zeros(len(y), 1), torch.tensor(y, dtype=torch.float32)) for y in (train, test)]
    found = trivial_scores(DataSpec("regression", "vector", (1,), (2,)), *batches)
    said = DummyRegressor().fit(np.zeros((500, 1)), train).predict(np.zeros((80, 1)))
    mse = mean_squared_error(test, said)
    assert found["test/mse"] == pytest.approx(mse, rel=1e-5)
    assert found["test/loss"] == pytest.approx(mse, rel=1e-5)
    assert found["test/rmse"] == pytest.approx(math.sqrt(mse), rel=1e-5)
    assert found["test/mae"] == pytest.approx(mean_absolute_error(test, said), rel=1e-5)
    assert found["test/r2"] == pytest.approx(r2_score(test.ravel(), said.ravel()), abs=1e-5)


def test_characters_score_as_their_frequencies():
    train = torch.tensor([[9, 1, 1, 2], [9, 1, 1, 0]])  # the first of a window is never asked for
    test = torch.tensor([[9, 1, 2, 3]])
    found = trivial_scores(
        DataSpec("language_modelling", "tokens", (3,), (5,)), LanguageBatch(train), LanguageBatch(test)
    )
    shares = {0: 2 / 11, 1: 5 / 11, 2: 2 / 11, 3: 1 / 11}  # counted from one
    loss = -sum(math.log(shares[token]) for token in (1, 2, 3)) / 3
    assert found["test/loss"] == pytest.approx(loss)
    assert found["test/perplexity"] == pytest.approx(math.exp(loss))
    assert found["test/accuracy"] == pytest.approx(1 / 3)


def test_translation_answers_each_position_with_its_most_frequent_token():
    train = TranslationBatch(torch.zeros(3, 1), torch.tensor([[1, 5, 6, 2], [1, 5, 7, 2], [1, 4, 7, 2]]))
    test = TranslationBatch(torch.zeros(3, 1), torch.tensor([[1, 5, 7, 2], [1, 4, 7, 2], [1, 5, 2, 0]]))
    spec = DataSpec("translation", "tokens", (1,), (8,), padding_id=0)
    found = trivial_scores(spec, train, test)  # the answer is 5 7 2
    assert found["test/exact_match"] == pytest.approx(1 / 3)
    assert found["test/token_accuracy"] == pytest.approx((3 + 2 + 1) / 8)
