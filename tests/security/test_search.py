"""The file of an Optuna study in a sweep, and the search that a ledger records."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src import train
from src.core.files import is_file_below
from src.sweeping.ledger import Ledger
from src.sweeping.search.space import Space
from tests.security.harness import Case, chosen, every, read_record, report, walk, with_value, write_record
from tests.security.hostile import IN_PLACE_OF_A_FILE, mutated, put
from tests.security.test_records import Attempts, report_all, strings_of, values_of
from tests.security.verbs import STUDY, VERBS, attack

optuna = pytest.importorskip("optuna")

WHOLE = [pytest.param(None, marks=pytest.mark.slow, id="whole"), pytest.param(1, id="sample")]
SEARCH = {
    "name": "optuna",
    "ranges": {},
    "pruner": "median",
    "warmup_epochs": 1,
    "startup_jobs": 1,
    "reduction_factor": 3,
    "trials": 2,
    "seed": 0,
    "sampler": "tpe",
    "objectives": None,
}


@pytest.fixture(scope="module")
def searched(ordinary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the ordinary folder, the jobs of whose sweep are the trials of a study."""
    from src.sweeping.search.objectives import Objective
    from src.sweeping.search.optuna_study import open_or_create_study

    outputs = tmp_path_factory.mktemp("searched") / "outputs"
    shutil.copytree(ordinary, outputs)
    sweep = outputs / "sweep"
    ledger = read_record(sweep / "ledger.jsonl")
    argv = [argument for argument in ledger[1]["overrides"] if not argument.startswith("seed=")]
    argv = [f"paths.outputs={outputs}" if argument.startswith("paths.outputs=") else argument for argument in argv]
    argv = ["seed=choice(0,1)", *argv]
    ledger[0]["search"] = {"settings": SEARCH, "overrides": [argv]}
    write_record(sweep / "ledger.jsonl", ledger)
    space = Space.of(argv)
    run = read_record(sweep / ledger[1]["folder"] / "run.json")
    study = open_or_create_study(sweep, (space,), (Objective(run["monitor"], run["mode"]),))
    for job in ledger[1:]:
        trial = study.ask({axis.key: axis.distribution() for axis in space.axes})
        trial.set_user_attr("job", job["folder"])
        trial.report(0.5, 1)
        study.tell(trial, 0.5)
    return outputs


@pytest.fixture
def searched_case(searched: Path, new_case: Callable[..., Case]) -> Callable[..., Case]:
    """Return a function that makes a workspace with a copy of the searched folder."""
    return lambda: new_case(searched)


@pytest.fixture
def resume_search(monkeypatch: pytest.MonkeyPatch) -> Callable[[Case, str], list[str]]:
    """Return a function that resumes a search in this process; pending jobs end before they start."""
    from src.sweeping import scheduler

    def ended(driver: Any) -> bool:
        for _ in range(5):
            if (job := driver._source.next_job()) is None:
                break
            driver._assignment(job)
            driver._source.report_end(job, driver._ledger.refresh(job))
        return True

    monkeypatch.setattr(scheduler.Driver, "run", ended)
    return lambda case, verb: case.open(train.main, ["-m", f"sweep.resume={case.sweep}"], 20, processes=True)


def test_an_ordinary_search_is_planned_and_resumed(
    searched_case: Callable[..., Case], resume_search: Callable[[Case, str], list[str]]
) -> None:
    case = searched_case()
    assert attack(case, "plan_sweep") == [] and case.code == 0, case.stderr
    assert resume_search(case, "") == [] and case.code == 0, case.stderr


@pytest.mark.slow
@pytest.mark.parametrize("make", (strings_of, values_of))
@pytest.mark.parametrize("runs", (False, True), ids=("plan", "run"))
def test_every_value_in_each_field_of_a_study(
    searched_case: Callable[..., Case],
    searched: Path,
    request: pytest.FixtureRequest,
    resume_search: Callable[[Case, str], list[str]],
    make: Callable[[str, Any], list[list[Any]]],
    runs: bool,
) -> None:
    record = read_record(searched / "sweep" / STUDY)
    attempts = Attempts(searched_case, "plan_sweep", STUDY, record, resume_search if runs else attack)
    for changes in make(STUDY, record):
        attempts.run(changes if not runs else every(changes, 12, lambda change: change.name))
    report_all(attempts, request.node.nodeid)


def search_of(outputs: Path) -> tuple[list[Any], list[tuple[str | int, ...]]]:
    """Return the ledger and its fields that are about the search."""
    ledger = read_record(outputs / "sweep" / "ledger.jsonl")
    return ledger, [at for at, _ in walk(ledger, longest=20) if at[:2] == (0, "search")]


