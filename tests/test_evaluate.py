"""Evaluate: another file is measured whole, and nothing else is read."""

from collections.abc import Callable
from pathlib import Path
from shutil import copy, copytree

import pytest

from src.core.errors import UserError
from src.evaluate import evaluate, main
from src.training.run import run

Words = Callable[..., list[str]]
WHOLE = [f"trainer.limit_{split}_batches=null" for split in ("train", "val", "test")]


@pytest.fixture
def trained(fast: Words, tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """Return a function that trains on a copy of a kind's file or folder, and returns the run and the copy."""

    def train(kind: str) -> tuple[Path, Path]:
        words = fast(f"datamodule={kind}", *WHOLE)
        original = Path(next(word for word in words if word.startswith("datamodule.path=")).partition("=")[2])
        mine = tmp_path / f"mine{original.suffix}"
        (copytree if original.is_dir() else copy)(original, mine)
        return run([*words, f"datamodule.path={mine}"], verbose=False).folder, mine

    return train


@pytest.mark.parametrize("kind", ["table", "text_classification", "image_folder", "audio_folder"])
def test_another_file_is_measured_whole_and_alone(trained, kind: str, capsys) -> None:
    folder, mine = trained(kind)
    shares = []
    for split in ("train", "val", "test"):
        main([str(folder), f"split={split}"])
        count = int(capsys.readouterr().out.split()[-2])
        shares.append((evaluate(folder, split)[f"{split}/loss"], count))
    other = mine.rename(mine.with_name(f"other{mine.suffix}"))  # and the file of training is gone
    total = sum(count for _, count in shares)
    mean = sum(loss * count for loss, count in shares) / total
    for key in ("path", "test_path"):
        assert evaluate(folder, overrides=[f"datamodule.{key}={other}"])["test/loss"] == pytest.approx(mean, rel=1e-4)
    main([str(folder), f"datamodule.path={other}"])
    assert f"of {total} examples" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "count"), [("series", 600 - 48 - 12 + 1), ("text", None), ("parallel_text", 60)])
def test_data_in_their_own_order_are_measured_whole_too(trained, kind: str, count: int | None, capsys) -> None:
    folder, mine = trained(kind)
    other = mine.rename(mine.with_name(f"other{mine.suffix}"))
    main([str(folder), f"datamodule.path={other}"])
    if count is None:
        count = (len(other.read_text()) - 1) // 16  # windows of the context
    assert f"of {count} examples" in capsys.readouterr().out


def test_three_rows_are_enough(trained, tmp_path: Path) -> None:
    folder, mine = trained("table")
    few = tmp_path / "few.csv"
    few.write_text("".join(mine.read_text().splitlines(keepends=True)[:4]))
    evaluate(folder, overrides=[f"datamodule.path={few}"])
    with pytest.raises(UserError, match=r"split=val: the file that datamodule.path names is measured as a whole"):
        evaluate(folder, "val", [f"datamodule.path={few}"])
