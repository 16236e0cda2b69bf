"""What the command line prints of an answer."""

import pytest

from src.predict import _line


@pytest.mark.parametrize(
    ("prediction", "shown"),
    [
        (0.123456, "0.1235"),
        ("cat", "cat"),
        ([1.0, 2.34567], "1 2.346"),
        ([[1.0, 2.0], [3.0, 4.0]], "\n  1 2\n  3 4"),
        ([{"HUFL": 1.23456, "OT": 2.0}, {"HUFL": 3.0, "OT": 4.0}], "\n  HUFL 1.235  OT 2\n  HUFL 3  OT 4"),
    ],
)
def test_every_form_of_prediction_is_readable(prediction: object, shown: str) -> None:
    assert _line("1,2\n3,4", {"prediction": prediction}) == f"1,2; 3,4 → {shown}"
