"""The method pages: python -m docs.methods runs the measurements of docs/methods/measurements.yaml that are not in
measurements.json yet, and writes the tables of every page. With names of pages (optimizer/adam), it repeats their measurements.

A page is docs/methods/<group>/<option>.md. Its text is written by hand. The table of its keys is generated from the option's
file, and the table of its effect from measurements.json. A measurement is a sweep over seeds:
python -m src.train -m <overrides of the task> <overrides of the method> seed=0,1,2,3,4
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import yaml

from benchmarks.machine import machine, today
from src import ROOT
from src.cli.hydra_app import report_user_errors
from src.config.groups import CONF
from src.core.errors import UserError, nearest
from src.run_store.run_folder import RunFolder
from src.tasks.registry import TASKS

FOLDER = ROOT / "docs" / "methods"
RESULTS = FOLDER / "measurements.json"
BEGIN, END = "<!-- {}: written by python -m docs.methods -->\n", "<!-- end -->\n"


@dataclass(frozen=True)
class Page:
    """The measurements of a page.

    Args:
        name: ``<group>/<option>``.
        overrides: the overrides of each sweep, as one text. The first sweep is without the method.
        labels: the label of each sweep in the table.
        metrics: the metrics to show. The first one decides which sweep is better.
    """

    name: str
    overrides: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]

    @property
    def file(self) -> Path:
        return FOLDER / f"{self.name}.md"


@cache
def definitions() -> dict[str, Any]:
    """Return measurements.yaml."""
    return dict(yaml.safe_load((FOLDER / "measurements.yaml").read_text(encoding="utf-8")))


def pages() -> list[Page]:
    """Return every page of measurements.yaml."""
    tasks, result_pages = definitions()["tasks"], []
    for name, entry in definitions()["pages"].items():
        task, methods = tasks[entry["task"]], entry["with"]
        labels = (entry["without"], *([methods] if isinstance(methods, str) else methods))
        overrides = tuple(f"{task['overrides']} {label}".strip() for label in labels)
        result_pages.append(Page(name, overrides, labels, tuple(entry.get("metrics", task["metrics"]))))
    return result_pages


# ---- measuring ----------------------------------------------------------------------------------------------------


def command(overrides: str) -> str:
    """Return the command that repeats a measurement."""
    seeds = ",".join(map(str, definitions()["seeds"]))
    quiet = "" if "callbacks=" in overrides else " callbacks=quiet"
    return f"python -m src.train -m {overrides} seed={seeds} logger=none{quiet}"


def measure(overrides: str) -> dict[str, Any]:
    """Run a sweep over the seeds. Return the metrics of each seed, the date, the machine and the duration.

    Raises:
        RuntimeError: if a run failed.
    """
    started = monotonic()
    with TemporaryDirectory() as outputs:
        arguments = [sys.executable, *shlex.split(command(overrides))[1:], f"paths.outputs={outputs}"]
        completed = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
        if completed.returncode:
            raise RuntimeError(f"{command(overrides)}\n{completed.stdout}{completed.stderr}")
        folders = [RunFolder.open(path.parent) for path in Path(outputs).glob("sweeps/*/*/run.json")]
        metrics_by_seed = {str(folder.record["seed"]): _metrics(folder) for folder in folders}
    assert len(metrics_by_seed) == len(definitions()["seeds"])
    return {
        "date": today(),
        "machine": machine(),
        "torch": version("torch"),
        "seconds": round(monotonic() - started),
        "seeds": dict(sorted(metrics_by_seed.items())),
    }


def _metrics(folder: RunFolder) -> dict[str, float]:
    """Return the metrics of the best epoch and of the test, and the number of epochs."""
    epochs = sum("train/loss" in row for row in folder.metrics())
    metrics = {**folder.record["best"], **folder.record["final"], "epochs": epochs}
    return {name: float(f"{value:.6g}") for name, value in sorted(metrics.items()) if not name.endswith("_step")}


def results() -> dict[str, Any]:
    """Return measurements.json: the result of `measure` for each text of overrides."""
    return dict(json.loads(RESULTS.read_text(encoding="utf-8"))) if RESULTS.exists() else {}


def measure_all(names: Sequence[str] = ()) -> None:
    """Run the missing measurements, and repeat those of some pages. Each one is saved as soon as it is finished.

    Args:
        names: the pages whose measurements are repeated.
    """
    measurements = results()
    requested = dict.fromkeys(overrides for page in pages() for overrides in page.overrides)
    requested_again = {overrides for page in pages() if page.name in names for overrides in page.overrides}
    measurements = {overrides: entry for overrides, entry in measurements.items() if overrides in requested}
    missing = [overrides for overrides in requested if overrides not in measurements or overrides in requested_again]
    for number, overrides in enumerate(missing, 1):
        print(f"[{number}/{len(missing)}] {command(overrides)}", flush=True)
        try:
            measurements[overrides] = measure(overrides)
        except RuntimeError as error:
            print(error, flush=True)  # continue with the others; writing the tables reports what is missing
            continue
        text = json.dumps(
            {key: measurements[key] for key in requested if key in measurements}, indent=1, ensure_ascii=False
        )
        RESULTS.write_text(text + "\n", encoding="utf-8")


# ---- writing ------------------------------------------------------------------------------------------------------


def keys_table(name: str) -> str:
    """Return the table of the keys of an option, with their values and the comments of its file."""
    rows = [f"| `{key}` | `{value}` | {comment} |" for key, value, comment in keys(CONF / f"{name}.yaml")]
    return "\n".join(["| key | value | |", "|---|---|---|", *rows]) + "\n"


def keys(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the key, value and comment of every line of an option file that sets a value."""
    text = file.read_text(encoding="utf-8")
    start = [] if "@package _global_" in text else [file.parent.name]
    parents: list[tuple[int, str]] = []
    for indent, key, value, comment in re.findall(r"^( *)(\w+): *([^#\n]*?) *(?:# (.*))?$", text, re.M):
        parents = [(depth, parent) for depth, parent in parents if depth < len(indent)]
        if not value:
            parents.append((len(indent), key))
        elif key not in ("name", "_target_"):
            yield ".".join([*start, *(parent for _, parent in parents), key]), value, comment


