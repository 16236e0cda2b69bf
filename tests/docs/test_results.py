"""The results on public data: what is asked for can be run, and what is shown follows from what was measured."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from docs import results as page
from docs.results import ASKED, Measured, Row, put_down, reached, recipe, row_of, rows, written
from src.config.compose import compose
from src.config.validate import check
from src.core.errors import UserError
from src.run_store.run_folder import RunFolder

ROWS = {row.words: row for row in rows()}
RUN = Measured("c0ffee", 0, {"test/accuracy": 0.9}, 3, 100, 60, 20, "a machine", "2.13.0", "2026-11-25")
ROW = Row("experiment=fashion_mnist_mlp", "clothes", "MLP", "", {"test/accuracy": 0.9})


@pytest.mark.parametrize("words", ROWS)
def test_every_row_can_be_run(words: str) -> None:
    config = check(compose(shlex.split(words)))
    assert config.datamodule.task is not None
    assert not ROWS[words].prompt or config.datamodule.task == "language_modelling"


@pytest.mark.parametrize(("path", "text"), list(written()), ids=lambda value: getattr(value, "name", "text"))
def test_what_is_shown_follows_from_what_was_measured(path: Path, text: str) -> None:
    assert path.read_text(encoding="utf-8") == text, "python -m docs.results writes it anew"


def test_every_measured_row_is_asked_for_and_has_its_metrics() -> None:
    assert len(ROWS) == len(rows()) and set(page.results()) <= set(ROWS), f"{ASKED.name} has no such row any more"
    for words, runs in page.results().items():
        assert len({run.seed for run in runs}) == len(runs)
        for run in runs:
            assert run.recipe == recipe(ROWS[words]), f"{words} was changed: python -m docs.results {words}"
            assert set(ROWS[words].goals) <= set(run.metrics) and bool(run.sample) == bool(ROWS[words].prompt)


@pytest.mark.parametrize("words", page.results())
def test_the_readme_shows_the_mean_over_the_seeds(words: str) -> None:
    lines = [line for line in page.README.read_text(encoding="utf-8").splitlines() if line.endswith(f"{words}` |")]
    cells = [cell.strip() for cell in lines[0].split("|")]
    runs = page.results()[words]
    for shown, name in zip(cells[5].split(" / "), ROWS[words].goals, strict=True):
        number, *deviation = re.findall(r"[\d.]+", shown)
        unit = 100 if "%" in shown else 1
        values = unit * np.array([run.metrics[name] for run in runs])
        half = 0.5 * 10 ** -len(number.partition(".")[2]) + 1e-9
        assert float(number) == pytest.approx(values.mean(), abs=half)
        if len(runs) > 1:
            assert float(deviation[0]) == pytest.approx(values.std(ddof=1), abs=half)
    assert cells[6] == str(len(runs))


def test_a_goal_is_reached_on_the_mean_of_the_seeds() -> None:
    better, worse = replace(RUN, metrics={"test/accuracy": 0.92}), replace(RUN, metrics={"test/accuracy": 0.89})
    assert reached(ROW, [RUN]) and reached(ROW, [better, worse]) and not reached(ROW, [worse]) and not reached(ROW, [])
    less = replace(ROW, goals={"test/loss": 1.88, "test/accuracy": None})
    runs = [replace(RUN, metrics={"test/loss": loss, "test/accuracy": 0.1}) for loss in (1.87, 1.89, 1.9)]
    assert reached(less, runs[:1]) and reached(less, runs[:2]) and not reached(less, runs)


def test_a_run_takes_the_place_of_an_older_one_of_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "RESULTS", tmp_path / "results.json")
    newer = replace(RUN, metrics={"test/accuracy": 0.8})
    for run in (replace(RUN, seed=1), RUN, newer):
        put_down(ROW, run)
    assert page.results() == {ROW.words: [newer, replace(RUN, seed=1)]}


def test_a_recipe_is_its_words_its_file_and_those_that_it_builds_upon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "CONF", tmp_path)
    (tmp_path / "experiment").mkdir()
    base, built = (tmp_path / "experiment" / f"{name}.yaml" for name in ("base", "built"))
    row = replace(ROW, words="experiment=built")

    def digest(below: str, above: str, words: str = "experiment=built") -> str:
        base.write_text(f"defaults: [{{override /model: mlp}}]\n{below}\n")
        built.write_text(f"defaults: [base]\n{above}\n")
        return recipe(replace(row, words=words))

    one = digest("seed: 1", "tags: [a]")
    assert one == digest("seed: 1   # with a reason", "tags: [a]")
    others = [digest("seed: 2", "tags: [a]"), digest("seed: 1", "tags: [b]")]
    assert len({one, *others, digest("seed: 1", "tags: [a]", "experiment=built optimizer=sgd")}) == 4


@pytest.fixture
def finished(tmp_path: Path) -> RunFolder:
    """A run of a row with another seed, recorded elsewhere and in another way."""
    words = [ROW.words, "seed=3", "logger=none", "callbacks=quiet", f"paths.outputs={tmp_path}", "paths.data=/data"]
    folder = RunFolder.create(tmp_path / "run", check(compose(words)).plain(), [])
    folder.finish({"test/accuracy": 0.9})
    return folder


def test_a_run_belongs_to_the_row_whose_recipe_it_followed(finished: RunFolder) -> None:
    assert row_of(RunFolder.open(finished.path)).words == ROW.words


def test_a_run_of_another_config_or_without_an_end_is_refused(finished: RunFolder, tmp_path: Path) -> None:
    other = RunFolder.create(tmp_path / "other", check(compose([ROW.words, "optimizer.lr=0.01"])).plain(), [])
    with pytest.raises(UserError, match="the run is running, and only a finished one is a result"):
        row_of(other)
    other.finish({"test/accuracy": 0.99})
    with pytest.raises(UserError, match="its config is that of no row"):
        row_of(RunFolder.open(other.path))
