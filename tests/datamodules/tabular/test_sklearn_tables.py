import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from src.core.errors import UserError
from src.datamodules.tabular.sklearn_tables import BreastCancer, Diabetes, SklearnTable, Wine

SOURCES = {BreastCancer: load_breast_cancer, Wine: load_wine, Diabetes: lambda: load_diabetes(scaled=False)}


@pytest.fixture(scope="module", params=SOURCES, ids=lambda cls: cls.__name__)
def table(request) -> SklearnTable:
    datamodule = request.param()
    datamodule.setup()
    return datamodule


def test_columns_are_standardised_with_the_training_split(table):
    train = table.split("train").x.double()
    assert train.mean(0).abs().max() < 1e-6
    torch.testing.assert_close(train.std(0, correction=0), torch.ones_like(train[0]), rtol=1e-6, atol=0)
    assert table.split("test").x.double().mean(0).abs().max() > 1e-3  # it has no part in the fit


def test_splits_contain_every_row_of_the_source(table):
    source = SOURCES[type(table)]()
    scale = table.state_dict()["scale"]
    rows = [
        table.split(name).x.double().numpy() * scale["deviation"] + scale["mean"] for name in ("train", "val", "test")
    ]
    targets = np.concatenate([table.split(name).y.double().numpy().reshape(-1) for name in ("train", "val", "test")])
    if isinstance(table, Diabetes):
        scale = table.state_dict()["target_scale"]
        targets = targets * scale["deviation"] + scale["mean"]
    found = np.column_stack([np.concatenate(rows), targets])
    expected = np.column_stack([source.data, source.target])
    for order in (0, 1, -2):  # the same rows, whatever column they are sorted by
        np.testing.assert_allclose(np.sort(found[:, order]), np.sort(expected[:, order]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.sort(found.sum(1)), np.sort(expected.sum(1)), rtol=1e-5)


def test_features_of_diabetes_are_not_scaled_with_the_test_split():
    """What scikit-learn returns by default was centred over all rows; ages in years were not."""
    datamodule = Diabetes()
    datamodule.setup()
    ages = datamodule.state_dict()["scale"]
    assert 40 < ages["mean"][0] < 60 and 10 < ages["deviation"][0] < 16


def test_splits_are_stratified_by_class():
    for cls in (BreastCancer, Wine):
        datamodule = cls()
        whole = np.bincount(SOURCES[cls]().target) / len(SOURCES[cls]().target)
        for name in ("train", "val", "test"):
            y = datamodule.split(name).y.long()
            assert np.abs(y.bincount().numpy() / len(y) - whole).max() < 0.02


def test_class_names_are_in_the_order_of_the_targets():
    assert BreastCancer().spec.class_names == ("malignant", "benign")
    assert (load_breast_cancer().target == 1).sum() == 357  # benign, as the data set's paper counts
    assert Wine().spec.class_names == ("class_0", "class_1", "class_2")


def test_predictions_of_diabetes_are_in_original_units():
    datamodule = Diabetes()
    y = datamodule.split("test").y
    predictions = datamodule.decode_predictions([{"prediction": {"target": value}} for value in y.flatten().tolist()])
    predicted = [prediction["prediction"] for prediction in predictions]
    assert y.double().mean().abs() < 1 and min(predicted) >= 25 and max(predicted) <= 346  # the data set's range
    test = datamodule._parts()["test"]
    np.testing.assert_allclose(predicted, load_diabetes().target[test], rtol=1e-5)


def test_columns_of_a_file_are_ordered_by_its_header(table, tmp_path):
    source = SOURCES[type(table)]()
    backwards = ",".join(reversed([str(name) for name in source.feature_names]))
    rows = [",".join(repr(float(v)) for v in reversed(row)) for row in source.data[:2]]
    (tmp_path / "data.csv").write_text("\n".join([backwards, *rows]))
    straight = [",".join(repr(float(v)) for v in row) for row in source.data[:2]]
    torch.testing.assert_close(table.encode([str(tmp_path / "data.csv")]).x, table.encode(straight).x)


def test_error_names_row_and_column_of_an_invalid_cell(table, tmp_path):
    names = [str(name) for name in SOURCES[type(table)]().feature_names]
    cells = ["1"] * len(names)
    cells[4] = "1..5"
    (tmp_path / "data.csv").write_text(",".join(["1"] * len(names)) + "\n" + ",".join(cells))
    with pytest.raises(UserError) as caught:
        table.encode([str(tmp_path / "data.csv")])
    assert str(caught.value).endswith(f"data.csv, row 2, column 5 ({names[4]}): '1..5' is not a number")
    with pytest.raises(UserError, match=f"2 columns where {len(names)} are expected"):
        table.encode(["1,2"])
