"""Runs: python -m src.runs list | show | tag | note | archive | restore | delete | rerun | export

  python -m src.runs list optimizer=adam "val/loss<0.3"       find runs by what they were made of and reached
  python -m src.runs show a1b2c3                              one run: result, settings, where it comes from
  python -m src.runs tag a1b2c3 baseline                      --remove takes a tag away
  python -m src.runs note a1b2c3 "diverges without warm-up"
  python -m src.runs archive my_sweep                         lists leave it out; restore brings it back
  python -m src.runs delete status=failed                     asks before it deletes; --yes does not
  python -m src.runs rerun a1b2c3 seed=1                      trains it again from its frozen config
  python -m src.runs export a1b2c3 for_ann                    a folder that holds all that is needed to use it

A run is named by its folder, the end of its folder's name, its W&B id or the hash of its config; a sweep by its folder or
name; and several by a condition on keys of the config, metrics of the best epoch and of the test, status, tag, seconds.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.cli.hydra_app import add_trust_options
from src.core.console import Parser, echo
from src.core.errors import UserError
from src.core.escape import line

if TYPE_CHECKING:
    from src.run_store.archive import KeptRun


def show_list(runs: "Sequence[KeptRun]", as_json: bool = False) -> None:
    """Print runs, one a line."""
    from src.core.console import duration, number, shown
    from src.core.tables import new_table, show

    if as_json:
        for run in runs:
            echo(json.dumps({"path": str(run.path), **run.facts}, default=str))
        return
    table = new_table(
        "id",
        "started",
        "status",
        "model",
        "data",
        "metric",
        "value",
        "time",
        "tags",
        "folder",
        numbers=("value", "time"),
    )
    for run in runs:
        record, seconds = run.record, run.record.get("seconds")
        table.add_row(
            run.id,
            str(record.get("started") or "")[:16].replace("T", " "),
            run.status,
            *map(run.option, ("model", "datamodule")),
            record.get("monitor") or "",
            number(record.get("value")),
            duration(seconds) if seconds else "-",
            " ".join(run.tags),
            shown(run.path),
        )
    show(table)
    echo("1 run" if len(runs) == 1 else f"{len(runs)} runs")


def show_one(run: "KeptRun") -> None:
    """Print everything about one run that a person asks for first."""
    from src.core.console import duration, number, shown
    from src.run_store.archive import size
    from src.run_store.filters import flat, measured

    record = run.record
    wandb = record.get("wandb") or {}
    best, last = record.get("best_epoch"), (record.get("error") or "").strip().rpartition("\n")[2]
    facts = {
        "id": f"{run.id}, config {record.get('config_hash')}" + (f", W&B {wandb['id']}" if wandb.get("id") else ""),
        "sweep": run.sweep,
        "status": run.status + (", archived" if run.archived else ""),
        "error": last,
        "started": record.get("started"),
        "time": duration(record["seconds"]) if record.get("seconds") else None,
        "best": None if best is None else f"{record.get('monitor')} {number(record.get('value'))} in epoch {best + 1}",
        "parameters": f"{record['parameters']:,}" if record.get("parameters") else None,
        "tags": " ".join(run.tags),
        "notes": run.notes,
        "command": record.get("command"),
        "code": ((record.get("git") or {}).get("revision") or "")[:12],
        "W&B": wandb.get("url"),
        "size": f"{size(run.path) / 1e6:.1f} MB",
    }
    echo(shown(run.path))
    for name, value in facts.items():
        if value:
            echo(f"  {name:<11} {line(value)}")
    for name, value in measured(record).items():
        echo(f"  {line(name):<24} {line(number(value))}")
    echo("config:")
    for key, value in flat({key: run.config.get(key) for key in ("model", "datamodule", "optimizer", "scheduler")}):
        echo(f"  {line(key):<24} {'null' if value is None else line(value)}")
    echo(f"  …, all of it in {shown(run.path / 'config.yaml')}")


def delete(runs: "Sequence[KeptRun]", yes: bool) -> None:
    """Delete runs, after a question.

    Raises:
        UserError: without an answer.
    """
    from src.core.console import shown
    from src.run_store.archive import SWEEP_FILES, emptied_sweeps, size
    from src.run_store.archive import delete as delete_all

    for run in runs:
        echo(f"  {line(run.status)}  {shown(run.path)}")
    for sweep in emptied_sweeps(runs):
        echo(f"  and, as no run is left in it, {', '.join(SWEEP_FILES)} of {shown(sweep)}")
    what = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}, {sum(size(run.path) for run in runs) / 1e6:.1f} MB"
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"nothing is deleted without an answer: add --yes to delete {what}")
        if input(f"delete {what}, here and for good (not in W&B)? [y/N] ").strip().lower() not in ("y", "yes"):
            echo("nothing was deleted")
            return
    delete_all(runs)
    echo(f"deleted {what}")


def rerun(run: "KeptRun", changes: Sequence[str], outputs: Path) -> None:
    """Train a run again, from its frozen config, in a new folder.

    Args:
        run: the run.
        changes: single keys to change, such as ``seed=1``.
        outputs: where the new folder is made, unless ``paths.outputs`` is among the changes.

    Raises:
        UserError: for a key that does not exist, or if the data are no longer there.
    """
    from src.config.compose import update
    from src.config.trust import literal_config, name_external_data
    from src.config.validate import check
    from src.training.run import run as train

    recorded = literal_config(run.folder.config(), run.path / "config.yaml", changes=changes)
    paths = recorded.get("paths")
    recorded["paths"] = {**(paths if isinstance(paths, dict) else {}), "outputs": str(outputs)}
    config = check(update(recorded, changes))
    name_external_data(config, changes)
    train(config)


def _one(words: Sequence[str], outputs: Path) -> "KeptRun":
    from src.run_store.archive import named

    runs = named(words, outputs)
    if len(runs) > 1:
        raise UserError(f"{' '.join(words)}: these are {len(runs)} runs, and one is needed")
    return runs[0]


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m src.runs", description=__doc__, formatter_class=form)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="where runs are kept; outputs")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")

    def verb(name: str, help: str, several: bool = False) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=help, description=help)
        made.add_argument("run", nargs="+" if several else None, help="folder, id, sweep or condition")
        return made

    listing = verbs.add_parser("list", help="list runs", description="list runs")
    listing.add_argument("conditions", nargs="*", help='such as optimizer=adam "val/loss<0.3" tag=baseline')
    listing.add_argument("--archived", action="store_true", help="those that were archived, too")
    listing.add_argument("--json", action="store_true", help="JSON, one line a run")
    verb("show", "show a run")
    tag = verb("tag", "tag a run or a sweep")
    tag.add_argument("tags", nargs="+", help="words without spaces")
    tag.add_argument("--remove", action="store_true", help="take the tags away")
    verb("note", "write a note about a run or a sweep; an empty one takes it away").add_argument("text")
    verb("archive", "hide runs from lists; their files stay", several=True)
    verb("restore", "show archived runs in lists again", several=True)
    verb("delete", "delete runs from this disk", several=True).add_argument(
        "--yes", action="store_true", help="do not ask"
    )
    rerunning = verb("rerun", "train a run again from its frozen config")
    rerunning.add_argument("changes", nargs="*", help="single keys to change, such as seed=1")
    add_trust_options(rerunning)
    export = verb("export", "make a folder that holds all that is needed to use a run")
    export.add_argument("target", type=Path, help="the new folder")
    add_trust_options(export)
    export.add_argument(
        "--apply-changes",
        action="store_true",
        help="apply the changes of the code that the run recorded: it then does what whoever wrote the run folder wanted",
    )
    return parser