@pytest.mark.slow
def test_every_value_in_each_field_of_a_recorded_search(
    searched_case: Callable[..., Case],
    searched: Path,
    request: pytest.FixtureRequest,
    resume_search: Callable[[Case, str], list[str]],
) -> None:
    from tests.security.hostile import STRINGS, VALUES

    ledger, fields = search_of(searched)
    values: dict[str, Any] = VALUES | STRINGS
    cases = [(".".join(map(str, at)), at, name) for at in fields for name in values]
    failures = {}
    for turn, (field, at, name) in enumerate(every(cases, 400)):
        if chosen(f"{field}={name}"):
            case = searched_case()
            write_record(case.sweep / "ledger.jsonl", with_value(ledger, at, values[name]))
            failures[f"{field}={name}"] = (attack if turn % 2 else resume_search)(case, "plan_sweep")
    report(failures, request.node.nodeid)


HOSTILE_OVERRIDES = {
    "target": "+callbacks.x._target_=canary_in_cwd.Model",
    "option by its path": "model=../../../victim/config",
    "config folder": "hydra.searchpath=[file://VICTIM]",
    "folder of hydra": "hydra.run.dir=VICTIM",
    "sweep folder of hydra": "hydra.sweep.dir=VICTIM",
    "launcher": "hydra/launcher=submitit_slurm",
    "outputs": "paths.outputs=VICTIM",
    "environment": "notes=${oc.env:AWS_SECRET_ACCESS_KEY}",
    "endless range": "seed=range(0,1000000000)",
    "many choices": "seed=choice(" + ",".join(map(str, range(20_000))) + ")",
    "nested functions": "seed=" + "sort(" * 200 + "1" + ")" * 200,
    "glob": "model=glob(*)",
    "logger": "logger=wandb",
    "name": "sweep.name=../../victim",
    "resume": "resume=VICTIM",
    "not an override": "zzhostile\x1b[2J",
    "nothing": "",
    "trust": "--trust=canary_in_cwd",
}


@pytest.mark.slow
def test_recorded_overrides_are_data(
    searched_case: Callable[..., Case],
    searched: Path,
    request: pytest.FixtureRequest,
    resume_search: Callable[[Case, str], list[str]],
) -> None:
    """The overrides of a search define the jobs that it proposes."""
    failures = {}
    for name in HOSTILE_OVERRIDES:
        for run in (attack, resume_search):
            if not chosen(name):
                continue
            case = searched_case()
            ledger, _ = search_of(searched)
            search = ledger[0]["search"]
            search["overrides"][0].append(HOSTILE_OVERRIDES[name].replace("VICTIM", str(case.victim)))
            search["settings"] = {**SEARCH, "trials": 4}
            write_record(case.sweep / "ledger.jsonl", ledger)
            (case.sweep / STUDY).unlink()
            failures[f"{name}{'' if run is attack else ', run'}"] = run(case, "plan_sweep")
    report(failures, request.node.nodeid)


@pytest.mark.parametrize("whole", WHOLE)
def test_in_place_of_a_study(
    searched_case: Callable[..., Case],
    request: pytest.FixtureRequest,
    resume_search: Callable[[Case, str], list[str]],
    whole: int | None,
) -> None:
    failures = {}
    kinds = [kind for kind in IN_PLACE_OF_A_FILE if whole is None or kind != "sparse_gigabyte"]
    for kind in every(kinds, None if whole is None else 2):
        for run in (attack, resume_search):
            if chosen(kind):
                case = searched_case()
                put(kind, case.sweep / STUDY, case.victim)
                failures[f"{kind}{'' if run is attack else ', run'}"] = run(case, "plan_sweep")
    report(failures, request.node.nodeid)


@pytest.mark.slow
def test_mutated_studies(
    searched_case: Callable[..., Case],
    request: pytest.FixtureRequest,
    resume_search: Callable[[Case, str], list[str]],
) -> None:
    failures = {}
    for number in range(200):
        if chosen(str(number)):
            case = searched_case()
            (case.sweep / STUDY).write_bytes(mutated((case.sweep / STUDY).read_bytes(), random.Random(number)))
            failures[str(number)] = (resume_search if number % 4 == 0 else attack)(case, "plan_sweep")
    report(failures, request.node.nodeid)


def test_a_study_is_not_read_as_a_pickle(searched_case: Callable[..., Case]) -> None:
    """Optuna's snapshots of a journal are pickles."""
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, ("import canary_in_cwd",)

    case = searched_case()
    for name in (f"{STUDY}.snapshot", f"{STUDY}.lock", "study.pkl"):
        (case.sweep / name).write_bytes(pickle.dumps(Evil()))
    assert attack(case, "plan_sweep") == []
    assert is_file_below(case.sweep, STUDY) and Ledger.exists(case.sweep) and "plan_sweep" in VERBS
