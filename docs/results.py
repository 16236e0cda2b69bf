"""The results on public data: python -m docs.results writes the tables of README.md and docs/results.md.

results.yaml defines the rows of the table. results.json holds the results, and is written by this command only:

    python -m docs.results experiment=ett_linear          train a row, and save its result
    python -m docs.results --run RUN                      save the result of a finished run of a row, trained anywhere

The data are read from paths.data (GRIDLIGHT_DATA), as for any run. The runs are saved in outputs/results.
"""

import argparse
import json
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from docs.catalogue import BEGIN, END, README
from src import ROOT
from src.cli.hydra_app import report_user_errors
from src.config.compose import compose
from src.config.groups import CONF
from src.config.validate import check
from src.core.errors import UserError, nearest
from src.run_store.config_hash import config_hash
from src.run_store.run_folder import RunFolder
from src.tasks.registry import direction_of

PAGE, DEFINITIONS, RESULTS = (ROOT / "docs" / f"results.{kind}" for kind in ("md", "yaml", "json"))
MARKS = BEGIN.replace("docs.catalogue", "docs.results")
OUTPUTS = ROOT / "outputs" / "results"


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        overrides: the arguments of ``python -m src.train``.
        data, model: their descriptions in the table.
        published: a published result on the same data, and its model. The page cites the source.
        goals: the metrics to show, each with its goal, or None if it has no goal.
        prompt: the prompt that a language model continues, for the page.
        why_not: why there is no result yet, or why it does not reach the goal.
    """

    overrides: str
    data: str
    model: str
    published: str
    goals: dict[str, float | None]
    prompt: str | None = None
    why_not: str = ""

    @property
    def command(self) -> str:
        return f"python -m src.train {self.overrides}"


@dataclass(frozen=True)
class Result:
    """The result of one run, as saved in results.json; `recipe` is the digest of its overrides and experiment file."""

    recipe: str
    seed: int
    metrics: dict[str, float]
    epochs: int
    parameters: int
    seconds: int
    cpu_seconds: int | None
    machine: str
    torch: str
    date: str
    sample: str | None = None


def rows() -> list[Row]:
    """Return results.yaml."""
    return [Row(**entry) for entry in yaml.safe_load(DEFINITIONS.read_text(encoding="utf-8"))]


def results() -> dict[str, list[Result]]:
    """Return results.json: for the overrides of each row, one result per seed."""
    if not RESULTS.exists():
        return {}
    entries = json.loads(RESULTS.read_text(encoding="utf-8"))
    return {overrides: [Result(**run) for run in runs] for overrides, runs in entries.items()}


def recipe(row: Row) -> str:
    """Return a digest of the overrides of a row, its experiment file, and the files that this one is based on. A result whose
    digest differs is out of date.
    """
    (name,) = re.findall(r"experiment=(\w+)", row.overrides)
    parts: list[Any] = [row.overrides]
    while name:
        parts.append(yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")))
        name = next((other for other in parts[-1]["defaults"] if isinstance(other, str)), None)
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


# ---- measuring ----------------------------------------------------------------------------------------------------


def train(row: Row, seed: int) -> Result:
    """Train a row with a seed in a new process.

    Raises:
        UserError: if the run failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=OUTPUTS) as outputs:  # of the one run, which is moved from there
        overrides = [
            *shlex.split(row.overrides),
            f"seed={seed}",
            "logger=none",
            "callbacks=quiet",
            f"paths.outputs={outputs}",
        ]
        completed = subprocess.run(
            [sys.executable, "-m", "src.train", *overrides], cwd=ROOT, text=True, stderr=subprocess.PIPE
        )
        if completed.returncode:
            raise UserError(f"{row.command}\n{completed.stderr.strip()}")
        (record,) = Path(outputs).glob("runs/*/*/run.json")
        folder = record.parent.rename(OUTPUTS / record.parent.name)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return read_result(RunFolder.open(folder), row, round(cpu))


