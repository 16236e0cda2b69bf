"""Members that fail, stop early, are resumed, evaluated and asked as if they had been runs of their own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from src.config.compose import compose
from src.config.validate import check
from src.sweeping.messages import Declined, Said
from src.training.inference import load, measure
from src.training.resume import resumed
from src.training.run import resume
from tests.fused.conftest import Both, assert_alike, checkpoint, record, rows, train_together

Words = Callable[..., list[str]]


def test_one_that_diverges_fails_alone(both: Callable[..., Both]) -> None:
    """The others end as they would without it; its own error is that of its own run."""
    shared = ["model=mlp", "datamodule=diabetes", "optimizer=sgd", "trainer.max_epochs=3", "trainer.precision=64-true"]
    found = both(shared, [["optimizer.lr=0.01"], ["optimizer.lr=1e200"], ["optimizer.lr=0.02"]])
    assert [record(folder)["status"] for folder in found.members] == ["finished", "failed", "finished"]
    last = [record(folders[1])["error"].strip().splitlines()[-1] for folders in (found.alone, found.members)]
    assert last[0] == last[1] and "the run diverged" in last[0]
    assert "the run diverged" in found.ended()[2].error
    for number in (0, 2):
        assert_alike(checkpoint(found.alone[number], "last"), checkpoint(found.members[number], "last"), 1e-10)


def test_each_stops_at_its_own_time(both: Callable[..., Both]) -> None:
    shared = ["model=mlp", "trainer.max_epochs=12", "trainer.limit_train_batches=4", "trainer.precision=64-true"]
    own = [
        ["optimizer.lr=1e-2", "regularization.early_stopping_patience=1"],
        ["optimizer.lr=1e-3", "regularization.early_stopping_patience=1"],
        ["optimizer.lr=5e-3", "regularization.early_stopping_patience=2"],
    ]
    found = both([*shared, "callbacks.early_stopping.min_delta=0.06"], own)
    epochs = [max(row["epoch"] for row in rows(folder) if "train/loss" in row) for folder in found.members]
    assert len(set(epochs)) > 1 and min(epochs) < 11, "the case is about different ends"
    for alone, member in zip(found.alone, found.members, strict=True):
        assert_alike(rows(alone), rows(member), 1e-6)
        assert_alike(record(alone), record(member), 1e-6)
        for name in ("last", "best"):
            assert_alike(checkpoint(alone, name), checkpoint(member, name), 1e-10)


@pytest.mark.slow
def test_a_member_goes_on_as_a_run_of_its_own(both: Callable[..., Both]) -> None:
    found = both(["model=mlp", "trainer.max_epochs=2", "trainer.precision=64-true"], [["seed=0"], ["seed=1"]])
    for folders in (found.alone, found.members):
        config, folder = resumed(str(folders[1]), ["trainer.max_epochs=4", f"resume={folders[1]}"])
        resume(config, folder, verbose=False)
    alone, member = found.alone[1], found.members[1]
    assert len(rows(member)) == len(rows(alone)) and record(member)["status"] == "finished"
    assert_alike(rows(alone), rows(member), 1e-6)
    for name in ("last", "best"):
        assert_alike(checkpoint(alone, name), checkpoint(member, name), 1e-10)


@pytest.mark.slow
def test_a_member_is_evaluated_and_asked(both: Callable[..., Both]) -> None:
    found = both(["model=mlp", "trainer.limit_test_batches=null"], [["seed=0"], ["seed=1"]])
    measured = [measure(load(folder), "test") for folder in (found.alone[0], found.members[0])]
    assert_alike(*measured, 1e-5)
    assert_alike(measured[1], record(found.members[0])["final"], 1e-5)


def test_what_cannot_be_fused_is_given_back(fast: Words, tmp_path: Path) -> None:
    """The plan is made from configs; that shapes of batches differ is known only when the data are there."""
    configs = [
        check(compose([*fast("model=lstm", "datamodule=text_classification"), f"seed={seed}"])).plain()
        for seed in (0, 1)
    ]
    events = train_together(configs, [tmp_path / "0", tmp_path / "1"])
    declined = [event for event in events if isinstance(event, Declined)]
    assert [event.number for event in declined] == [1, 2]
    assert "seeds differ" in declined[0].reason
    assert not (tmp_path / "0").exists()


def test_timed_steps_are_told(fast: Words, tmp_path: Path) -> None:
    configs = [check(compose([*fast("model=mlp"), f"optimizer.lr={lr}"])).plain() for lr in (1e-3, 2e-3)]
    events = train_together(configs, [tmp_path / "0", tmp_path / "1"], fuse="auto")
    (said,) = (event.text for event in events if isinstance(event, Said))
    assert "a step of 2 takes" in said and "ms one by one" in said
