from operator import itemgetter

import numpy as np
import pytest
import torch

from src.core.errors import UserError
from src.datamodules.splits.cross_validation import Fold
from src.datamodules.splits.holdout import draw_missing_splits, split_indices
from src.datamodules.standardizer import Standardizer


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fractions", [(0.15, 0.15), (0.1, 0.3), (0.4, 0.5)])
@pytest.mark.parametrize("stratified", [True, False])
def test_splits_are_disjoint_complete_and_of_the_requested_size(seed, fractions, stratified):
    classes = np.random.default_rng(0).choice(3, size=211, p=[0.6, 0.3, 0.1])
    parts = split_indices(211, *fractions, seed, classes if stratified else None)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(211))
    for name, fraction in zip(("val", "test"), fractions, strict=True):
        if stratified:
            for c in range(3):  # every class in its proportion, to within rounding
                assert abs((classes[parts[name]] == c).sum() - fraction * (classes == c).sum()) <= 0.5
        else:
            assert abs(len(parts[name]) - fraction * 211) <= 0.5


@pytest.mark.parametrize("fold_groups", [None, itemgetter(0)])
@pytest.mark.parametrize("fold", [None, Fold(1, 2), Fold(1, 2, group="name")])
def test_one_long_name_does_not_fill_the_memory(fold, fold_groups):
    names = ["z" * 10**7, *("pqrs"[number % 4] for number in range(10_000))]  # 400 GB as an array of strings
    parts = draw_missing_splits({"train": [(name,) for name in names]}, 0.2, 0.2, 0, itemgetter(0), fold, fold_groups)
    assert sum(map(len, parts.values())) == len(names)


def test_the_seed_draws_the_split():
    first, again, other = (split_indices(100, 0.2, 0.2, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["test"], other["test"])
    assert not np.array_equal(first["test"], np.arange(80, 100))


@pytest.mark.parametrize(("fractions", "name"), [((0.01, 0.2), "val"), ((0.2, 0.01), "test"), ((0.5, 0.5), "train")])
def test_an_empty_part_is_refused(fractions, name):
    with pytest.raises(UserError, match=f"none is left for {name}"):
        split_indices(10, *fractions, seed=0)


def test_standardizer_has_the_mean_and_deviation_of_what_it_was_fitted_on():
    x = np.random.default_rng(0).normal([3, -500, 0], [2, 1e-3, 40], size=(200, 3))
    scale = Standardizer.fit(torch.tensor(x))
    other = np.random.default_rng(1).normal(size=(5, 3))
    expected = (other - x.mean(0)) / x.std(0)
    assert np.allclose(scale.apply(torch.tensor(other)), expected, rtol=1e-6)
    assert np.isclose(scale.undo(1, expected[2, 1]), other[2, 1], rtol=1e-9)
    assert scale.apply(torch.tensor(x)).dtype == torch.float32


def test_standardizer_leaves_a_constant_column_finite():
    scale = Standardizer.fit(torch.tensor([[7.0, 1.0], [7.0, 3.0]]))
    assert scale.apply(torch.tensor([[7.0, 2.0], [8.0, 3.0]])).tolist() == [[0.0, 0.0], [1.0, 1.0]]


def test_standardizer_comes_back_exactly_from_plain_lists():
    scale = Standardizer.fit(torch.tensor([[0.1, 1 / 3], [2.7, -5.1]], dtype=torch.float64))
    assert Standardizer.from_plain(scale.to_plain()) == scale
    assert all(isinstance(v, float) for row in scale.to_plain().values() for v in row)


def test_splits_that_are_not_given_are_drawn_out_of_training():
    examples = [f"{group}{i}" for group in "ab" for i in range(10)]
    one = draw_missing_splits({"train": examples, "test": ["x"]}, 0.3, 0.5, seed=0, stratum=lambda example: example[0])
    assert one["test"] == ["x"] and sorted(one["train"] + one["val"]) == sorted(examples)
    assert [example[0] for example in one["val"]] == ["a"] * 3 + ["b"] * 3
    all_given = {"train": examples, "val": ["y"], "test": ["x"]}
    assert draw_missing_splits(all_given, 0.3, 0.5, seed=0, stratum=str) == all_given