def read_result(folder: RunFolder, row: Row, cpu_seconds: int | None, machine: str | None = None) -> Result:
    """Return the result of a finished run of a row.

    Args:
        folder: the folder of the run.
        row: the row that it was trained for.
        cpu_seconds: CPU time, if known.
        machine: description of the machine, by default the CPU that the run recorded.
    """
    record = folder.record
    hardware = f"{record['hardware']['cpu']}, {record['hardware']['usable_cores']} cores"
    return Result(
        recipe=recipe(row),
        seed=record["seed"],
        metrics={name: float(f"{value:.6g}") for name, value in sorted({**record["best"], **record["final"]}.items())},
        epochs=sum("train/loss" in line for line in folder.metrics()),
        parameters=record["parameters"],
        seconds=round(record["seconds"]),
        cpu_seconds=cpu_seconds,
        machine=machine or hardware,
        torch=record["packages"]["torch"],
        date=record["started"][:10],
        sample=None if row.prompt is None else _generate_sample(folder, row.prompt),
    )


def _generate_sample(folder: RunFolder, prompt: str) -> str:
    from src.cli.predict import predict

    (prediction,) = predict(folder.path, [prompt], length=400, seed=0)
    return prompt + str(prediction["prediction"])


def matching_row(folder: RunFolder) -> Row:
    """Return the row whose config, apart from the seed, is that of a run.

    Raises:
        UserError: if there is none, or if the run is not finished.
    """
    if folder.record["status"] != "finished":
        raise UserError(f"{folder.path}: the run is {folder.record['status']}, and only a finished one is a result")
    for row in rows():
        config = check(compose([*shlex.split(row.overrides), f"seed={folder.record['seed']}"]))
        if config_hash(config.plain()) == folder.record["config_hash"]:
            return row
    raise UserError(f"{folder.path}: no row of {DEFINITIONS.name}, as composed by the current code, has its config")


def save_result(row: Row, run: Result) -> None:
    """Save a result in results.json, in the order of results.yaml. It replaces an older one of the same seed."""
    saved = results()
    others = [other for other in saved.get(row.overrides, []) if other.seed != run.seed]
    saved[row.overrides] = sorted([*others, run], key=lambda one: one.seed)
    ordered = {row.overrides: [vars(one) for one in saved[row.overrides]] for row in rows() if row.overrides in saved}
    RESULTS.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# ---- writing ------------------------------------------------------------------------------------------------------


def table() -> str:
    """Return the table of results."""
    saved = results()
    lines = ["| data | model | parameters | | result | seeds | goal | published | time (CPU) | |"]
    lines.append("|---|---|---:|---|---:|---:|---:|---|---:|---|")
    before = None
    for row in rows():
        data, before = ("" if row.data == before else row.data), row.data
        runs = saved.get(row.overrides, [])
        cells = [
            data,
            row.model,
            f"{runs[0].parameters:,}" if runs else "",
            ", ".join(f"`{name}`" for name in row.goals),
        ]
        cells += [" / ".join(format_results(name, runs) for name in row.goals) if runs else "not measured"]
        cells += [str(len(runs)) if runs else ""]
        cells += [" / ".join(format_goal(name, target) for name, target in row.goals.items() if target is not None)]
        cells += [row.published, run_time(runs), f"`{row.command}`"]
        lines.append("| " + " | ".join(cells) + " |")
    where = sorted({f"{run.machine}, torch {run.torch}, {run.date}." for runs in saved.values() for run in runs})
    return "\n".join([*lines, "", *where]) + "\n"


def format_results(name: str, runs: Sequence[Result]) -> str:
    """Return a metric of one run, or the mean ± standard deviation of several."""
    values = [run.metrics[name] for run in runs]
    spread = f" ± {format_metric(name, stdev(values)).removesuffix(' %')}" if len(values) > 1 else ""
    text = format_metric(name, mean(values))
    return text.replace(" %", f"{spread} %") if text.endswith(" %") else text + spread


