"""Runs: python -m src.runs list | show | tag | note | archive | restore | delete | rerun | export

  python -m src.runs list optimizer=adam "val/loss<0.3"       find runs by config and metrics
  python -m src.runs show a1b2c3                              one run: result, settings, provenance
  python -m src.runs tag a1b2c3 baseline                      add tags; --remove removes them
  python -m src.runs note a1b2c3 "diverges without warm-up"
  python -m src.runs archive my_sweep                         hide from lists; restore shows again
  python -m src.runs delete status=failed                     delete after confirmation, or with --yes
  python -m src.runs rerun a1b2c3 seed=1                      train again from the recorded config
  python -m src.runs export a1b2c3 for_ann                    make a folder with all that is needed to use it

A run is named by its folder, the end of its folder's name, its W&B id or the hash of its config; a sweep by its folder or
name; several runs by a condition on keys of the config, metrics of the best epoch and of the test, status, tag or seconds.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.cli.hydra_app import add_trust_options
from src.core.console import Parser, display_path, echo, format_duration, format_number
from src.core.errors import UserError, truncate
from src.core.escape import line

if TYPE_CHECKING:
    from src.run_store.archive import StoredRun

MAX_SHOWN = 2000
"""Maximum number of printed characters of a value of a run."""


def show_list(runs: "Sequence[StoredRun]", as_json: bool = False) -> None:
    """Print runs, one for each line."""
    from src.core.tables import new_table, show
    from src.run_store.config_file import to_plain

    if as_json:
        for run in runs:
            echo(json.dumps(to_plain({"path": str(run.path), **run.facts}), default=str))
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
            format_number(record.get("value")),
            format_duration(seconds) if seconds else "-",
            " ".join(run.tags),
            display_path(run.path),
        )
    show(table)
    echo("1 run" if len(runs) == 1 else f"{len(runs)} runs")


def show_one(run: "StoredRun") -> None:
    """Print the main facts about one run."""
    from src.core.tables import show, two_columns
    from src.run_store.archive import folder_size
    from src.run_store.filters import flatten, recorded_metrics

    record = run.record
    wandb = record.get("wandb") or {}
    best = record.get("best_epoch")
    facts = {
        "id": f"{run.id}, config {record.get('config_hash')}" + (f", W&B {wandb['id']}" if wandb.get("id") else ""),
        "sweep": run.sweep,
        "status": run.status + (", archived" if run.archived else ""),
        "error": (record.get("error") or "").strip().rpartition("\n")[2],
        "started": record.get("started"),
        "time": format_duration(record["seconds"]) if record.get("seconds") else None,
        "best": None
        if best is None
        else f"{record.get('monitor')} {format_number(record.get('value'))} in epoch {best + 1}",
        "parameters": f"{record['parameters']:,}" if record.get("parameters") else None,
        "tags": " ".join(run.tags),
        "notes": run.notes,
        "command": record.get("command"),
        "code": ((record.get("git") or {}).get("revision") or "")[:12],
        "W&B": wandb.get("url"),
        "size": f"{folder_size(run.path) / 1e6:.1f} MB",
    }
    sections = ("model", "datamodule", "optimizer", "scheduler")
    config = flatten({key: run.config.get(key) for key in sections})
    echo(display_path(run.path))
    show(two_columns((name, truncate(value, MAX_SHOWN)) for name, value in facts.items() if value))
    show(two_columns(((name, format_number(value)) for name, value in recorded_metrics(record).items()), numbers=True))
    echo("config:")
    show(two_columns((key, "null" if value is None else truncate(str(value), MAX_SHOWN)) for key, value in config))
    echo(f"…, complete in {display_path(run.path / 'config.yaml')}")


def delete(runs: "Sequence[StoredRun]", yes: bool) -> None:
    """Delete runs after confirmation.

    Args:
        runs: to delete.
        yes: do not ask for confirmation.

    Raises:
        UserError: if nobody can confirm, as standard input is no terminal.
    """
    from src.run_store.archive import SWEEP_FILES, delete_runs, folder_size, sweeps_left_empty

    for run in runs:
        echo(f"  {line(run.status)}  {display_path(run.path)}")
    for sweep in sweeps_left_empty(runs):
        echo(f"  and {', '.join(SWEEP_FILES)} of {display_path(sweep)}, which then holds no run")
    summary = (
        f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}, {sum(folder_size(run.path) for run in runs) / 1e6:.1f} MB"
    )
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(
                f"nothing was deleted, as there is no terminal to confirm on: add --yes to delete {summary}"
            )
        if input(f"permanently delete {summary} (not in W&B)? [y/N] ").strip().lower() not in ("y", "yes"):
            echo("nothing was deleted")
            return
    delete_runs(runs)
    echo(f"deleted {summary}")


def rerun(run: "StoredRun", overrides: Sequence[str], outputs: Path) -> None:
    """Train a run again, from its recorded config, in a new folder.

    Args:
        run: run to repeat.
        overrides: single keys to change, such as ``seed=1``.
        outputs: folder for the new run, unless ``paths.outputs`` is among the overrides.

    Raises:
        UserError: for a key that does not exist, or if the data no longer exist.
    """
    from src.config.compose import update
    from src.config.trust import check_recorded_config, log_external_data
    from src.config.validate import check
    from src.training.run import run as train

    recorded = check_recorded_config(run.folder.config(), run.path / "config.yaml", changes=overrides)
    paths = recorded.get("paths")
    recorded["paths"] = {**(paths if isinstance(paths, dict) else {}), "outputs": str(outputs)}
    config = check(update(recorded, overrides))
    log_external_data(config, overrides)
    train(config)


def tag(runs: "Sequence[StoredRun]", tags: Sequence[str], remove: bool) -> None:
    """Add tags to runs, or remove them.

    Raises:
        UserError: if a tag to add is invalid.
    """
    from src.run_store.archive import update_record

    for name in () if remove else tags:
        if not re.fullmatch(r"\w[\w.:+@/-]{0,63}", name):
            raise UserError(
                f"{name!r}: a tag consists of letters, digits and . : + @ / - _, at most 64, without spaces"
            )
    for run in runs:
        others = [name for name in run.tags if name not in tags]
        update_record(run, tags=others if remove else [*others, *dict.fromkeys(tags)])
        echo(line(f"{run.id}: {' '.join(run.tags) or 'no tags'}"))


def run(options: argparse.Namespace) -> None:
    """Run a verb of the command line.

    Args:
        options: parsed by `parser`.

    Raises:
        UserError: if there is no such run, or if an argument is invalid.
    """
    from src.run_store.archive import filter_runs, find_runs, list_runs, set_archived, update_record

    match options.verb:
        case "list":
            runs = [run for run in list_runs(options.outputs) if options.archived or not run.archived]
            show_list(filter_runs(runs, options.conditions), options.json)
        case "show":
            show_one(_single_run(options.run, options.outputs))
        case "tag":
            tag(find_runs([options.run], options.outputs), options.tags, options.remove)
        case "note":
            for run in find_runs([options.run], options.outputs):
                update_record(run, notes=options.text or None)
        case "archive" | "restore":
            runs = find_runs(options.run, options.outputs)
            for run in runs:
                set_archived(run, options.verb == "archive")
            echo(f"{options.verb}d {len(runs)} {'run' if len(runs) == 1 else 'runs'}")
        case "delete":
            delete(find_runs(options.run, options.outputs), options.yes)
        case "rerun":
            rerun(_single_run(options.run, options.outputs), options.overrides, options.outputs)
        case "export":
            from src.exporters.run_package import pack

            pack(_single_run(options.run, options.outputs), options.target, options.apply_changes)


def _single_run(name: str, outputs: Path) -> "StoredRun":
    from src.run_store.archive import find_runs

    runs = find_runs([name], outputs)
    if len(runs) > 1:
        raise UserError(f"{name}: matches {len(runs)} runs, and one is needed")
    return runs[0]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m src.runs", description=__doc__, formatter_class=form)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder of the runs (outputs)")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")

    def verb(name: str, help: str, several: bool = False) -> argparse.ArgumentParser:
        verb_parser = verbs.add_parser(name, help=help, description=help)
        verb_parser.add_argument("run", nargs="+" if several else None, help="folder, id, sweep or condition")
        return verb_parser

    list_parser = verbs.add_parser("list", help="list runs", description="list runs")
    list_parser.add_argument("conditions", nargs="*", help='such as optimizer=adam "val/loss<0.3" tag=baseline')
    list_parser.add_argument("--archived", action="store_true", help="include archived runs")
    list_parser.add_argument("--json", action="store_true", help="print JSON, one line for each run")
    verb("show", "show a run")
    tag_parser = verb("tag", "tag a run or a sweep")
    tag_parser.add_argument("tags", nargs="+", help="tags without spaces")
    tag_parser.add_argument("--remove", action="store_true", help="remove the tags")
    verb("note", "write a note about a run or a sweep; an empty text removes it").add_argument("text")
    verb("archive", "hide runs from lists; their files stay", several=True)
    verb("restore", "show archived runs in lists again", several=True)
    verb("delete", "delete runs from this disk", several=True).add_argument(
        "--yes", action="store_true", help="do not ask for confirmation"
    )
    rerun_parser = verb("rerun", "train a run again from its recorded config")
    rerun_parser.add_argument("overrides", nargs="*", help="single keys to change, such as seed=1")
    add_trust_options(rerun_parser)
    export_parser = verb("export", "make a folder with all that is needed to use a run")
    export_parser.add_argument("target", type=Path, help="the new folder")
    add_trust_options(export_parser)
    export_parser.add_argument(
        "--apply-changes",
        action="store_true",
        help="apply the changes of the code that the run recorded: the author of the run folder decides what that code does",
    )
    return parser
