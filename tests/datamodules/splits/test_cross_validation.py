"""Cross-validation of every datamodule: folds do not overlap, test stays as it is, and nothing is fitted on validation data."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import SPLITS
from src.core.errors import UserError
from src.datamodules.base import DataModule
from src.datamodules.splits.cross_validation import Fold, _warn_once, apply_fold
from src.datamodules.splits.holdout import draw_missing_splits, split_indices
from src.datamodules.tabular.table import Table
from src.datamodules.text.language_modelling import Text
from src.datamodules.timeseries.ett import ETT
from src.datamodules.timeseries.windows import Windows
from src.training.build import build_data
from tests.datamodules.test_base import NAMES, NOTHING_FITTED, WITH_A_VOCABULARY, make

FOLDS = 3
IN_TIME = (Windows, Text, ETT)
SHORT = {
    "ett": {"window": 24, "horizon": 12},
    "text": {"context": 16},
    "tiny_shakespeare": {"context": 16},
    "multi30k": {"tokens": "characters"},  # each of which occurs in training, as the bytes of byte pairs need not
}

Files = Callable[[str], list[str]]

pytestmark = pytest.mark.req("H4")


def folded(name: str, files: Files, number: int, like: DataModule | None = None) -> DataModule:
    """Return a datamodule with one fold; with the preparation of another, so that their examples can be compared."""
    datamodule = make(name, files, Fold(number, FOLDS), **SHORT.get(name, {}))
    if like is not None and (state := like.state_dict()):
        datamodule.load_state_dict(state)
    return datamodule


def rows(batch: Batch) -> Counter[bytes]:
    """Return the examples, without the padding at their ends, which depends on the longest of a split."""
    return Counter(
        b"|".join(np.trim_zeros(tensor[i].flatten().numpy(), "b").tobytes() for tensor in batch)
        for i in range(len(batch[0]))
    )


def series(batch: Batch) -> Tensor:
    """Return the values [N, …] behind windows that move by one."""
    assert isinstance(batch, LabelledBatch)
    return torch.cat((batch.x[:, 0], batch.x[-1, 1:], batch.y[-1]))


@pytest.mark.parametrize("name", NAMES)
def test_folds_partition_the_data_and_do_not_change_test(name: str, users_files: Files) -> None:
    plain = make(name, users_files, **SHORT.get(name, {}))
    plain.setup()
    folds = [folded(name, users_files, number, plain) for number in range(1, FOLDS + 1)]
    for one in folds:
        assert all(torch.equal(a, b) for a, b in zip(one.split("test"), plain.split("test"), strict=True))
    if isinstance(plain, IN_TIME):
        return in_order(plain, folds)
    pool = rows(plain.split("train")) + rows(plain.split("val"))
    for one in folds:
        assert rows(one.split("train")) + rows(one.split("val")) == pool
        if name != "text_classification":  # texts of unknown words look alike
            assert not rows(one.split("train")) & rows(one.split("val"))
    assert sum((rows(one.split("val")) for one in folds), Counter()) == pool, "each example is validated on once"
    return None


def in_order(plain: DataModule, folds: list[DataModule]) -> None:
    """Assert that training begins at the start, and that each validation block is what comes next."""
    if isinstance(plain, Text):  # windows leave out the ends of their parts
        trained = [one.split("train")[0].flatten() for one in folds]
        longest = trained[-1]
        assert all(torch.equal(part, longest[: len(part)]) for part in trained)
        assert [len(part) for part in trained] == sorted({len(part) for part in trained})
        return
    borrowed = plain.window if isinstance(plain, ETT) else 0  # the usual split lends validation its first inputs
    pool = torch.cat((series(plain.split("train")), series(plain.split("val"))[borrowed:]))
    for one in folds:
        both = torch.cat((series(one.split("train")), series(one.split("val"))))
        assert torch.equal(both, pool[: len(both)])
    assert len(both) == len(pool), "the last block ends where test begins"


@pytest.mark.parametrize("name", NAMES)
def test_the_preparation_is_fitted_on_the_training_folds_alone(name: str, users_files: Files) -> None:
    one = folded(name, users_files, 1)
    x = one.split("train").inputs[0]
    if name in NOTHING_FITTED:
        assert one.state_dict() == {}
    elif name in (*WITH_A_VOCABULARY, "multi30k"):
        known = set(range(4, one.spec.vocabulary_size))
        lost = 40 if isinstance(one, Text) else 0  # characters at the end, too few for a window
        assert len(known - set(x.unique().tolist())) <= lost
    elif isinstance(one, Table):
        number = torch.tensor(
            ["=" not in feature and " is missing" not in feature for feature in one.spec.feature_names]
        )
        torch.testing.assert_close(
            x[:, number].double().mean(0), torch.zeros(int(number.sum())).double(), atol=1e-6, rtol=0
        )
        assert x[:, ~number].any(0).all(), "each category, and each column with missing cells, occurs in training"
    else:
        columns = len(one.state_dict()["scale"]["mean"])
        if isinstance(one, (Windows, ETT)):
            x = series(one.split("train"))
        if columns == 1:
            x = x.reshape(-1, 1)
        elif columns != x.shape[-1]:
            x = x.movedim(1, -1)  # the channels of images
        x = x.double().reshape(-1, columns)
        torch.testing.assert_close(x.mean(0), torch.zeros(columns).double(), atol=1e-4, rtol=0)
        varies = x.std(0) > 1e-6
        deviation = x.std(0, correction=0)[varies]
        torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=1e-4, rtol=0)


# ---- cutting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("grouped", [True, False])
def test_every_example_is_validated_on_once(stratified: bool, grouped: bool) -> None:
    dice = np.random.default_rng(0)
    groups = dice.integers(30, size=300) if grouped else None
    classes = dice.choice(3, size=300, p=[0.6, 0.3, 0.1]) if stratified else None
    seen = []
    for number in range(1, 6):
        train, val = Fold(number, 5, seed=7).cut(300, classes, groups)
        assert sorted([*train, *val]) == list(range(300))
        assert groups is None or not set(groups[train]) & set(groups[val])
        if classes is not None and groups is None:
            for c in range(3):
                assert abs((classes[val] == c).sum() - (classes == c).sum() / 5) <= 1
        seen += list(val)
    assert sorted(seen) == list(range(300))


def test_the_seed_draws_the_folds() -> None:
    first, again, other = (Fold(1, 4, seed).cut(80)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_blocks_follow_their_training_data() -> None:
    ends = [Fold(number, 4).blocks(103) for number in range(1, 5)]
    assert ends[-1][1] == 103 and all(begin < end for begin, end in ends)
    assert [begin for begin, _ in ends[1:]] == [end for _, end in ends[:-1]]


def test_too_many_folds_are_refused() -> None:
    with pytest.raises(UserError, match=r"folds=5: only 4 examples"):
        Fold(1, 5).cut(4)
    with pytest.raises(UserError, match=r"folds=3: only 2 values of patient"):
        Fold(1, 3, group="patient").cut(9, groups=["a"] * 5 + ["b"] * 4)
    for groups in (None, np.arange(9)):
        with pytest.raises(UserError, match=r"folds=5: the largest class has only 4 examples"):
            Fold(1, 5).cut(9, [*"aaaabbbcc"], groups)
    with pytest.raises(UserError, match=r"folds=5: 5 examples are too few"):
        Fold(1, 5).blocks(5)


def test_the_test_split_is_that_without_folds() -> None:
    classes = np.arange(200) % 4
    plain = split_indices(200, 0.1, 0.25, 3, classes)
    for number in range(1, 5):
        parts = split_indices(200, 0.1, 0.25, 3, classes, Fold(number, 4))
        assert np.array_equal(parts["test"], plain["test"])
        assert sorted(np.concatenate(list(parts.values()))) == list(range(200))


def test_a_validation_split_of_its_own_joins_the_folds() -> None:
    given = {"train": [f"a{i}" for i in range(6)], "val": [f"b{i}" for i in range(6)], "test": ["c"]}
    parts = draw_missing_splits(given, 0.1, 0.1, 0, stratum=lambda example: example[0], fold=Fold(1, 3))
    assert sorted(parts["train"] + parts["val"]) == sorted(given["train"] + given["val"]) and parts["test"] == ["c"]
    assert Counter(example[0] for example in parts["val"]) == {"a": 2, "b": 2}


def test_folds_of_named_tuples_and_arrays() -> None:
    batch = LabelledBatch(torch.arange(10.0)[:, None], torch.arange(10))
    parts = apply_fold({"train": batch, "val": LabelledBatch(*(t + 10 for t in batch)), "test": batch}, Fold(2, 4))
    assert isinstance(parts["val"], LabelledBatch) and len(parts["val"].y) == 5
    assert torch.equal(parts["val"].x[:, 0], parts["val"].y.float()), "inputs keep their targets"


# ---- groups, and what users write ------------------------------------------------------------------------------------


def test_groups_stay_on_one_side(tmp_path: Path) -> None:
    file = tmp_path / "reviews.csv"
    lines = [f"word{i} author{i % 6} end,{'good' if i % 2 else 'bad'},author{i % 6}" for i in range(60)]
    file.write_text("\n".join(["text,label,author", *lines]))
    from src.config.compose import compose
    from src.config.validate import check

    overrides = [
        "model=lstm",
        "datamodule=text_classification",
        f"datamodule.path={file}",
        "datamodule.min_frequency=1",
    ]
    overrides += ["cross_validation.folds=3", "cross_validation.fold=2"]
    datamodule = build_data(check(compose([*overrides, "cross_validation.group=author"])))
    authors = [{text.split()[1] for text, _ in rows} for rows in datamodule._rows().values()]
    assert sum(map(len, authors)) == 6 == len(set.union(*authors)), "each author is in one split, test among them"
    table = Table(file, "label", fold=Fold(2, 3, group="author"))
    authors = [{row["author"] for _, row in rows} for rows in table.rows().values()]
    assert sum(map(len, authors)) == 6 == len(set.union(*authors))
    (tmp_path / "val.csv").write_text("text,label\nx,good\n")
    table = Table(file, "label", val_path=tmp_path / "val.csv", fold=Fold(2, 3, group="author"))
    with pytest.raises(UserError, match=r"val.csv: the header has no column 'author'"):
        table.rows()
    with pytest.raises(UserError, match=r"Did you mean 'author'"):
        build_data(check(compose([*overrides, "cross_validation.group=autor"]))).setup()


def test_errors_of_a_fold_name_the_fold(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    rows = [f"{i},{'rare' if i % 10 == 7 else 'ab'[i % 2]},{i % 10}\n" for i in range(40)]  # a class of one patient
    file.write_text("".join(["a,label,patient\n", *rows]))
    message = []
    for number in (1, 2, 3):
        table = Table(file, "label", test_path=_test_rows(tmp_path), fold=Fold(number, 3, group="patient"))
        try:
            table.setup()
        except UserError as error:
            message.append(str(error))
    assert len(message) == 1 and re.match(r"cross_validation, fold \d of 3: .* has the class 'rare'", message[0])


def _test_rows(folder: Path) -> Path:
    (folder / "test.csv").write_text("a,label\n1,a\n2,b\n")
    return folder / "test.csv"


def test_singleton_class_is_in_training_of_every_fold(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "table.csv"
    names = ["rare" if i == 7 else "few" if i in (11, 12) else "ab"[i % 2] for i in range(40)]
    file.write_text("a,label\n" + "".join(f"{i},{name}\n" for i, name in enumerate(names)))
    _warn_once.cache_clear()
    trained, validated = [], []
    for number in (1, 2, 3):
        table = Table(file, "label", test_fraction=0.1, fold=Fold(number, 3))
        table.setup()
        parts = {name: [(row["a"], row["label"]) for _, row in rows] for name, rows in table.rows().items()}
        trained.append(parts["train"])
        validated += parts["val"]
    messages = [record.getMessage() for record in caplog.records if "the only one of its class" in record.getMessage()]
    assert messages == [
        "cross_validation: an example that is the only one of its class is training data in every fold: rare"
    ], "once, not thrice"
    assert all(("7", "rare") in rows for rows in trained)
    pool = {*trained[0], *trained[1]}
    assert sorted(validated) == sorted(pool - {("7", "rare")}), "every other row is validated on once, few ones too"
    assert all(any(label == "few" for _, label in rows) for rows in trained)


def test_singleton_class_is_in_training_with_its_group() -> None:
    groups = np.arange(24) // 3
    classes = ["rare" if i == 4 else "ab"[i % 2] for i in range(24)]
    folds = [Fold(number, 3, group="patient").cut(24, classes, groups) for number in (1, 2, 3)]
    assert all({3, 4, 5} <= set(train) and not set(groups[train]) & set(groups[val]) for train, val in folds)
    assert sorted(np.concatenate([val for _, val in folds])) == sorted({*range(24)} - {3, 4, 5})
    with pytest.raises(UserError, match=r"folds=3: only 2 examples can be divided"):
        Fold(1, 3).cut(6, [*"abcd", "e", "e"])


def test_data_without_columns_cannot_be_grouped(users_files: Files) -> None:
    datamodule = make("adding", users_files, Fold(1, 3, group="lag"))
    with pytest.raises(UserError, match="Adding has no columns to group by"):
        datamodule.setup()


def test_a_datamodule_that_knows_no_folds_is_refused() -> None:
    class Plain(DataModule):
        task, inputs = "regression", "vector"

        def load(self) -> dict[str, Batch]:
            return {name: LabelledBatch(torch.zeros(4, 1), torch.zeros(4, 1)) for name in SPLITS}

    Plain.__abstractmethods__ = frozenset()
    Plain().setup()
    with pytest.raises(UserError, match=r"Plain does not support folds"):
        Plain(fold=Fold(1, 2))
