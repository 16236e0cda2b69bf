"""Tables of the user's: features as scikit-learn makes them, splits that keep groups whole, errors by row."""

import io
import json
import logging
import re

import numpy as np
import pytest
import torch
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from src.cli.predict import predict
from src.core.errors import UserError
from src.datamodules.splits.holdout import split_groups
from src.datamodules.tabular.table import Table
from src.training.run import run

CITIES = ("Oslo", "Rome", "Lima")
ROWS = [(20 + i % 50, CITIES[i % 3], i / 3, i // 5, "yes" if i % 50 > 25 else "no") for i in range(90)]


def table(rows=ROWS, names="age,city,income,patient,bought", delimiter=","):
    return "\n".join([names.replace(",", delimiter), *(delimiter.join(map(str, row)) for row in rows)])


@pytest.fixture
def make(tmp_path):
    def with_content(content: str | bytes, name: str = "t.csv", **changes) -> Table:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return Table(path, **{"target_column": "bought", "missing": ["", "NA", "?"], **changes})

    return with_content


def test_features_equal_those_of_scikit_learn(make):
    data = make(table(), ignore=["patient"])
    data.setup()
    rows = {name: [row for _, row in part] for name, part in data.rows().items()}
    numbers = {name: [[float(r["age"]), float(r["income"])] for r in part] for name, part in rows.items()}
    cities = {name: [[r["city"]] for r in part] for name, part in rows.items()}
    scaler, encoder = StandardScaler().fit(numbers["train"]), OneHotEncoder(sparse_output=False).fit(cities["train"])
    assert data.spec.feature_names == ("age", "city=Lima", "city=Oslo", "city=Rome", "income")
    for name in rows:
        age, income = scaler.transform(numbers[name]).T
        expected = np.column_stack([age, encoder.transform(cities[name]), income])
        np.testing.assert_allclose(data.split(name).x, expected, rtol=1e-5, atol=1e-6)
        assert [data.spec.class_names[i] for i in data.split(name).y] == [r["bought"] for r in rows[name]]


def test_missing_number_becomes_the_mean_and_has_an_indicator(make):
    rows = [(("NA" if i % 4 == 0 else i), ("?" if i % 6 == 0 else "x"), "ab"[i % 2]) for i in range(60)]
    data = make(table(rows, "n,c,bought"))
    data.setup()
    assert data.spec.feature_names == ("n", "n is missing", "c=(missing)", "c=x")
    train = data.split("train").x
    lost = train[:, 1] == 1
    assert 0 < lost.sum() < len(train) and (train[lost, 0] == 0).all()
    known = train[~lost, 0]
    assert float(known.mean()) == pytest.approx(0, abs=1e-6)
    assert float(known.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert torch.equal(data.encode(["na,x"]).x, data.encode([",x"]).x)


def test_rows_without_a_target_are_dropped_and_counted(make, caplog):
    data = make(table([*ROWS, (1, "Oslo", 1, 1, "?")]))
    with caplog.at_level(logging.WARNING):
        data.setup()
    assert sum(len(data.split(name).x) for name in ("train", "val", "test")) == 90
    assert "1 of 91 rows have no target and are dropped" in caplog.text


@pytest.mark.parametrize("seed", range(5))
def test_each_group_is_in_one_split(make, seed):
    data = make(table(), group_column="patient", split_seed=seed, val_fraction=0.2, test_fraction=0.2)
    groups = {name: {row["patient"] for _, row in part} for name, part in data.rows().items()}
    assert not groups["train"] & groups["val"] and not groups["train"] & groups["test"]
    assert not groups["val"] & groups["test"] and len(set().union(*groups.values())) == 18
    sizes = {name: len(part) for name, part in data.rows().items()}
    assert sum(sizes.values()) == 90 and abs(sizes["val"] - 18) <= 5 and abs(sizes["test"] - 18) <= 5
    data.setup()
    assert "patient" not in " ".join(data.spec.feature_names)


def test_group_splits_approximate_their_fractions():
    dice = np.random.default_rng(0)
    groups = [str(g) for g in range(40) for _ in range(dice.integers(1, 20))]
    parts = split_groups(groups, 0.2, 0.3, seed=1)
    assert sorted(np.concatenate([*parts.values()])) == list(range(len(groups)))
    for name, share in (("val", 0.2), ("test", 0.3), ("train", 0.5)):
        assert len(parts[name]) / len(groups) == pytest.approx(share, abs=0.06)
    with pytest.raises(UserError, match="2 groups are too few, none is left for val"):
        split_groups(["a", "b"] * 9, 0.2, 0.2, seed=0)


def test_several_targets_are_predicted_in_original_units(make):
    data = make(table(), kind="regression", target_column=["age", "income"], ignore=["patient", "bought"])
    data.setup()
    assert data.spec.output_shape == (2,) and data.spec.target_names == ("age", "income")
    y = data.split("train").y
    torch.testing.assert_close(y.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    (prediction,) = data.decode_predictions([{"prediction": dict(zip(data.targets, y[0].tolist(), strict=True))}])
    row = data.rows()["train"][0][1]
    assert prediction["prediction"] == pytest.approx(
        {"age": float(row["age"]), "income": float(row["income"])}, rel=1e-5, abs=1e-5
    )


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_all_file_formats_give_the_same_data(make, kind):
    names = ["age", "city", "income", "patient", "bought"]
    lines = "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in ROWS)
    content = {"csv": table(), "tsv": table(delimiter="\t"), "jsonl": lines}[kind]
    data, other = make(content, f"t.{kind}"), make(table())
    assert all(torch.equal(data.split(name).x, other.split(name).x) for name in ("train", "val", "test"))


def test_columns_of_another_file_are_matched_by_name(make, tmp_path):
    data = make(table(), columns=["city", "age"])
    data.setup()
    (tmp_path / "new.csv").write_text("id,age,city\n7,30,Rome\n8,?,Oslo\n")
    expected = data.encode(["Rome,30", "Oslo,"]).x
    assert torch.equal(data.encode([str(tmp_path / "new.csv")]).x, expected)


def test_unknown_category_is_encoded_as_zeros_with_a_warning(make, caplog):
    data = make(table(), columns=["city"])
    data.setup()
    with caplog.at_level(logging.WARNING):
        assert not data.encode(["Bonn"]).x.any()
    assert "column 'city': values that did not occur in training match no category: Bonn" in caplog.text


def test_misspelled_json_key_is_reported(make, tmp_path, caplog):
    data = make("\n".join(json.dumps({"age": a, "city": c, "bought": b}) for a, c, _, _, b in ROWS), "t.jsonl")
    data.setup()
    other = tmp_path / "other.jsonl"
    other.write_text('{"agee": 30, "city": "Oslo"}\n')
    with pytest.raises(UserError, match=r"other.jsonl: no row has 'age'. Did you mean 'agee'"):
        data.encode([str(other)])
    other.write_text('{"agee": 30, "city": "Oslo"}\n{"age": 30, "city": "Oslo", "shoe": 9}\n')
    data.encode([str(other)])
    assert "agee is ignored in rows that lack a column of training" in caplog.text


@pytest.mark.parametrize("cell", ["1e200", "1e308", "1_000"])
def test_numbers_beyond_single_precision_are_rejected(make, cell):
    rows = [f"{n},{'no' if n % 2 else 'yes'}" for n in range(40)]
    with pytest.raises(UserError, match=rf"column 'a': '{cell}' is not a number"):
        make("a,bought\n" + "\n".join([*rows, f"{cell},no"])).setup()
    with pytest.raises(UserError, match=rf"column 'a': '{cell}' is not a number"):
        make("a,bought\n" + "\n".join([*rows, f"{cell},no"]), target_column="a", kind="regression").setup()
    data = make("a,bought\n" + "\n".join(rows))
    data.setup()
    with pytest.raises(UserError, match=rf"'{cell}' is not a number"):
        data.encode([cell])


def test_constant_column_is_not_scaled_by_its_rounding_error(make):
    data = make("a,b,bought\n" + "\n".join(f"99.9,{n},{'no' if n % 2 else 'yes'}" for n in range(500)))
    data.setup()
    assert abs(data.encode(["100,3"]).x[0, 0]) < 1


def test_every_line_of_an_input_is_one_example(make):
    data = make(table(), ignore=["patient"])
    data.setup()
    assert torch.equal(data.encode(["30,Rome,4\n40,Oslo,5"]).x, data.encode(["30,Rome,4", "40,Oslo,5"]).x)
    with pytest.raises(UserError, match="this is not valid CSV: field larger"):
        data.encode(["1" * 140_000])


def test_state_dict_restores_the_preparation(make):
    other = make(table([(i, "Bonn", 0, 0, "yes") for i in range(9)]))
    data = make(table(), ignore=["patient"])
    data.setup()
    file = io.BytesIO()
    torch.save(data.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.spec == data.spec and other.state_dict() == data.state_dict()
    assert torch.equal(other.encode(["30,Rome,4"]).x, data.encode(["30,Rome,4"]).x)


BAD = [
    ("", {}, "t.csv: this file is empty"),
    ("age,bought\n", {}, "t.csv: there are no rows"),
    ("age\n1\n2\n", {}, "t.csv: the header has no column 'bought'.*separated by commas"),
    ("age;bought\n1;yes\n", {}, "the header has no column 'bought'.*separated by commas"),
    (b"\xff\xfea", {}, r"t.csv: this file is not UTF-8 text \(byte 0\)"),
    (table() + "\n1,2\n", {}, "t.csv, row 92: 2 columns where the header has 5"),
    (table() + '\n1,"Oslo', {}, "t.csv, row 92: this is not valid CSV"),
    (
        table().replace("\n25,", "\nyoung,"),
        {},
        "t.csv, row 7, column 'age': 'young' is not a number.*datamodule.missing",
    ),
    (table(), {"kind": "regression"}, "row 2, column 'bought': 'no' is not a number; for classes"),
    (
        table(),
        {"target_column": "city", "kind": "binary_classification"},
        "'city' has 3 classes; binary classification has two",
    ),
    (table([(i, i * 1.5) for i in range(300)], "n,bought"), {}, "300 different numbers.*kind=regression"),
    (table([(i, i * 1.5) for i in range(90)], "n,bought"), {}, "90 different numbers.*kind=regression"),
    (table(ROWS[:3]), {}, r"t.csv: datamodule.val_fraction=.* none is left for (val|train); add examples or"),
    (
        table([(f"n{i}", i % 2) for i in range(2000)], "n,bought"),
        {},
        r"column 'n' has 1,\d\d\d different texts.*ignore",
    ),
    (table([("", i % 2) for i in range(20)], "n,bought"), {}, "column 'n': all training cells are missing"),
    (table([(i, "a") for i in range(20)], "n,bought"), {}, "training has one class only, 'a'"),
    (table([(i, "?") for i in range(20)], "n,bought"), {}, "no row has a value in column 'bought'"),
    (table(names="age,age,income,patient,bought"), {}, "the header names 'age' more than once"),
    (table(), {"columns": ["agee"]}, "the header has no column 'agee'. Did you mean 'age'"),
    (table(), {"ignore": ["agee"]}, "datamodule.ignore: .*has no column 'agee'. Did you mean 'age'"),
    (table([(1, "", "a")], "n,g,bought"), {"group_column": "g"}, "row 2, column 'g': this is empty"),
    (table(), {"columns": ["bought"]}, "no column is left to predict bought from"),
]


@pytest.mark.parametrize(("content", "changes", "message"), BAD)
def test_invalid_tables_are_rejected(make, content, changes, message):
    with pytest.raises(UserError, match=message):
        make(content, **changes).setup()


@pytest.mark.parametrize(
    ("row", "message"),
    [("1", "1 columns where 3 are expected: age, city, income"), ("old,Rome,1", "column 'age': 'old' is not a number")],
)
def test_invalid_inputs_are_rejected(make, row, message):
    data = make(table(), ignore=["patient"])
    data.setup()
    with pytest.raises(UserError, match=re.escape(message)):
        data.encode([row])


def test_each_kind_trains_and_predicts(fast, make, tmp_path):
    make(table())
    base = ["datamodule=table", f"datamodule.path={tmp_path / 't.csv'}", "datamodule.ignore=[patient]"]
    for kind, target in (("binary_classification", "bought"), ("regression", "income"), ("classification", "city")):
        overrides = fast(*base, f"datamodule.kind={kind}", f"datamodule.target_column={target}")
        result = run(overrides, verbose=False)
        (prediction, *_) = predict(result.folder, [str(tmp_path / "t.csv")])
        assert set(prediction.get("probabilities", {})) == {"bought": {"no", "yes"}, "city": set(CITIES)}.get(
            target, set()
        )
        assert isinstance(prediction["prediction"], float if kind == "regression" else str)
