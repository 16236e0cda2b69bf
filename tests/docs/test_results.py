"""The results on public data: every row is a valid command, and the tables match results.json."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from docs import results as page
from docs.results import DEFINITIONS, Result, Row, matching_row, reaches_goals, recipe, rows, save_result, updated_files
from src.config.compose import compose
from src.config.validate import check
from src.core.errors import UserError
from src.run_store.run_folder import RunFolder

ROWS = {row.overrides: row for row in rows()}
RUN = Result("c0ffee", 0, {"test/accuracy": 0.9}, 3, 100, 60, 20, "a machine", "2.13.0", "2026-11-25")
ROW = Row("experiment=fashion_mnist_mlp", "clothes", "MLP", "", {"test/accuracy": 0.9})


@pytest.mark.parametrize("overrides", ROWS)
def test_every_row_has_a_valid_config(overrides: str) -> None:
    config = check(compose(shlex.split(overrides)))
    assert config.datamodule.task is not None
    assert not ROWS[overrides].prompt or config.datamodule.task == "language_modelling"


@pytest.mark.parametrize(("path", "text"), list(updated_files()), ids=lambda value: getattr(value, "name", "text"))
def test_tables_are_up_to_date(path: Path, text: str) -> None:
    assert path.read_text(encoding="utf-8") == text, "python -m docs.results updates it"


def test_every_result_belongs_to_a_row_and_has_its_metrics() -> None:
    assert len(ROWS) == len(rows()) and set(page.results()) <= set(ROWS), (
        f"{DEFINITIONS.name} no longer has a row of these results"
    )
    for overrides, runs in page.results().items():
        assert len({run.seed for run in runs}) == len(runs)
        for run in runs:
            assert run.recipe == recipe(ROWS[overrides]), f"{overrides} was changed: python -m docs.results {overrides}"
            assert set(ROWS[overrides].goals) <= set(run.metrics) and bool(run.sample) == bool(ROWS[overrides].prompt)


@pytest.mark.parametrize("overrides", page.results())
def test_readme_shows_the_mean_over_the_seeds(overrides: str) -> None:
    lines = [line for line in page.README.read_text(encoding="utf-8").splitlines() if line.endswith(f"{overrides}` |")]
    cells = [cell.strip() for cell in lines[0].split("|")]
    runs = page.results()[overrides]
    for cell, name in zip(cells[5].split(" / "), ROWS[overrides].goals, strict=True):
        number, *std = re.findall(r"[\d.]+", cell)
        unit = 100 if "%" in cell else 1
        values = unit * np.array([run.metrics[name] for run in runs])
        half = 0.5 * 10 ** -len(number.partition(".")[2]) + 1e-9
        assert float(number) == pytest.approx(values.mean(), abs=half)
        if len(runs) > 1:
            assert float(std[0]) == pytest.approx(values.std(ddof=1), abs=half)
    assert cells[6] == str(len(runs))


def test_goals_are_compared_with_the_mean_over_the_seeds() -> None:
    better, worse = replace(RUN, metrics={"test/accuracy": 0.92}), replace(RUN, metrics={"test/accuracy": 0.89})
    assert (
        reaches_goals(ROW, [RUN])
        and reaches_goals(ROW, [better, worse])
        and not reaches_goals(ROW, [worse])
        and not reaches_goals(ROW, [])
    )
    row_with_loss = replace(ROW, goals={"test/loss": 1.88, "test/accuracy": None})
    runs = [replace(RUN, metrics={"test/loss": loss, "test/accuracy": 0.1}) for loss in (1.87, 1.89, 1.9)]
    assert (
        reaches_goals(row_with_loss, runs[:1])
        and reaches_goals(row_with_loss, runs[:2])
        and not reaches_goals(row_with_loss, runs)
    )


def test_result_replaces_an_older_one_of_the_same_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "RESULTS", tmp_path / "results.json")
    newer = replace(RUN, metrics={"test/accuracy": 0.8})
    for run in (replace(RUN, seed=1), RUN, newer):
        save_result(ROW, run)
    assert page.results() == {ROW.overrides: [newer, replace(RUN, seed=1)]}


def test_recipe_depends_on_the_overrides_and_the_experiment_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "CONF", tmp_path)
    (tmp_path / "experiment").mkdir()
    base, derived = (tmp_path / "experiment" / f"{name}.yaml" for name in ("base", "built"))
    row = replace(ROW, overrides="experiment=built")

    def digest(base_text: str, derived_text: str, overrides: str = "experiment=built") -> str:
        base.write_text(f"defaults: [{{override /model: mlp}}]\n{base_text}\n")
        derived.write_text(f"defaults: [base]\n{derived_text}\n")
        return recipe(replace(row, overrides=overrides))

    original = digest("seed: 1", "tags: [a]")
    assert original == digest("seed: 1   # with a reason", "tags: [a]")
    changed = [digest("seed: 2", "tags: [a]"), digest("seed: 1", "tags: [b]")]
    assert len({original, *changed, digest("seed: 1", "tags: [a]", "experiment=built optimizer=sgd")}) == 4


@pytest.fixture
def finished_run(tmp_path: Path) -> RunFolder:
    """Return a finished run of a row, with another seed, other folders and other callbacks."""
    overrides = [
        ROW.overrides,
        "seed=3",
        "logger=none",
        "callbacks=quiet",
        f"paths.outputs={tmp_path}",
        "paths.data=/data",
    ]
    folder = RunFolder.create(tmp_path / "run", check(compose(overrides)).plain(), [])
    folder.finish({"test/accuracy": 0.9})
    return folder


def test_run_matches_the_row_with_its_config(finished_run: RunFolder) -> None:
    assert matching_row(RunFolder.open(finished_run.path)).overrides == ROW.overrides


def test_unfinished_run_and_run_of_other_config_are_refused(finished_run: RunFolder, tmp_path: Path) -> None:
    other = RunFolder.create(tmp_path / "other", check(compose([ROW.overrides, "optimizer.lr=0.01"])).plain(), [])
    with pytest.raises(UserError, match="the run is running, and only a finished one is a result"):
        matching_row(other)
    other.finish({"test/accuracy": 0.99})
    with pytest.raises(UserError, match="has its config"):
        matching_row(RunFolder.open(other.path))
