"""Predictions as printed and written by the command line."""

import csv
import json

import pytest

from src.cli.predict import Generation, prediction_line
from src.cli.prediction_file import PredictionWriter
from src.core.console import echo
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.core.escape import terminal
from src.models.transformer import Transformer
from src.predict import main
from src.training.run import run
from tests.core.test_console import acts
from tests.hostile import HOSTILE


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
def test_every_form_of_prediction_is_printed(prediction: object, shown: str) -> None:
    assert prediction_line("1,2\n3,4", {"prediction": prediction}) == f"1,2; 3,4 → {shown}"


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_predictions_are_written_with_probabilities_and_names(fast, tmp_path, kind, capsys) -> None:
    overrides = fast("datamodule=image_folder")
    folder = next(override for override in overrides if override.startswith("datamodule.path=")).partition("=")[2]
    result = run(overrides, verbose=False)
    file = tmp_path / f"predictions.{kind}"
    main([str(result.folder), folder, "--output", str(file)])
    assert f"36 predictions in {file}" in capsys.readouterr().out
    main([str(result.folder), folder, "--json"])
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    if kind == "jsonl":
        written = [json.loads(line) for line in file.read_text().splitlines()]
        assert [{"prediction": w["prediction"], "probabilities": w["probabilities"]} for w in written] == shown
    else:
        written = list(csv.DictReader(file.open()))
        assert list(written[0]) == ["input", "prediction", *(f"probability {n}" for n in ("bright", "dark", "grey"))]
        for row, output in zip(written, shown, strict=True):
            assert row["prediction"] == output["prediction"]
            for name, share in output["probabilities"].items():
                assert float(row[f"probability {name}"]) == pytest.approx(share)
    assert written[0]["input"].startswith(folder) and len({row["input"] for row in written}) == 36


@pytest.mark.parametrize(
    ("prediction", "columns"),
    [
        (1.5, {"prediction": "1.5"}),
        ({"price": 1.5, "rent": 2.0}, {"prediction price": "1.5", "prediction rent": "2.0"}),
        ([1.0, 2.0], {"prediction 1": "1.0", "prediction 2": "2.0"}),
        ([{"OT": 1.0}, {"OT": 2.0}], {"prediction 1 OT": "1.0", "prediction 2 OT": "2.0"}),
    ],
)
def test_every_form_of_prediction_is_a_csv_row(tmp_path, prediction: object, columns: dict[str, str]) -> None:
    with PredictionWriter(tmp_path / "a.csv") as file:
        file.write("a, b", {"prediction": prediction})
    assert list(csv.DictReader((tmp_path / "a.csv").open())) == [{"input": "a, b", **columns}]


def test_a_file_exists_only_when_it_is_complete(tmp_path) -> None:
    with pytest.raises(KeyError), PredictionWriter(tmp_path / "a.jsonl") as file:
        file.write("x", {"prediction": 1})
        raise KeyError
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"a\.txt: must end in \.csv or \.jsonl"):
        PredictionWriter(tmp_path / "a.txt")
    with pytest.raises(UserError, match="cannot be written: No such file"), PredictionWriter(tmp_path / "no" / "a.csv"):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length_penalty": 0.6}, "--length-penalty ranks the sequences of a beam search: add --beams 4"),
        ({"beams": 3, "top_k": 3}, "--top-k: for sampling, and --beams searches the likeliest sequence: give one"),
        ({"beams": 3, "temperature": 1.0}, "--beams searches the likeliest sequence, --temperature samples one"),
        ({"temperature": 0.0, "top_k": 3}, "--top-k: the temperature is 0"),
        ({"beams": 12}, "--beams 12: at most 11, the number of tokens that each step chooses from"),
    ],
)
def test_an_error_names_the_options_that_were_given(options: dict[str, float], message: str) -> None:
    model = Transformer(DataSpec("language_modelling", "tokens", (8,), (11,), vocabulary_size=11))
    with pytest.raises(UserError, match=message):
        Generation(**options).arguments(model)  # type: ignore[arg-type]


def test_an_input_file_is_never_overwritten(tmp_path) -> None:
    existing = tmp_path / "mine.csv"
    existing.write_text("a,b\n")
    (tmp_path / "link.csv").symlink_to(existing)
    for output in (existing, tmp_path / "link.csv"):
        with pytest.raises(UserError, match="this is an input"):
            PredictionWriter(output, ["5,6", str(existing)])
    PredictionWriter(tmp_path / "other.csv", [str(existing)])
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match="this is a folder"):
        PredictionWriter(tmp_path / "folder.csv")


def test_a_file_name_that_is_not_unicode_is_escaped(tmp_path) -> None:
    with PredictionWriter(tmp_path / "predictions.jsonl") as file:
        file.write("caf\udce9.png", {"prediction": 1})
    assert json.loads((tmp_path / "predictions.jsonl").read_text())["input"] == "caf\udce9.png"


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_texts_are_escaped(text: str, tmp_path, capsys) -> None:
    output = {"prediction": text, "probabilities": {text: 0.75, "b": 0.25}}
    with PredictionWriter(tmp_path / "a.csv") as table, PredictionWriter(tmp_path / "a.jsonl") as lines:
        for _ in range(2):
            table.write(text, output)
            lines.write(text, output)
    rows = list(csv.reader((tmp_path / "a.csv").open(newline="", encoding="utf-8")))
    assert len(rows) == 3 and {len(row) for row in rows} == {4}, "no text ends its cell or row"
    for cell in (cell for row in rows for cell in row):
        assert not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n")) and not acts(cell)
    assert rows[1][1].replace("'", "") == terminal(text).replace("'", "")
    raw = (tmp_path / "a.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in raw[:-1]] == [{"input": text, **output}] * 2
    echo(prediction_line(text, output))
    assert not acts(capsys.readouterr().out)


@pytest.mark.parametrize("name", [".a.csv.partial", "a.csv"])
def test_a_link_beside_the_output_is_not_followed(name: str, tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / name).symlink_to(tmp_path / "mine.txt")
    with PredictionWriter(tmp_path / "a.csv") as file:
        file.write("a", {"prediction": 1})
    assert (tmp_path / "mine.txt").read_text() == "mine" and not (tmp_path / "a.csv").is_symlink()
