"""All verbs that open a run, a checkpoint, a sweep or a folder of them, with the records that they read."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.security.harness import Case

ArgvBuilder = Callable[[Case], list[object]]


class Verb(NamedTuple):
    """A command.

    Attributes:
        module: of the command, whose ``main`` is called.
        argv: returns the arguments of the command line for a case.
        reads: the records that can affect it; the whole suite tries all records with every verb.
        seconds: time limit.
    """

    module: str
    argv: ArgvBuilder
    reads: tuple[str, ...]
    seconds: float = 10.0


CHECKPOINT = "checkpoints/best.ckpt"
LAST = "checkpoints/last.ckpt"
RUN_RECORDS = ("run.json", "config.yaml", "metrics.jsonl", "predictions.json", CHECKPOINT, LAST)
SWEEP_RECORDS = ("ledger.jsonl", "states.jsonl")
STUDY = "study.journal"
"""The record of a search by Optuna, which the ordinary sweep does not have."""

_SHOWN = ("run.json", "config.yaml", "metrics.jsonl", "predictions.json", *SWEEP_RECORDS)
_USED = ("run.json", "config.yaml", "predictions.json", "metrics.jsonl", CHECKPOINT)


def _runs(*argv: object, last: Callable[[Case], list[object]] = lambda case: []) -> ArgvBuilder:
    def made(case: Case) -> list[object]:
        names = {"RUN": case.run, "SWEEP": case.sweep}
        return ["--outputs", case.outputs, *(names.get(str(argument), argument) for argument in argv), *last(case)]

    return made


VERBS: dict[str, Verb] = {
    "list": Verb("src.runs", _runs("list"), _SHOWN),
    "list_json": Verb("src.runs", _runs("list", "--json", "--archived"), _SHOWN),
    "list_condition": Verb("src.runs", _runs("list", "optimizer=adam", "val/loss<100", "seed=0"), _SHOWN),
    "show": Verb("src.runs", _runs("show", "RUN"), _SHOWN),
    "tag": Verb("src.runs", _runs("tag", "RUN", "baseline"), ("run.json", "config.yaml")),
    "note": Verb("src.runs", _runs("note", "RUN", "some text"), ("run.json", "config.yaml")),
    "archive": Verb("src.runs", _runs("archive", "RUN"), ("run.json", "config.yaml")),
    "archive_sweep": Verb("src.runs", _runs("archive", "SWEEP"), SWEEP_RECORDS),
    "restore": Verb("src.runs", _runs("restore", "RUN"), ("run.json", "config.yaml")),
    "delete": Verb("src.runs", _runs("delete", "--yes", "RUN"), ("run.json", "config.yaml")),
    "delete_sweep": Verb("src.runs", _runs("delete", "--yes", "SWEEP"), SWEEP_RECORDS),
    "rerun": Verb("src.runs", _runs("rerun", "RUN", "trainer.max_epochs=1"), ("run.json", "config.yaml"), 20.0),
    "runs_export": Verb("src.runs", _runs("export", "RUN", last=lambda case: [case.out / "packed"]), _USED, 20.0),
    "evaluate": Verb("src.evaluate", lambda case: [case.run], _USED),
    "evaluate_checkpoint": Verb("src.evaluate", lambda case: [case.run / CHECKPOINT, "--json"], (CHECKPOINT,)),
    "predict": Verb("src.predict", lambda case: [case.run, ",".join(["3"] * 64)], _USED),
    "predict_file": Verb(
        "src.predict",
        lambda case: [case.run, ",".join(["3"] * 64), "--output", case.out / "predictions.csv"],
        _USED,
    ),
    "export": Verb("src.export", lambda case: [case.run, "--format", "torch", "--to", case.out / "made"], _USED, 20.0),
    "compare": Verb("src.compare", lambda case: [case.outputs, "--into", case.out], _SHOWN, 20.0),
    "compare_sweep": Verb("src.compare", lambda case: [case.sweep, "--into", case.out], _SHOWN, 20.0),
    "compare_page": Verb(
        "src.compare", lambda case: [case.outputs, "--plots", "--html", "--into", case.out], _SHOWN, 40.0
    ),
    "compare_diff": Verb("src.compare", lambda case: [case.outputs, "--diff", "1", "2"], _SHOWN, 20.0),
    **{
        f"compare_{name}": Verb("src.compare", lambda case, name=name: [case.outputs, "--export", name], _SHOWN, 20.0)  # type: ignore[misc]
        for name in ("csv", "json", "markdown", "latex")
    },
    "sync": Verb("src.sync", lambda case: [case.outputs, "--dry-run"], _SHOWN),
    "resume": Verb(
        "src.train", lambda case: [f"resume={case.run}", "trainer.max_epochs=2"], (*RUN_RECORDS, *SWEEP_RECORDS), 20.0
    ),
    "plan_sweep": Verb(
        "src.train", lambda case: ["-m", f"sweep.resume={case.sweep}", "sweep.dry_run=true"], SWEEP_RECORDS, 20.0
    ),
}
"""By name. ``sweep.resume`` without a dry run, which starts processes, has a file of its own."""

QUICK = (
    "list",
    "list_json",
    "list_condition",
    "show",
    "tag",
    "note",
    "archive",
    "restore",
    "sync",
    "evaluate",
    "predict_file",
)
"""The verbs whose cases take a fraction of a second."""


def main_of(verb: Verb) -> Callable[[list[str]], Any]:
    """Return the function that a command line calls."""
    return importlib.import_module(verb.module).main


def attack(case: Case, name: str) -> list[str]:
    """Run a verb on a hostile case, and return its faults."""
    verb = VERBS[name]
    return case.open(main_of(verb), verb.argv(case), verb.seconds)


def records_of(case: Case, file: str) -> Path:
    """Return where a record is in a case: in the run, or in the sweep."""
    return (case.sweep if file in (*SWEEP_RECORDS, STUDY) else case.run) / file
