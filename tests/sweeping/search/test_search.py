"""Searches through the real launch and driver, over an executor whose jobs are formulas: what is proposed, what is ended
early, what a killed search does next.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from optuna.trial import TrialState

from src.config.isolated_hydra import isolated_hydra
from src.core.errors import UserError
from src.sweeping.launchers.base import Executor
from src.sweeping.ledger import Ledger
from src.sweeping.messages import PRUNE, Assignment, Ended, Event, Progress
from src.sweeping.search.optuna_study import FILE, _storage
from src.sweeping.sweep import launch

Curve = Callable[[dict[str, Any]], Sequence[float]]
LR = "optimizer.lr=tag(log,interval(1e-4,1e-1))"


class Killed(BaseException):
    """The driver is gone, without a chance to write anything."""


class Formulas(Executor):
    """Runs jobs whose val/loss of each epoch is a function of their config, and leaves their records.

    Args:
        curve: val/loss of each epoch.
        width: jobs at a time, which advance in turn.
        killed_at: the epoch, of all jobs together, at which the driver dies.
    """

    def __init__(self, curve: Curve, width: int = 1, killed_at: int | None = None) -> None:
        self._curve = curve
        self._width = width
        self._left = killed_at
        self._running: dict[int, tuple[Assignment, list[float]]] = {}
        self._stopped: list[Ended] = []
        self.ran: list[str] = []

    @property
    def width(self) -> int:
        return self._width

    def room(self, assignment: Assignment) -> bool:
        return len(self._running) < self._width

    def start(self, assignment: Assignment) -> None:
        self.ran.append(assignment.folder.name)
        self._running[assignment.number] = assignment, []

    def wait(self, timeout: float) -> list[Event]:
        events: list[Event] = [*self._stopped]
        self._stopped.clear()
        for number, (assignment, seen) in list(self._running.items()):
            if self._left is not None:
                self._left -= 1
                if self._left < 0:
                    raise Killed
            curve = self._curve(assignment.config)
            seen.append(curve[len(seen)])
            events.append(Progress(number, len(seen) - 1, len(curve), {"val/loss": seen[-1]}))
            if len(seen) == len(curve):
                events.append(self._end(number, "finished"))
        return events

    def stop(self, order: str, number: int | None = None) -> None:
        assert order == PRUNE and number is not None
        if number in self._running:
            self._stopped.append(self._end(number, "pruned"))

    def _end(self, number: int, status: str) -> Ended:
        assignment, seen = self._running.pop(number)
        folder = assignment.folder
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("seed: 0\n")
        rows = [{"epoch": epoch, "step": epoch, "val/loss": value} for epoch, value in enumerate(seen)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        best = {"val/loss": min(seen)}
        record = {"status": "finished" if status == "finished" else "interrupted", "monitor": "val/loss", "mode": "min"}
        record |= {"value": min(seen), "best": best} if status == "finished" else {}
        size = assignment.config["model"]["hidden_sizes"][0]
        (folder / "run.json").write_text(json.dumps(record | {"parameters": size, "seconds": 1.0}))
        return Ended(number, status)

    def kill(self) -> None:
        pass

    def close(self) -> None:
        pass


Search = Callable[..., Formulas]


@pytest.fixture
def search(tmp_path: Path) -> Search:
    """Return a function that runs a sweep of some overrides on formulas."""

    def run(overrides: Sequence[str], curve: Curve, width: int = 1, killed_at: int | None = None) -> Formulas:
        made = Formulas(curve, width, killed_at)
        shared = ["logger=none", f"paths.outputs={tmp_path}", "sweep.name=s"]
        own = [override for override in overrides if override.startswith("sweep.resume=")]
        with isolated_hydra():
            loader = GlobalHydra.instance().config_loader()
            about = own or [*shared, *(override for override in overrides if override.startswith(("search", "sweep.")))]
            master = loader.load_configuration("train", about, RunMode.MULTIRUN)
            try:
                launch(loader, master, [own or [*shared, *overrides]], lambda folder: made)
            except Killed:
                assert killed_at is not None
        return made

    return run


def study_of(tmp_path: Path) -> optuna.Study:
    storage = _storage(tmp_path / "sweeps" / "s")
    (summary,) = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=summary.study_name, storage=storage)


def bowl(config: dict[str, Any]) -> list[float]:
    """Return the distance from lr 10^-2.4, dropout 0.3 and weight decay 10^-4.3, in decades and tenths."""
    knobs = config["regularization"]
    x = np.log10(config["optimizer"]["lr"]) + 2.4, (knobs["dropout"] - 0.3) * 5, np.log10(knobs["weight_decay"]) + 4.3
    return [float(np.square(x).sum())]


def check_equals_the_ledger(tmp_path: Path) -> None:
    """Every trial is a job with the value and the parameters of its record, and every job a trial."""
    study, ledger = study_of(tmp_path), Ledger.open(tmp_path / "sweeps" / "s")
    jobs = {job.slug: job for job in ledger.jobs}
    assert {trial.user_attrs["job"] for trial in study.trials} == set(jobs)
    states = ledger.states()
    for trial in study.trials:
        job = jobs[trial.user_attrs["job"]]
        assert trial.state == {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}[states[job.number].status]
        if trial.state == TrialState.COMPLETE:
            assert trial.values[0] == states[job.number].value
        overrides = dict(override.partition("=")[::2] for override in job.overrides)
        for key, value in trial.params.items():
            assert (
                float(overrides[key]) == pytest.approx(value, rel=1e-3)
                if isinstance(value, float)
                else overrides[key] == value
            )


SPACE = [LR, "regularization.dropout=interval(0.0,0.7)", "regularization.weight_decay=tag(log,interval(1e-6,1e-2))"]


@pytest.mark.slow
@pytest.mark.req("H3")
def test_tpe_finds_better_points_than_random_draws(search: Search, tmp_path: Path) -> None:
    best: dict[str, list[float]] = {"random": [], "optuna": []}
    for method, found in best.items():
        for seed in (0, 1, 2):
            name = f"sweep.name={method}{seed}"
            search([*SPACE, f"search={method}", "search.trials=40", f"search.seed={seed}", name], bowl)
            states = Ledger.open(tmp_path / "sweeps" / f"{method}{seed}").states().values()
            assert len(states) == 40
            found.append(min(float(state.value or 0.0) for state in states))
    assert np.mean(best["optuna"]) < 0.5 * np.mean(best["random"]), best
    assert max(best["optuna"]) < np.median(best["random"]), best


@pytest.mark.req("H3")
@pytest.mark.parametrize(
    "sampler", [pytest.param("gp", marks=pytest.mark.slow), "qmc", pytest.param("nsgaii", marks=pytest.mark.slow)]
)
def test_every_sampler_proposes(search: Search, tmp_path: Path, sampler: str) -> None:
    overrides = [LR, "model.hidden_sizes=[4],[8],[16]", "regularization.dropout=range(0.1,0.6,0.1)", "search=optuna"]
    search([*overrides, f"search.sampler={sampler}", "search.trials=12"], lambda config: [config["optimizer"]["lr"]])
    check_equals_the_ledger(tmp_path)
    assert len(study_of(tmp_path).trials) == 12


@pytest.mark.slow
@pytest.mark.req("H3")
def test_a_killed_search_continues_as_it_would_have(search: Search, tmp_path: Path) -> None:
    curve: Curve = lambda config: [bowl(config)[0] + 1 / epoch for epoch in (1, 2)]  # noqa: E731
    overrides = [*SPACE, "search=optuna", "search.trials=13"]
    undisturbed = search([*overrides, "sweep.name=undisturbed"], curve)
    ran: list[str] = []
    for killed_at in (0, 3, 14, 3, None):
        now = search(overrides, curve, killed_at=killed_at).ran
        assert now[0] == ran[-1] if ran else True, "the job that was killed is resumed"
        ran += now[bool(ran) :]
    assert ran == undisturbed.ran
    check_equals_the_ledger(tmp_path)
    assert search(overrides, curve).ran == []
    more = search([*overrides[:-1], "search.trials=15"], curve)
    assert len(more.ran) == 2 and not set(more.ran) & set(ran)


@pytest.mark.req("H3")
def test_a_trial_whose_job_was_not_written_down_is_not_lost(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between what Optuna wrote and what the ledger would have."""
    undisturbed = search([LR, "search=optuna", "search.trials=5", "sweep.name=undisturbed"], lambda config: [1.0])
    appended = Ledger.append

    def dies(ledger: Ledger, job: Any) -> None:
        if job.number == 3:
            raise Killed
        appended(ledger, job)

    monkeypatch.setattr(Ledger, "append", dies)
    first = search([LR, "search=optuna", "search.trials=5"], lambda config: [1.0], killed_at=1000)
    monkeypatch.setattr(Ledger, "append", appended)
    with (tmp_path / "sweeps" / "s" / FILE).open("a") as file:
        file.write('{"op_code": 4, "torn')
    again = search([f"sweep.resume={tmp_path / 'sweeps' / 's'}"], lambda config: [1.0])
    assert [*first.ran, *again.ran] == undisturbed.ran
    check_equals_the_ledger(tmp_path)