def effect_table(page: Page) -> str:
    """Return the mean ± standard deviation over the seeds of each row, its difference from the first row, and the command."""
    measurements = results()
    if missing := [overrides for overrides in page.overrides if overrides not in measurements]:
        raise UserError(f"{page.name}: not measured yet: {missing[0]}")
    runs_of_rows = [measurements[overrides]["seeds"] for overrides in page.overrides]
    lines = [
        "| | " + " | ".join(f"`{name}`" for name in page.metrics) + f" | Δ `{page.metrics[0]}` | better | effect |"
    ]
    lines.append("|---|" + "---:|" * (len(page.metrics) + 2) + "---|")
    for label, runs in zip(page.labels, runs_of_rows, strict=True):
        numbers = [format_mean([run[name] for run in runs.values()]) for name in page.metrics]
        change_cells = ("", "", "") if runs is runs_of_rows[0] else difference(page.metrics[0], runs, runs_of_rows[0])
        lines.append(f"| `{label}` | " + " | ".join([*numbers, *change_cells]) + " |")
    entry = measurements[page.overrides[-1]]
    task_info = f"{len(runs_of_rows[0])} seeds, mean ± standard deviation; Δ: difference from the first row with the same seed. "
    task_info += f"{entry['machine']}, torch {entry['torch']}, {entry['date']}."
    return "\n".join([*lines, "", task_info, "", "```", command(page.overrides[-1]), "```"]) + "\n"


