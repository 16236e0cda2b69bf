"""Comparison of a sweep's runs from the command line, and its scaling law."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from src.compare import main, scaling
from src.errors import UserError
from src.tracking.recorded import read_runs


def recorded(folder: Path, width: int, loss: float | None, status: str = "finished", metric: str = "val/loss") -> None:
    folder.mkdir(parents=True)
    config = {"seed": 0, "model": {"name": "transformer", "d_model": width}, "datamodule": {"train_size": 10 * width}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"paths": {"outputs": str(folder)}}, sort_keys=False))
    measured = {} if loss is None else {"monitor": metric, "mode": "min", "value": loss}
    record = {"status": status, "seconds": 3.0, "parameters": 7 * width**2, "multiply_adds": None} | measured
    (folder / "run.json").write_text(json.dumps(record))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Losses that follow 4 · parameters^-0.25."""
    for width in (8, 16, 32, 64, 128):
        recorded(tmp_path / "law" / f"d_model-{width}", width, 4 * (7 * width**2) ** -0.25)
    recorded(tmp_path / "law" / "d_model-256", 256, None, "failed")
    return tmp_path / "law"


def test_the_runs_of_a_sweep_are_ranked(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(sweep)])
    out = capsys.readouterr().out
    assert re.search(r"rank +val/loss +d_model +train_size +time +parameters +status +run", out)
    assert re.findall(r"^ *(\d) +[\d.]+ +(\d+) +", out, re.M) == [
        ("1", "128"),
        ("2", "64"),
        ("3", "32"),
        ("4", "16"),
        ("5", "8"),
    ]
    assert re.search(r"^failed: .*d_model-256", out, re.M)


@pytest.mark.req("T8")
def test_the_law_of_a_sweep_is_found_and_drawn(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(sweep), "--scaling", "parameters"])
    out = capsys.readouterr().out
    assert "val/loss of 5 runs against parameters" in out and "x^-0.250" in out
    with Image.open(sweep / "plots" / "scaling-parameters.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 300
    plain, _ = scaling(sweep, read_runs(sweep), "parameters")
    assert (plain.exponent, plain.factor) == (pytest.approx(0.25), pytest.approx(4))
    assert scaling(sweep, read_runs(sweep), "datamodule.train_size")[0].exponent == pytest.approx(0.5)
    assert np.ptp(plain.interval) < 1e-9


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ("parametres", "parametres: unknown size. Did you mean 'parameters'"),
        ("datamodule.trainsize", "Did you mean 'datamodule.train_size'"),
        ("model.name", "model.name is no number"),
        ("multiply_adds", "multiply_adds is no number"),
        ("seed", "at least 3 different sizes, and there are 1|above 0"),
    ],
)
def test_a_wrong_size_is_answered(sweep: Path, capsys: pytest.CaptureFixture[str], size: str, said: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(sweep), "--scaling", size])
    assert stop.value.code == 2 and re.search(said, capsys.readouterr().err)


def test_a_wrong_folder_is_answered(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no such folder\. Did you mean 'law'"):
        read_runs(tmp_path / "lawl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there are no runs in this folder"):
        read_runs(tmp_path / "empty")


def test_losses_alone_have_a_law(tmp_path: Path) -> None:
    for width in (8, 16, 32):
        recorded(tmp_path / f"{width}", width, 0.5, metric="val/accuracy")
    with pytest.raises(UserError, match="fits one loss; these runs are measured by val/accuracy"):
        scaling(tmp_path, read_runs(tmp_path), "parameters")