@pytest.mark.req("H3")
def test_a_point_that_is_proposed_again_is_not_trained_again(search: Search, tmp_path: Path) -> None:
    done = search(
        ["model.hidden_sizes=[4],[8],[16]", "search=optuna", "search.trials=20"], lambda config: [1.0], width=3
    )
    assert len(done.ran) == len(set(done.ran)) == 3, "and the search ends when nothing new comes"
    assert {trial.state for trial in study_of(tmp_path).trials} == {TrialState.COMPLETE}


# ---- jobs that are ended early --------------------------------------------------------------------------------------

DICE = np.random.default_rng(5)
CURVES = {seed: (DICE.uniform(0, 1) + DICE.uniform(0, 1, 9) / np.arange(1, 10)).tolist() for seed in range(16)}
SEEDS = f"seed={','.join(map(str, CURVES))}"


def lengths(tmp_path: Path) -> dict[int, int]:
    """Return how many epochs each seed had."""
    ledger = Ledger.open(tmp_path / "sweeps" / "s")
    return {
        ledger.config(job)["seed"]: len((ledger.path(job) / "metrics.jsonl").read_text().splitlines())
        for job in ledger.jobs
    }


@pytest.mark.req("H3")
def test_the_median_rule(search: Search, tmp_path: Path) -> None:
    """A job ends once its best value so far is worse than the median of the jobs that finished, at the same epoch."""
    search([SEEDS, "search.pruner=median", "search.startup_jobs=4", "search.warmup_epochs=2"],
           lambda config: CURVES[config["seed"]])  # fmt: skip
    finished: list[list[float]] = []
    expected = {}
    for seed, curve in CURVES.items():
        expected[seed] = len(curve)
        for epochs in range(2, len(curve) + 1):
            if len(finished) >= 4 and min(curve[:epochs]) > np.median([other[epochs - 1] for other in finished]):
                expected[seed] = epochs
                break
        else:
            finished.append(curve)
    found = lengths(tmp_path)
    assert found == expected and 2 in found.values() and 9 in found.values()
    states = Ledger.open(tmp_path / "sweeps" / "s").states()
    for job in Ledger.open(tmp_path / "sweeps" / "s").jobs:
        record = json.loads((tmp_path / "sweeps" / "s" / job.slug / "run.json").read_text())
        curve = CURVES[int(job.label[0].partition("=")[2])][: found[int(job.label[0].partition("=")[2])]]
        assert record["status"] == states[job.number].status in ("finished", "pruned")
        assert record["value"] == record["best"]["val/loss"] == min(curve), "it has the best value so far"


