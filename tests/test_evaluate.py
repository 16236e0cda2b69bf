"""`src.evaluate` evaluates another file as a whole, and reads nothing else."""

from collections.abc import Callable
from pathlib import Path
from shutil import copy, copytree

import pytest

from src.core.errors import UserError
from src.evaluate import evaluate, main
from src.training.run import run

MakeOverrides = Callable[..., list[str]]
WHOLE = [f"trainer.limit_{split}_batches=null" for split in ("train", "val", "test")]


@pytest.fixture
def trained(fast: MakeOverrides, tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """Return a function that trains on a copy of a kind's file or folder, and returns the run and the copy."""

    def train(kind: str) -> tuple[Path, Path]:
        overrides = fast(f"datamodule={kind}", *WHOLE)
        original = Path(
            next(override for override in overrides if override.startswith("datamodule.path=")).partition("=")[2]
        )
        data = tmp_path / f"data{original.suffix}"
        (copytree if original.is_dir() else copy)(original, data)
        return run([*overrides, f"datamodule.path={data}"], verbose=False).folder, data

    return train


@pytest.mark.parametrize("kind", ["table", "text_classification", "image_folder", "audio_folder"])
def test_another_file_is_evaluated_as_a_whole_and_alone(trained, kind: str, capsys) -> None:
    folder, data = trained(kind)
    splits = []
    for split in ("train", "val", "test"):
        main([str(folder), f"split={split}"])
        count = int(capsys.readouterr().out.split()[-2])
        splits.append((evaluate(folder, split)[f"{split}/loss"], count))
    other = data.rename(data.with_name(f"other{data.suffix}"))  # the training file no longer exists
    total = sum(count for _, count in splits)
    mean = sum(loss * count for loss, count in splits) / total
    for key in ("path", "test_path"):
        assert evaluate(folder, overrides=[f"datamodule.{key}={other}"])["test/loss"] == pytest.approx(mean, rel=1e-4)
    main([str(folder), f"datamodule.path={other}"])
    assert f"of {total} examples" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "count"), [("series", 600 - 48 - 12 + 1), ("text", None), ("parallel_text", 60)])
def test_ordered_data_are_evaluated_as_a_whole(trained, kind: str, count: int | None, capsys) -> None:
    folder, data = trained(kind)
    other = data.rename(data.with_name(f"other{data.suffix}"))
    main([str(folder), f"datamodule.path={other}"])
    if count is None:
        count = (len(other.read_text()) - 1) // 16  # windows of the context
    assert f"of {count} examples" in capsys.readouterr().out


def test_three_rows_can_be_evaluated(trained, tmp_path: Path) -> None:
    folder, data = trained("table")
    few = tmp_path / "few.csv"
    few.write_text("".join(data.read_text().splitlines(keepends=True)[:4]))
    evaluate(folder, overrides=[f"datamodule.path={few}"])
    with pytest.raises(UserError, match=r"split=val: the file that datamodule.path names is evaluated as a whole"):
        evaluate(folder, "val", [f"datamodule.path={few}"])
