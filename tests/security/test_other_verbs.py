"""Verbs that take the overrides of a run, and ``doctor``, in folders into which others wrote: ``tune`` and ``preview``."""

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from src import doctor, preview, tune
from src.run_store.run_folder import RunFolder
from tests.conftest import USERS_FILES
from tests.security.conftest import SMALL
from tests.security.harness import Case, chosen, every, read_record, report, walk, with_value, write_record
from tests.security.hostile import IN_PLACE_OF_A_FILE, MARK, STRINGS, VALUES, put, string

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def imported() -> None:
    """Import what takes long before any time is measured."""
    import src.diagnostics.schedule_preview
    import src.run_store.plots
    import src.sweeping.search.optuna_study
    import src.training.build  # noqa: F401


# ---- preview ---------------------------------------------------------------------------------------------------------


def open_preview(case: Case, what: str = "schedule") -> list[str]:
    """Run ``preview``, which draws a figure into the attacker's outputs."""
    argv = [what, *SMALL, f"paths.outputs={case.outputs}"]
    if what == "augmentation":
        argv = [what, *SMALL, "model=lstm", "datamodule=text_classification", f"paths.outputs={case.outputs}"]
        argv = [argument for argument in argv if not argument.startswith(("model.", "datamodule=digits", "model=mlp"))]
        (case.cwd / "data").mkdir(exist_ok=True)
        argv += USERS_FILES["text_classification"](case.cwd / "data")
    return case.open(lambda argv: preview.main(argv), argv, 20)


def test_preview_writes_through_no_link(
    new_case: Callable[..., Case],
    request: pytest.FixtureRequest,
) -> None:
    names = ("preview", "preview/plots", "preview/plots/schedule.png", "preview/plots/.schedule.png.partial")
    cases = [(name, kind) for name in names for kind in IN_PLACE_OF_A_FILE if kind != "sparse_gigabyte"]
    failures = {}
    for name, kind in every(cases, 30):
        if chosen(f"{name}={kind}"):
            case = new_case()
            place = case.outputs / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("x")
            put(kind, place, case.victim)
            failures[f"{name}={kind}"] = open_preview(case)
    report(failures, request.node.nodeid)


@pytest.mark.parametrize("name", ("preview", "preview/plots"))
def test_preview_follows_no_link_to_a_folder(new_case: Callable[..., Case], name: str) -> None:
    case = new_case()
    (case.outputs / name).parent.mkdir(exist_ok=True)
    (case.outputs / name).symlink_to(case.victim)
    assert open_preview(case) == [] and case.code == 2


# ---- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor_in_a_hostile_working_directory(
    new_case: Callable[..., Case], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks at the folders outputs and data, and at the settings of W&B."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    settings = f"[default]\nbase_url = http://127.0.0.1:9/{MARK}\n"
    names = ("outputs", "data", "wandb", "wandb/settings", ".wandb/settings", "config-defaults.yaml", "run.json")
    cases = [(name, kind) for name in names for kind in IN_PLACE_OF_A_FILE if kind != "sparse_gigabyte"]
    failures = {}
    for name, kind in cases:
        if not chosen(f"{name}={kind}"):
            continue
        case = new_case()
        (case.cwd / "run.json").write_text("{}")
        (case.cwd / "wandb").mkdir()
        (case.cwd / "wandb" / "settings").write_text(settings)
        place = case.cwd / name
        if place.is_dir():
            shutil.rmtree(place)
        place.parent.mkdir(exist_ok=True)
        if not place.exists():
            place.write_text(settings)
        put(kind, place, case.victim)
        failures[f"{name}={kind}"] = case.open(lambda argv: doctor.main(), [], 20)
    report(failures, request.node.nodeid)


