"""ETT: the usual split and standardisation of the papers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from src.core.errors import UserError
from src.datamodules.timeseries.ett import ETT, FILES
from tests.miniatures import write_ett


def made(folder: Path, **more) -> ETT:
    return ETT(verify=False, data_dir=folder, **more)


def test_windows_equal_those_of_the_papers(tmp_path) -> None:
    values = write_ett(tmp_path / "ett" / "ETTh1.csv")
    train = values[: 12 * 720]
    scaled = (values - train.mean(0)) / train.std(0)
    data = made(tmp_path, window=96, horizon=24)
    sizes = {"train": 8640 - 96 - 24 + 1, "val": 2880 - 24 + 1, "test": 2880 - 24 + 1}
    starts = {"train": 0, "val": 8640 - 96, "test": 11520 - 96}
    for name, size in sizes.items():
        split = data.split(name)
        assert len(split.x) == size
        for i in (0, 7, size - 1):
            first = starts[name] + i
            np.testing.assert_allclose(split.x[i], scaled[first : first + 96], atol=1e-5)
            np.testing.assert_allclose(split.y[i], scaled[first + 96 : first + 120], atol=1e-5)
    assert data.split("test").y[0, 0].numpy() == pytest.approx(scaled[11520], abs=1e-5), (
        "forecasts begin with the split"
    )


def test_forecasts_are_in_original_units(tmp_path) -> None:
    values = write_ett(tmp_path / "ett" / "ETTh1.csv")
    data = made(tmp_path, window=8, horizon=2)
    target = data.split("test").y[:1]
    (prediction,) = data.decode_predictions([{"prediction": target[0].tolist()}])
    found = np.array([list(step.values()) for step in prediction["prediction"]])
    np.testing.assert_allclose(found, values[11520:11522], atol=1e-4)
    assert list(prediction["prediction"][0]) == ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]


def test_encode_uses_the_last_rows_of_a_file(tmp_path) -> None:
    values = write_ett(tmp_path / "ett" / "ETTh1.csv")
    data = made(tmp_path, window=8, horizon=2)
    data.setup()
    file = tmp_path / "past.csv"
    file.write_text("HUFL,HULL,MUFL,MULL,LUFL,LULL,OT\n" + "\n".join(",".join(map(str, row)) for row in values[:11520]))
    torch.testing.assert_close(data.encode([str(file)]).x, data.split("test").x[:1], rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="1 rows, but the model needs 8"):
        data.encode(["1,2,3,4,5,6,7"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: ["date,a,b", *lines[1:]], "the header has no column 'HUFL'"),
        (lambda lines: [*lines[:5], "x,1,2,3,4,5,6", *lines[6:]], "row 6: 7 columns where the header has 8"),
        (lambda lines: [*lines[:5], "x,1,2,3,4,5,6,oops", *lines[6:]], "row 6, column OT: 'oops' is not a number"),
        (lambda lines: [*lines[:5], "x,1,2,3,4,5,6,nan", *lines[6:]], "row 6, column OT: 'nan' is not a finite number"),
        (lambda lines: lines[:5000], "4,999 rows, but the usual split needs 14,400"),
    ],
)
def test_error_names_file_and_row_of_invalid_data(tmp_path, change, message) -> None:
    path = tmp_path / "ett" / "ETTh1.csv"
    write_ett(path)
    path.write_text("\n".join(change(path.read_text().splitlines())))
    with pytest.raises(UserError, match=rf"ETTh1\.csv.*{message}"):
        made(tmp_path).setup()


def test_encode_accepts_a_file_in_the_published_format(tmp_path):
    values = write_ett(tmp_path / "ett" / "ETTh1.csv")
    data = made(tmp_path)
    data.setup()
    x = data.encode([str(tmp_path / "ett" / "ETTh1.csv")]).x
    expected = data.scale.apply(torch.tensor(values[-96:]))
    torch.testing.assert_close(x[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["h1", "h2", "m1", "m2"])
def test_every_variant_has_a_checksum(tmp_path, variant) -> None:
    write_ett(tmp_path / "ett" / f"ETT{variant}.csv")  # as another variant's file would be, of the same form
    with pytest.raises(UserError, match=rf"ETT{variant}.csv: .* differ from those published"):
        FILES[variant].read(tmp_path)
