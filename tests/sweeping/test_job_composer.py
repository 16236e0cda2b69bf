"""Points become configs: as Hydra would compose them, checked as a whole, none twice, frozen from then on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from src.config.compose import compose
from src.config.validate import check
from src.core.errors import UserError
from src.sweeping.job_composer import JobComposer, add_to_ledger
from src.sweeping.ledger import Ledger
from src.sweeping.search.space import Space

Make = Callable[..., JobComposer]

POINTS = [
    ["model=mlp", "optimizer.lr=0.01"],
    ["optimizer=adamw", "regularization.weight_decay=0.1", "seed=3"],
    ["model=cnn", "model.channels=[4,8]", "regularization=[dropout,l2]", "regularization.dropout=0.2"],
    ["+callbacks.mine._target_=lightning.pytorch.callbacks.Timer", "callbacks=quiet", "seed=1"],
    ["model=lstm", "optimizer.betas=[0.8,0.9]", "tags=[a,b]", "notes='some overrides'"],
    ["~callbacks.progress", "trainer.max_epochs=3", "datamodule.batch_size=16"],
    ["experiment=adam_first", "optimizer.lr=1e-2", "trainer=cpu"],
]


@pytest.mark.parametrize("overrides", POINTS, ids=lambda overrides: overrides[0])
def test_a_point_is_composed_as_hydra_would(composer: Make, overrides: list[str]) -> None:
    made = composer()
    expected = check(compose(overrides)).plain()
    for _ in range(2):  # the second time from what was composed before
        found = made.config(overrides).plain()
        assert found.pop("sweep")["name"] == "test"
        expected.pop("sweep", None)
        group = (found.get("logger") or {}).get("wandb", {}).pop("group", "test")
        (expected.get("logger") or {}).get("wandb", {}).pop("group", None)
        assert found == expected and group == "test"


def test_points_do_not_touch_each_other(composer: Make) -> None:
    made = composer()
    rates = [made.config([f"optimizer.lr={lr}"]).optimizer.lr for lr in (0.1, 0.2, 0.1)]  # type: ignore[attr-defined]
    assert rates == [0.1, 0.2, 0.1]
    assert made.config(["seed=0"]).optimizer.lr == 1e-3  # type: ignore[attr-defined]


def test_all_problems_are_reported_together(composer: Make, tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, "test", [])
    points = [
        ["model=mlp", "datamodule=wine"],
        ["model=transformer", "datamodule=wine"],
        ["model=mlp", "datamodule=wine", "optimizer.lr=fast"],
        ["model=mlp", "datamodule=wine", "optimizer.lrr=1"],
        ["model=mlp", "datamodule=wine", "optimizer.lr=0.001"],
        ["model=mlp", "datamodule=wine", "seed=7"],
    ]
    with pytest.raises(UserError) as message:
        add_to_ledger(ledger, composer(), points)
    text = str(message.value)
    assert "4 of 6 jobs cannot run, so none was started" in text
    assert "transformer accepts image, sequence, tokens" in text and "optimizer.lr=fast" in text
    assert "Did you mean 'lr'?" in text and "the same experiment as job model=mlp datamodule=wine" in text
    assert not (tmp_path / "ledger.jsonl").exists()


def test_jobs_that_would_share_a_checkpoint_folder_are_refused(composer: Make, tmp_path: Path) -> None:
    choice, dirpath = ["model=mlp", "datamodule=wine"], "+callbacks.checkpoints.dirpath="
    separate = [[*choice, f"seed={seed}", f"{dirpath}/scratch/{seed}"] for seed in (1, 2)]
    assert len(add_to_ledger(Ledger.create(tmp_path / "separate", "separate", []), composer(), separate)) == 2
    shared = [[*choice, f"seed={seed}", f"{dirpath}/scratch"] for seed in (1, 2)]
    with pytest.raises(UserError, match=r"callbacks.checkpoints.dirpath=/scratch is also the folder of job .* seed=1"):
        add_to_ledger(Ledger.create(tmp_path / "shared", "shared", []), composer(), shared)


def test_no_more_than_ten_problems_are_looked_for(composer: Make, tmp_path: Path) -> None:
    points = [[f"optimizer.lr=-{number}"] for number in range(1, 40)]
    with pytest.raises(UserError) as message:
        add_to_ledger(Ledger.create(tmp_path, "test", []), composer(), [["optimizer.lr=1"], *points])
    assert str(message.value).startswith("10 of the first 11 of 40 jobs cannot run, so none was started:")
    assert str(message.value).count("must be") == 10


def test_overrides_that_hydra_cannot_parse_are_reported_with_their_job(composer: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)2 of 3 jobs.*model must be chosen.*no such option"):
        add_to_ledger(Ledger.create(tmp_path, "test", []), composer(), [["model=mlp"], ["model=null"], ["model=mlpp"]])


def test_more_folds_than_examples_are_rejected_before_the_first_job(composer: Make, tmp_path: Path) -> None:
    folds = [["datamodule=wine", "cross_validation.folds=500", f"cross_validation.fold={n}"] for n in range(1, 501)]
    with pytest.raises(UserError, match=r"10 of the first 10 of 500 jobs(?s:.*)only \d+ examples can be divided"):
        add_to_ledger(Ledger.create(tmp_path, "test", []), composer(), folds)


def test_an_error_of_several_jobs_is_reported_once(composer: Make, tmp_path: Path) -> None:
    overrides = ["datamodule=wine", "cross_validation.folds=150"]
    points = [[*overrides, f"seed={seed}", f"cross_validation.fold={n}"] for seed in (1, 2) for n in (1, 2, 3)]
    with pytest.raises(UserError) as message:
        add_to_ledger(
            Ledger.create(tmp_path, "test", []), composer(), [*points, ["datamodule=wine", "optimizer.lr=-1"]]
        )
    first, same, other = str(message.value).splitlines()
    assert first == "7 of 7 jobs cannot run, so none was started:"
    assert same.startswith("6 jobs, such as cross_validation.folds=150 seed=1 cross_validation.fold=1: ")
    assert other.startswith("job ") and "optimizer.lr=-1" in other


def test_too_many_jobs_are_rejected() -> None:
    for overrides in (["seed=range(0,1000000000)"], ["seed=range(0,1000)", "model.x=range(0,1000)"]):
        with pytest.raises(UserError, match="jobs, but a sweep has at most 100,000"):
            list(Space.of(overrides).grid())


def test_a_long_check_prints_its_progress(
    composer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("src.sweeping.job_composer.PROGRESS_SECONDS", 0.0)
    add_to_ledger(Ledger.create(tmp_path, "test", []), composer(), [["seed=1"], ["seed=2"]])
    assert capsys.readouterr().out.splitlines() == ["checked 1 of 2 jobs", "checked 2 of 2 jobs"]


def test_jobs_keep_the_config_that_they_were_frozen_with(composer: Make, tmp_path: Path) -> None:
    points = [[f"optimizer.lr={lr}"] for lr in (0.1, 0.2)]
    ledger = Ledger.create(tmp_path, "test", [])
    add_to_ledger(ledger, composer(), points)
    ledger.save()

    class Edited:
        """conf/ as somebody changes it while the sweep runs."""

        def config(self, overrides: list[str]) -> None:
            raise AssertionError("composed again")

    again = Ledger.open(tmp_path)
    jobs = add_to_ledger(again, Edited(), points)  # type: ignore[arg-type]
    assert [again.config(job)["optimizer"]["lr"] for job in jobs] == [0.1, 0.2]
