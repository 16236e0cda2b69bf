"""A column of a CSV file becomes windows in order of time; what cannot be read is named."""

from pathlib import Path

import pytest
import torch

from src.core.errors import UserError
from src.datamodules.timeseries.series import Series


def write(folder: Path, text: str) -> Path:
    path = folder / "prices.csv"
    path.write_text(text)
    return path


def test_configured_column_is_forecast(tmp_path: Path) -> None:
    rows = "".join(f"2020-01-{n},{n * n},{-n}\n" for n in range(60))
    data = Series(write(tmp_path, "day, price ,other\n" + rows), column="price", window=4, horizon=2)
    data.setup()
    assert data.scale is not None and data.spec.target_names == ("price",)
    x, y = data.split("test")
    first = 60 - round(60 * 0.15)
    shown = [data.scale.undo(0, value) for value in [*x[0].flatten().tolist(), *y[0].flatten().tolist()]]
    assert shown == pytest.approx([n * n for n in range(first, first + 6)], rel=1e-5)
    mean = sum(n * n for n in range(60 - 18)) / (60 - 18)
    assert data.scale.mean[0] == pytest.approx(mean)


def test_constant_series_is_not_scaled_by_its_rounding_error(tmp_path: Path) -> None:
    data = Series(write(tmp_path, "x\n" + "99.9\n" * 500), window=4, horizon=2)
    data.setup()
    assert data.scale is not None and data.scale.deviation == (1.0,)


def test_single_column_needs_no_name(tmp_path: Path) -> None:
    data = Series(write(tmp_path, "x\n" + "1\n2\n" * 30), window=4, horizon=2)
    assert data.values().tolist() == [[1.0], [2.0]] * 30


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("a,b\n1,2\n", None, r"datamodule.column=null: Possible: a, b\."),
        ("price,b\n1,2\n", "prise", r"prices.csv: the header has no column 'prise'. Did you mean 'price'\?"),
        ("a,b\n1,2\n3,\n", "b", r"prices.csv, row 3, column b: '' is not a number"),
        ("a\n1\nnan\n", "a", r"row 3, column a: 'nan' is not a finite number"),
        ("a\n1\n2\n", "a", r"use a longer series or reduce datamodule.window"),
        ("", "a", r"prices.csv: this file is empty; it must begin with a header such as a$"),
        ("day,sold,price\n1,12,2,5\n", "price", r"prices.csv, row 2: 4 columns where the header has 3"),
        ("a,a\n1,2\n", "a", r"the header names 'a' more than once"),
        ('a,b\n1,"2\n3,4\n', "a", r"row 2: this is not valid CSV: unexpected end of data"),
        ("a\n" + "1" * 200_000 + "\n", "a", r"row 2: this is not valid CSV: field larger"),
        ("day\tprice\n1\t2\n", "price", r"has no column 'price'\. Columns must be separated by commas; it has none"),
        ("a\n1\n2e306\n", "a", r"row 3, column a: '2e306' is not a number up to 1e\+30"),
        ("a\n1\n1_000\n", "a", r"row 3, column a: '1_000' is not a number"),
    ],
)
def test_error_names_row_and_column_of_an_invalid_series(
    tmp_path: Path, text: str, column: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Series(write(tmp_path, text), column=column).setup()


TABLE = "day,price,sold,rain\n" + "".join(
    f"2026-{1 + n // 28:02}-{1 + n % 28:02},{n * n},{-n},{n % 3}\n" for n in range(80)
)


def test_several_series_are_forecast_with_covariates(tmp_path: Path) -> None:
    path = write(tmp_path, TABLE)
    data = Series(path, ["sold", "price"], ["rain"], "day", window=4, horizon=2, batch_size=8)
    data.setup()
    assert data.spec.input_shape == (4, 3) and data.spec.output_shape == (2, 2)
    assert data.spec.target_names == ("sold", "price") and data.spec.feature_names == ("sold", "price", "rain")
    x, y = data.split("test")
    first = 80 - round(80 * 0.15)
    for window in range(3):
        n = first + window
        seen = [[data.scale.undo(i, v) for i, v in enumerate(row)] for row in x[window].tolist()]
        expected = [[-k, k * k, k % 3] for k in range(n, n + 4)]
        assert [v for row in seen for v in row] == pytest.approx(
            [v for row in expected for v in row], rel=1e-4, abs=1e-4
        )
        (prediction,) = data.decode_predictions([{"prediction": y[window].tolist()}])
        assert prediction["prediction"][1] == pytest.approx({"sold": -(n + 5), "price": (n + 5) ** 2}, rel=1e-4)
    last_rows = "\n".join(f"{-n},{n * n},{n % 3}" for n in range(76, 80))
    assert torch.equal(data.encode([str(path)]).x, data.encode([last_rows]).x)
    assert data.baseline()["test/mse"] == pytest.approx(float(((x[:, -1:, :2] - y) ** 2).mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"2026-01-03": "2026-01-02"}, "row 4, column day: '2026-01-02' is not later than in the previous row"),
        ({"2026-01-03": "third"}, "row 4, column day: 'third' is neither a date"),
        ({"day,": "dag,"}, r"datamodule.time_column=day: Did you mean 'dag'"),
        ({"rain": "rein"}, r"datamodule.covariates=rain: Did you mean 'rein'"),
        ({",4,-2,2": ",4,-2,inf"}, "row 4, column rain: 'inf' is not a finite number"),
    ],
)
def test_error_names_invalid_times_and_covariates(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    text = TABLE
    for old, new in changes.items():
        text = text.replace(old, new, 1)
    with pytest.raises(UserError, match=message):
        Series(write(tmp_path, text), "price", ["rain"], "day", window=4, horizon=2).setup()