# ---- tune ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> Callable[[Case], list[str]]:
    """Return a function that tunes in this process; a job is a record without any training."""
    from src.sweeping import scheduler

    def jobs_without_training(driver: Any) -> bool:
        while (job := driver._source.next_job()) is not None:
            path = driver._ledger.path(job)
            if not (path / "run.json").exists():
                run = RunFolder.create(path, driver._ledger.config(job), ["train"])
                run.update(monitor="val/loss", mode="min", value=1.0 + job.number / 10, best={"val/loss": 1.0})
                run.update(status="finished", ended=datetime.now(UTC).isoformat(), final={"test/loss": 1.0})
                run._release()
            driver._source.report_end(job, driver._ledger.refresh(job))
        return True

    monkeypatch.setattr(scheduler.Driver, "run", jobs_without_training)

    def tuning(case: Case) -> list[str]:
        argv = [*SMALL, f"paths.outputs={case.outputs}", "budget=11"]
        return case.open(lambda argv: tune.main(), argv, 60, processes=True)

    return tuning


@pytest.fixture(scope="module")
def finished_tuning(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a place for the outputs of a tuning, which the first case fills."""
    return {"outputs": tmp_path_factory.mktemp("tuned") / "outputs"}


def tuned_case(new_case: Callable[..., Case], tuned: Callable[[Case], list[str]], finished: dict[str, Path]) -> Case:
    """Return a case whose outputs hold a finished tuning."""
    if not finished["outputs"].exists():
        case = new_case(None)
        case.outputs.mkdir()
        assert tuned(case) == [] and case.code == 0, case.stdout[-2000:] + case.stderr
        shutil.copytree(case.outputs, finished["outputs"])
    return new_case(finished["outputs"])


def test_places_of_a_tuning(
    new_case: Callable[..., Case],
    request: pytest.FixtureRequest,
    tuned: Callable[[Case], list[str]],
    finished_tuning: dict[str, Path],
) -> None:
    """Files, folders, and links in place of what a tuning wrote before."""
    tuned_case(new_case, tuned, finished_tuning)
    (folder,) = finished_tuning["outputs"].glob("tune/*")
    found = sorted(str(path.relative_to(finished_tuning["outputs"])) for path in folder.rglob("*"))
    top = [name for name in found if name.count("/") < 4 or name.endswith(("ledger.jsonl", "run.json"))]
    cases = [(name, kind) for name in top for kind in IN_PLACE_OF_A_FILE if kind != "sparse_gigabyte"]
    failures = {}
    for name, kind in every(cases, 5):
        if not chosen(f"{name}={kind}"):
            continue
        case = tuned_case(new_case, tuned, finished_tuning)
        place = case.outputs / name
        if place.is_dir():
            shutil.move(place, case.victim / "moved")
            if kind.startswith("link"):
                place.symlink_to(case.victim / "moved")
            else:
                place.write_text("x")
        if not os.path.islink(place):
            put(kind, place, case.victim)
        failures[f"{name}={kind}"] = tuned(case)
    report(failures, request.node.nodeid)


def test_records_of_a_tuning(
    new_case: Callable[..., Case],
    request: pytest.FixtureRequest,
    tuned: Callable[[Case], list[str]],
    finished_tuning: dict[str, Path],
) -> None:
    """Hostile strings and values in many fields of the records of its sweeps, a different one for each field."""
    values: list[Any] = [*STRINGS, *VALUES]
    failures = {}
    for turn, value in enumerate(every(values, 5)):
        if not chosen(str(value)):
            continue
        case = tuned_case(new_case, tuned, finished_tuning)
        files = sorted(case.outputs.rglob("ledger.jsonl" if turn % 2 else "run.json"))
        file = files[turn % len(files)]
        record = read_record(file)
        leaves = [at for at, field in walk(record) if not isinstance(field, dict | list)]
        new = string(value, case.victim) if value in STRINGS else VALUES[value]
        for at in every(leaves, 2, lambda at, turn=turn: f"{turn}{at}"):
            record = with_value(record, at, new)
        try:
            write_record(file, record)
        except UnicodeEncodeError:
            continue
        failures[str(value)] = tuned(case)
    report(failures, request.node.nodeid)
