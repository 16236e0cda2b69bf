"""The method pages: python -m docs.methods measures what docs/methods/measurements.yaml asks for and is not in
measurements.json yet, and writes the tables of every page. With names of pages (optimizer/adam), these are measured anew.

A page is docs/methods/<group>/<option>.md. Its text is written by hand; the table of its keys follows from the option's
file, and the table of its effect from measurements.json. A measurement is a sweep over seeds:
python -m src.train -m <words of the task> <words of the method> seed=0,1,2,3,4
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
from src.cli.hydra_app import errors_for_people
from src.config.groups import CONF
from src.core.errors import UserError, nearest
from src.run_store.run_folder import RunFolder
from src.tasks.registry import TASKS

FOLDER = ROOT / "docs" / "methods"
RESULTS = FOLDER / "measurements.json"
BEGIN, END = "<!-- {}: written by python -m docs.methods -->\n", "<!-- end -->\n"


@dataclass(frozen=True)
class Page:
    """What a page measures.

    Args:
        name: ``<group>/<option>``.
        words: the sweeps, as words of a command line; the first is without the method.
        labels: what distinguishes each, as the table shows it.
        metrics: what is shown of them; the first decides what is better.
    """

    name: str
    words: tuple[str, ...]
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
    """Return every page that is to be measured."""
    tasks, found = definitions()["tasks"], []
    for name, entry in definitions()["pages"].items():
        task, methods = tasks[entry["task"]], entry["with"]
        labels = (entry["without"], *([methods] if isinstance(methods, str) else methods))
        words = tuple(f"{task['words']} {label}".strip() for label in labels)
        found.append(Page(name, words, labels, tuple(entry.get("metrics", task["metrics"]))))
    return found


# ---- measuring ----------------------------------------------------------------------------------------------------


def command(words: str) -> str:
    """Return the command of a measurement, as a reader can repeat it."""
    seeds = ",".join(map(str, definitions()["seeds"]))
    quiet = "" if "callbacks=" in words else " callbacks=quiet"
    return f"python -m src.train -m {words} seed={seeds} logger=none{quiet}"


def measure(words: str) -> dict[str, Any]:
    """Run a sweep over the seeds; return the metrics of each, and when, where and how long it took.

    Raises:
        RuntimeError: if a run failed.
    """
    started = monotonic()
    with TemporaryDirectory() as outputs:
        line = [sys.executable, *shlex.split(command(words))[1:], f"paths.outputs={outputs}"]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command(words)}\n{done.stdout}{done.stderr}")
        folders = [RunFolder.open(path.parent) for path in Path(outputs).glob("sweeps/*/*/run.json")]
        found = {str(folder.record["seed"]): _metrics(folder) for folder in folders}
    assert len(found) == len(definitions()["seeds"])
    return {
        "date": today(),
        "machine": machine(),
        "torch": version("torch"),
        "seconds": round(monotonic() - started),
        "seeds": dict(sorted(found.items())),
    }


def _metrics(folder: RunFolder) -> dict[str, float]:
    """Return what the best epoch and the test measured, and the number of epochs."""
    epochs = sum("train/loss" in row for row in folder.metrics())
    measured = {**folder.record["best"], **folder.record["final"], "epochs": epochs}
    return {name: float(f"{value:.6g}") for name, value in sorted(measured.items()) if not name.endswith("_step")}


def results() -> dict[str, Any]:
    """Return measurements.json: what `measure` returned, by the words."""
    return dict(json.loads(RESULTS.read_text(encoding="utf-8"))) if RESULTS.exists() else {}


def measure_all(again: Sequence[str] = ()) -> None:
    """Measure what is missing, and the pages named; every sweep is kept as soon as it is done."""
    known = results()
    wanted = dict.fromkeys(words for page in pages() for words in page.words)
    anew = {words for page in pages() if page.name in again for words in page.words}
    known = {words: entry for words, entry in known.items() if words in wanted}
    missing = [words for words in wanted if words not in known or words in anew]
    for number, words in enumerate(missing, 1):
        print(f"[{number}/{len(missing)}] {command(words)}", flush=True)
        try:
            known[words] = measure(words)
        except RuntimeError as error:
            print(error, flush=True)  # the others are measured; writing the tables will say what is missing
            continue
        text = json.dumps({key: known[key] for key in wanted if key in known}, indent=1, ensure_ascii=False)
        RESULTS.write_text(text + "\n", encoding="utf-8")


# ---- writing ------------------------------------------------------------------------------------------------------


def keys_table(name: str) -> str:
    """Return the keys of an option with their values and what its file says about them."""
    rows = [f"| `{key}` | `{value}` | {says} |" for key, value, says in keys(CONF / f"{name}.yaml")]
    return "\n".join(["| key | value | |", "|---|---|---|", *rows]) + "\n"


def keys(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield key, value and comment of every line of an option's file that holds a value."""
    text = file.read_text(encoding="utf-8")
    start = [] if "@package _global_" in text else [file.parent.name]
    parents: list[tuple[int, str]] = []
    for indent, key, value, says in re.findall(r"^( *)(\w+): *([^#\n]*?) *(?:# (.*))?$", text, re.M):
        parents = [(depth, parent) for depth, parent in parents if depth < len(indent)]
        if not value:
            parents.append((len(indent), key))
        elif key not in ("name", "_target_"):
            yield ".".join([*start, *(parent for _, parent in parents), key]), value, says


