"""What the command line prints of an answer."""

import pytest

from src.errors import UserError
from src.models.transformer import Transformer
from src.predict import Generation, _line
from src.spec import DataSpec


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


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"length_penalty": 0.6}, "--length-penalty weighs the sequences of a beam search: add --beams 4"),
        ({"beams": 3, "top_k": 3}, "--top-k: for sampling, and --beams searches the likeliest sequence: give one"),
        ({"beams": 3, "temperature": 1.0}, "--beams searches the likeliest sequence, --temperature draws one"),
        ({"temperature": 0.0, "top_k": 3}, "--top-k: the temperature is 0"),
    ],
)
def test_a_refusal_speaks_of_what_was_given(given: dict[str, float], says: str) -> None:
    model = Transformer(DataSpec("language_modelling", "tokens", (8,), (11,), vocabulary_size=11))
    with pytest.raises(UserError, match=says):
        Generation(**given).arguments(model)  # type: ignore[arg-type]
