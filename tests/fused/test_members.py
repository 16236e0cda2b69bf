"""Members that fail, stop early, are resumed, evaluated and loaded as if they had been separate runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from src.config.compose import compose
from src.config.validate import check
from src.sweeping.messages import Message, Rejected
from src.training.inference import evaluate_split, load
from src.training.resume import prepare_resume
from src.training.run import resume
from tests.fused.conftest import RunPairs, assert_equal_within, checkpoint, record, rows, train_together

Overrides = Callable[..., list[str]]


def test_diverging_member_does_not_affect_the_others(run_pairs: Callable[..., RunPairs]) -> None:
    """The others end as in their separate runs; its own error is that of its separate run."""
    shared = ["model=mlp", "datamodule=diabetes", "optimizer=sgd", "trainer.max_epochs=3", "trainer.precision=64-true"]
    pairs = run_pairs(shared, [["optimizer.lr=0.01"], ["optimizer.lr=1e200"], ["optimizer.lr=0.02"]])
    assert [record(folder)["status"] for folder in pairs.members] == ["finished", "failed", "finished"]
    last = [record(folders[1])["error"].strip().splitlines()[-1] for folders in (pairs.separate, pairs.members)]
    assert last[0] == last[1] and "the run diverged" in last[0]
    assert "the run diverged" in pairs.ended()[2].error
    for number in (0, 2):
        assert_equal_within(
            checkpoint(pairs.separate[number], "last"), checkpoint(pairs.members[number], "last"), 1e-10
        )


def test_each_member_stops_early_at_its_own_epoch(run_pairs: Callable[..., RunPairs]) -> None:
    shared = ["model=mlp", "trainer.max_epochs=12", "trainer.limit_train_batches=4", "trainer.precision=64-true"]
    own = [
        ["optimizer.lr=1e-2", "regularization.early_stopping_patience=1"],
        ["optimizer.lr=1e-3", "regularization.early_stopping_patience=1"],
        ["optimizer.lr=5e-3", "regularization.early_stopping_patience=2"],
    ]
    pairs = run_pairs([*shared, "callbacks.early_stopping.min_delta=0.06"], own)
    epochs = [max(row["epoch"] for row in rows(folder) if "train/loss" in row) for folder in pairs.members]
    assert len(set(epochs)) > 1 and min(epochs) < 11, "the case is about different ends"
    for separate, member in zip(pairs.separate, pairs.members, strict=True):
        assert_equal_within(rows(separate), rows(member), 1e-6)
        assert_equal_within(record(separate), record(member), 1e-6)
        for name in ("last", "best"):
            assert_equal_within(checkpoint(separate, name), checkpoint(member, name), 1e-10)


@pytest.mark.slow
def test_member_is_resumed_as_a_separate_run(run_pairs: Callable[..., RunPairs]) -> None:
    pairs = run_pairs(["model=mlp", "trainer.max_epochs=2", "trainer.precision=64-true"], [["seed=0"], ["seed=1"]])
    for folders in (pairs.separate, pairs.members):
        config, folder = prepare_resume(str(folders[1]), ["trainer.max_epochs=4", f"resume={folders[1]}"])
        resume(config, folder, verbose=False)
    separate, member = pairs.separate[1], pairs.members[1]
    assert len(rows(member)) == len(rows(separate)) and record(member)["status"] == "finished"
    assert_equal_within(rows(separate), rows(member), 1e-6)
    for name in ("last", "best"):
        assert_equal_within(checkpoint(separate, name), checkpoint(member, name), 1e-10)


@pytest.mark.slow
def test_member_is_loaded_and_evaluated(run_pairs: Callable[..., RunPairs]) -> None:
    pairs = run_pairs(["model=mlp", "trainer.limit_test_batches=null"], [["seed=0"], ["seed=1"]])
    measured = [evaluate_split(load(folder), "test") for folder in (pairs.separate[0], pairs.members[0])]
    assert_equal_within(*measured, 1e-5)
    assert_equal_within(measured[1], record(pairs.members[0])["final"], 1e-5)


def test_jobs_that_cannot_be_fused_are_rejected(fast: Overrides, tmp_path: Path) -> None:
    """Groups are formed from configs; that the shapes of batches differ is known only when the data are loaded."""
    configs = [
        check(compose([*fast("model=lstm", "datamodule=text_classification"), f"seed={seed}"])).plain()
        for seed in (0, 1)
    ]
    events = train_together(configs, [tmp_path / "0", tmp_path / "1"])
    rejections = [event for event in events if isinstance(event, Rejected)]
    assert [event.number for event in rejections] == [1, 2]
    assert "seeds of the jobs differ" in rejections[0].reason
    assert not (tmp_path / "0").exists()


def test_timed_steps_are_reported(fast: Overrides, tmp_path: Path) -> None:
    configs = [check(compose([*fast("model=mlp"), f"optimizer.lr={lr}"])).plain() for lr in (1e-3, 2e-3)]
    events = train_together(configs, [tmp_path / "0", tmp_path / "1"], fuse="auto")
    (message,) = (event.text for event in events if isinstance(event, Message))
    assert "a step of 2 jobs takes" in message and "ms separately" in message