def effect_table(page: Page) -> str:
    """Return mean ± deviation over the seeds, what each row differs from the first by, seed by seed, and the command."""
    known = results()
    if missing := [words for words in page.words if words not in known]:
        raise UserError(f"{page.name}: not measured yet: {missing[0]}")
    measured = [known[words]["seeds"] for words in page.words]
    lines = [
        "| | " + " | ".join(f"`{name}`" for name in page.metrics) + f" | Δ `{page.metrics[0]}` | better | effect |"
    ]
    lines.append("|---|" + "---:|" * (len(page.metrics) + 2) + "---|")
    for label, runs in zip(page.labels, measured, strict=True):
        numbers = [shown([run[name] for run in runs.values()]) for name in page.metrics]
        compared = ("", "", "") if runs is measured[0] else difference(page.metrics[0], runs, measured[0])
        lines.append(f"| `{label}` | " + " | ".join([*numbers, *compared]) + " |")
    entry = known[page.words[-1]]
    facts = f"{len(measured[0])} seeds, mean ± deviation; Δ: what differs from the first row with the same seed. "
    facts += f"{entry['machine']}, torch {entry['torch']}, {entry['date']}."
    return "\n".join([*lines, "", facts, "", "```", command(page.words[-1]), "```"]) + "\n"


def difference(metric: str, runs: dict[str, Any], others: dict[str, Any]) -> tuple[str, str, str]:
    """Return the mean ± deviation of what a metric differs by from the others with the same seed, in how many seeds it
    is better, and the effect in a word.
    """
    pairs = [(runs[seed][metric], others[seed][metric]) for seed in others]
    changes = [one - other for one, other in pairs]
    wins = sum(better(metric, one, other) for one, other in pairs)
    return shown(changes, sign="+"), f"{wins} of {len(pairs)}", effect(changes, wins)


def effect(changes: Sequence[float], wins: int) -> str:
    """Return ``gain`` or ``loss`` where a difference is larger than its deviation and shows in all seeds but at most one,
    else ``none``.

    Args:
        changes: the difference with each seed.
        wins: in how many it is an improvement.
    """
    if abs(mean(changes)) <= stdev(changes):
        return "none"
    return "gain" if wins >= len(changes) - 1 else "loss" if wins <= 1 else "none"


def shown(values: Sequence[float], sign: str = "") -> str:
    """Return mean ± deviation, to the second digit of the deviation."""
    spread = stdev(values)
    digits = max(0, 1 - int(f"{spread:e}".partition("e")[2])) if spread else 3
    return f"{mean(values):{sign}.{digits}f} ± {spread:.{digits}f}"


def better(metric: str, value: float, other: float) -> bool:
    """Tell whether a value is better than another."""
    name = metric.rpartition("/")[2]
    directions = [mode for facts in TASKS.values() for mode in [(facts.metrics | facts.test_metrics).get(name)] if mode]
    return value > other if "max" in directions else value < other


def overview() -> str:
    """Return one line a page: the first metric without the method, and what the last row differs by."""
    known = results()
    lines = ["| page | task | metric | without | Δ with | better | effect |", "|---|---|---|---:|---:|---:|---|"]
    for page in pages():
        metric, task = page.metrics[0], definitions()["pages"][page.name]["task"]
        without, runs = known[page.words[0]]["seeds"], known[page.words[-1]]["seeds"]
        numbers = " | ".join([shown([run[metric] for run in without.values()]), *difference(metric, runs, without)])
        lines.append(f"| [{page.name}]({page.name}.md) | {task} | `{metric}` | {numbers} |")
    return "\n".join(lines) + "\n"


def tasks_table() -> str:
    """Return the tasks with their words."""
    rows = [f"| {name} | {task['about']} | `{task['words']}` |" for name, task in definitions()["tasks"].items()]
    return "\n".join(["| task | | words |", "|---|---|---|", *rows]) + "\n"


def filled(text: str, key: str, table: str) -> str:
    """Return a text with the table between the marks of a key made anew."""
    head, begin, rest = text.partition(BEGIN.format(key))
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise UserError(f"no marks for {key}: {BEGIN.format(key)}{END}")
    return f"{head}{begin}\n{table}\n{end}{tail}"


def written(page: Page) -> str:
    """Return a page with its tables made anew."""
    text = page.file.read_text(encoding="utf-8")
    if (CONF / f"{page.name}.yaml").exists():
        text = filled(text, "keys", keys_table(page.name))
    return filled(text, "effect", effect_table(page))


def written_index() -> str:
    """Return docs/methods/README.md with its tables made anew."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    return filled(filled(text, "tasks", tasks_table()), "overview", overview())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        "python -m docs.methods", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", help="pages to measure anew, such as optimizer/adam")
    names = parser.parse_args(argv).pages
    with errors_for_people():
        for name in names:
            if name not in definitions()["pages"]:
                raise UserError(f"{name}: there is no such page. {nearest(name, definitions()['pages'])}")
        measure_all(names)
        for page in pages():
            page.file.write_text(written(page), encoding="utf-8")
        (FOLDER / "README.md").write_text(written_index(), encoding="utf-8")


if __name__ == "__main__":
    main()