@pytest.mark.req("H3")
def test_successive_halving(search: Search, tmp_path: Path) -> None:
    """Rungs after 1, 3 and 9 epochs; a job leaves a rung if it is among the best third that came there, or the first."""
    search([SEEDS, "search.pruner=successive_halving"], lambda config: CURVES[config["seed"]])
    rungs: dict[int, list[float]] = {1: [], 3: [], 9: []}
    expected = {}
    for seed, curve in CURVES.items():
        expected[seed] = 9
        for epochs, values in rungs.items():
            values.append(curve[epochs - 1])
            if sorted(values).index(values[-1]) >= max(len(values) // 3, 1):
                expected[seed] = epochs
                break
    assert lengths(tmp_path) == expected and set(expected.values()) == {1, 3, 9}


@pytest.mark.req("H3")
@pytest.mark.parametrize("method", [pytest.param("random", marks=pytest.mark.slow), "optuna"])
def test_hyperband_ends_jobs_in_every_search(search: Search, tmp_path: Path, method: str) -> None:
    def curve(config: dict[str, Any]) -> list[float]:
        return [abs(np.log10(config["optimizer"]["lr"]) + 2.4) + 1 / epoch for epoch in range(1, 10)]

    overrides = [LR, f"search={method}", "search.trials=20", "search.pruner=hyperband", "trainer.max_epochs=9"]
    search(overrides, curve, width=3)
    ledger = Ledger.open(tmp_path / "sweeps" / "s")
    statuses = [state.status for state in ledger.states().values()]
    assert {"finished", "pruned"} == set(statuses) and len(statuses) == 20
    spent = sum(len((ledger.path(job) / "metrics.jsonl").read_text().splitlines()) for job in ledger.jobs)
    assert spent < 0.75 * 20 * 9
    assert search(overrides, curve).ran == [], "what was pruned is not run again"


# ---- several objectives ---------------------------------------------------------------------------------------------


@pytest.mark.req("H3")
def test_the_pareto_front_is_shown(search: Search, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [LR, "model.hidden_sizes=[4],[8],[16]", "search=optuna", "search.objectives=[val/loss,parameters]"]
    search([*overrides, "search.trials=25"], lambda config: [abs(np.log10(config["optimizer"]["lr"]) + 2)])
    ledger = Ledger.open(tmp_path / "sweeps" / "s")
    points = {}
    for job in ledger.jobs:
        record = json.loads((ledger.path(job) / "run.json").read_text())
        points[job.slug] = record["value"], record["parameters"]
    front = {
        name
        for name, (loss, size) in points.items()
        if not any(l <= loss and s <= size and (l, s) != (loss, size) for l, s in points.values())  # noqa: E741
    }
    out = capsys.readouterr().out
    shown = out[out.index("Pareto front") :]
    assert {name for name in points if name in shown} == front and len(front) > 1
    assert shown.count("hidden_sizes--") == len(front), "each once"


# ---- user errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([LR], "search=random and search=optuna sample from it"),
        (["seed=0", "search=random"], "nothing is varied"),
        ([LR, "search=random", "cross_validation.fold=1,2"], "every fold of every point"),
        ([LR, "search=optuna", "search.sampler=tpp"], r"search.sampler=tpp: Did you mean 'tpe'\?"),
        ([LR, "search=random", "search.trials=0"], "search.trials=0: must"),
        ([LR, "search=random", "search.trials=100001"], "search.trials=100001: must"),
        ([LR, "search=optuna", "search.objectives=[val/los]"], r"Did you mean 'val/loss'\?"),
        ([LR, "search=optuna", "search.objectives=[val/rmse]"], "val/rmse"),
        ([LR, "search=optuna", "search.objectives=[val/loss,seconds]", "search.pruner=median"], "search.pruner=none"),
        (["seed=0,1", "search.pruner=mediann"], r"Did you mean 'median'\?"),
        (["optimizer.lr=interval(-1,1)", "search=optuna"], "optimizer.lr=-1"),
        (["optimizer.lrr=interval(0.1,1)", "search=optuna"], "has no key 'lrr'"),
        (["datamodule.batch_size=interval(8,64)", "search=random"], r"use int\(interval"),
        (
            ["datamodule=digits,diabetes", "monitor=val/loss,val/mse", "search.pruner=median"],
            "monitor different metrics|val/mse",
        ),
    ],
)
def test_an_invalid_search_is_rejected_before_any_job_runs(
    search: Search, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        search(overrides, lambda config: [1.0])
    assert not (tmp_path / "sweeps").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["random", "optuna"])
def test_a_dry_run_writes_nothing(
    search: Search, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    overrides = [LR, "model.hidden_sizes=[4],[8]", f"search={method}", "search.trials=4", "sweep.dry_run=true"]
    assert search(overrides, lambda config: [1.0]).ran == []
    out = capsys.readouterr().out
    assert "this was a dry run" in out and "parameters" in out
    assert not (tmp_path / "sweeps").exists()