def difference(metric: str, runs: dict[str, Any], others: dict[str, Any]) -> tuple[str, str, str]:
    """Return the mean ± standard deviation of the differences of a metric from the other runs of the same seed, the number of
    seeds for which it is better, and the effect.
    """
    pairs = [(runs[seed][metric], others[seed][metric]) for seed in others]
    differences = [value - other for value, other in pairs]
    improved = sum(is_better(metric, value, other) for value, other in pairs)
    return format_mean(differences, sign="+"), f"{improved} of {len(pairs)}", effect(differences, improved)


def effect(differences: Sequence[float], improved: int) -> str:
    """Return ``gain`` or ``loss`` if the mean difference is larger than its standard deviation and all seeds except at most
    one agree, otherwise ``none``.

    Args:
        differences: one per seed.
        improved: the number of seeds that improve.
    """
    if abs(mean(differences)) <= stdev(differences):
        return "none"
    return "gain" if improved >= len(differences) - 1 else "loss" if improved <= 1 else "none"


def format_mean(values: Sequence[float], sign: str = "") -> str:
    """Return mean ± standard deviation, rounded to the second digit of the latter."""
    spread = stdev(values)
    digits = max(0, 1 - int(f"{spread:e}".partition("e")[2])) if spread else 3
    return f"{mean(values):{sign}.{digits}f} ± {spread:.{digits}f}"


def is_better(metric: str, value: float, other: float) -> bool:
    """Return whether a value is better than another."""
    name = metric.rpartition("/")[2]
    directions = [
        mode
        for task_info in TASKS.values()
        for mode in [(task_info.metrics | task_info.test_metrics).get(name)]
        if mode
    ]
    return value > other if "max" in directions else value < other


def overview() -> str:
    """Return one line per page: the first metric without the method, and its difference with the last method."""
    measurements = results()
    lines = ["| page | task | metric | without | Δ with | better | effect |", "|---|---|---|---:|---:|---:|---|"]
    for page in pages():
        metric, task = page.metrics[0], definitions()["pages"][page.name]["task"]
        without, runs = measurements[page.overrides[0]]["seeds"], measurements[page.overrides[-1]]["seeds"]
        numbers = " | ".join(
            [format_mean([run[metric] for run in without.values()]), *difference(metric, runs, without)]
        )
        lines.append(f"| [{page.name}]({page.name}.md) | {task} | `{metric}` | {numbers} |")
    return "\n".join(lines) + "\n"


def tasks_table() -> str:
    """Return the table of the tasks with their overrides."""
    rows = [f"| {name} | {task['about']} | `{task['overrides']}` |" for name, task in definitions()["tasks"].items()]
    return "\n".join(["| task | | overrides |", "|---|---|---|", *rows]) + "\n"


def fill_table(text: str, key: str, table: str) -> str:
    """Return a text with a new table between the markers of a key."""
    head, begin, rest = text.partition(BEGIN.format(key))
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise UserError(f"no markers for {key}: {BEGIN.format(key)}{END}")
    return f"{head}{begin}\n{table}\n{end}{tail}"


def updated_page(page: Page) -> str:
    """Return the text of a page with new tables."""
    text = page.file.read_text(encoding="utf-8")
    if (CONF / f"{page.name}.yaml").exists():
        text = fill_table(text, "keys", keys_table(page.name))
    return fill_table(text, "effect", effect_table(page))


def updated_index() -> str:
    """Return docs/methods/README.md with new tables."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    return fill_table(fill_table(text, "tasks", tasks_table()), "overview", overview())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        "python -m docs.methods", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", help="pages whose measurements are repeated, such as optimizer/adam")
    names = parser.parse_args(argv).pages
    with report_user_errors():
        for name in names:
            if name not in definitions()["pages"]:
                raise UserError(f"{name}: there is no such page. {nearest(name, definitions()['pages'])}")
        measure_all(names)
        for page in pages():
            page.file.write_text(updated_page(page), encoding="utf-8")
        (FOLDER / "README.md").write_text(updated_index(), encoding="utf-8")


if __name__ == "__main__":
    main()