def format_metric(name: str, value: float) -> str:
    """Return an accuracy in percent, BLEU with one decimal, and any other metric with three."""
    if name.endswith(("accuracy", "exact_match")):
        return f"{100 * value:.1f} %"
    return f"{value:.1f}" if name.endswith("bleu") else f"{value:.3f}"


def format_goal(name: str, target: float) -> str:
    """Return the lower or upper bound of a metric."""
    return ("≥ " if direction_of(name) == "max" else "≤ ") + format_metric(name, target)


def reaches_goals(row: Row, runs: Sequence[Result]) -> bool:
    """Return whether a row has results whose mean over the seeds reaches its goals."""
    if not runs:
        return False
    for name, target in row.goals.items():
        value = mean(run.metrics[name] for run in runs)
        if target is not None and (value < target if direction_of(name) == "max" else value > target):
            return False
    return True


def run_time(runs: Sequence[Result]) -> str:
    """Return the mean wall-clock time of the runs, and their mean CPU time if known."""
    if not runs:
        return ""
    wall, cpu = mean(run.seconds for run in runs), [run.cpu_seconds for run in runs if run.cpu_seconds is not None]
    return f"{wall:.0f} s" + (f" ({mean(cpu):.0f} s)" if cpu else "")


def missing_results() -> str:
    """Return a list of the rows that have no result or do not reach their goals, with the reasons."""
    lines = []
    for row in rows():
        runs = results().get(row.overrides, [])
        if not reaches_goals(row, runs):
            state = " / ".join(format_results(name, runs) for name in row.goals) if runs else "not measured yet"
            lines.append(f"- `{row.overrides}`: {state}. {row.why_not}".rstrip())
    return "\n".join(lines or ["Nothing."]) + "\n"


def samples() -> str:
    """Return the texts that the language models generated."""
    parts = []
    for row in rows():
        for run in results().get(row.overrides, [])[:1]:
            if run.sample is not None:
                parts.append(f"`{row.overrides}`:\n\n```\n{run.sample.strip()}\n```\n")
    return "\n".join(parts)


def fill_tables(text: str, where: Path, tables: Mapping[str, str]) -> str:
    """Return a text with new tables between its markers."""
    for key, content in tables.items():
        begin = MARKS.format(key)
        head, marker, rest = text.partition(begin)
        _, end, tail = rest.partition(END)
        if not (marker and end):
            raise UserError(f"{where}: no markers for {key}: {begin}{END}")
        text = f"{head}{begin}\n{content}\n{end}{tail}"
    return text


def updated_files() -> Iterator[tuple[Path, str]]:
    """Yield each file that shows results, and its new text."""
    for path, tables in ((README, {"results": table()}), (PAGE, {"missing": missing_results(), "samples": samples()})):
        yield path, fill_tables(path.read_text(encoding="utf-8"), path, tables)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        "python -m docs.results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", help="rows to train, such as experiment=ett_linear")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="seeds to train each row with")
    parser.add_argument("--run", type=Path, help="folder of a finished run of a row")
    parser.add_argument("--cpu", type=int, help="CPU seconds of the run, if known")
    parser.add_argument("--machine", help="machine of the run, such as 'one H100'; default: its CPU")
    overrides = parser.parse_args(argv)
    with report_user_errors():
        if overrides.run is None and (overrides.cpu is not None or overrides.machine):
            raise UserError("--cpu and --machine describe a finished run: add --run RUN")
        saved = {row.overrides: row for row in rows()}
        for name in overrides.rows:
            if name not in saved:
                raise UserError(f"{name}: there is no such row. {nearest(name, saved)}")
        for name in overrides.rows:
            for seed in overrides.seeds:
                save_result(saved[name], train(saved[name], seed))
        if overrides.run is not None:
            folder = RunFolder.open(overrides.run)
            row = matching_row(folder)
            save_result(row, read_result(folder, row, overrides.cpu, overrides.machine))
        for path, text in updated_files():
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
