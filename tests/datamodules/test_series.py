"""A column of a CSV file becomes windows in order of time; what cannot be read is named."""

from pathlib import Path

import pytest

from src.datamodules.series import Series
from src.errors import UserError


def write(folder: Path, text: str) -> Path:
    path = folder / "prices.csv"
    path.write_text(text)
    return path


def test_the_chosen_column_is_forecast(tmp_path: Path) -> None:
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


def test_one_column_needs_no_name(tmp_path: Path) -> None:
    data = Series(write(tmp_path, "x\n" + "1\n2\n" * 30), window=4, horizon=2)
    assert data.values().tolist() == [1.0, 2.0] * 30


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("a,b\n1,2\n", None, r"datamodule.column=null: Possible: a, b\."),
        ("price,b\n1,2\n", "prise", r"datamodule.column=prise: Did you mean 'price'\?"),
        ("a,b\n1,2\n3,\n", "b", r"prices.csv, row 3, column b: '' is no number"),
        ("a\n1\nnan\n", "a", r"row 3, column a: 'nan' is no finite number"),
        ("a\n1\n2\n", "a", r"a longer series or smaller datamodule.window"),
        ("", "a", r"datamodule.column=a: Possible: none"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str, column: str | None, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Series(write(tmp_path, text), column=column).setup()
