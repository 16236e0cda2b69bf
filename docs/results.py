"""The results on public data: python -m docs.results writes the tables of README.md and docs/results.md.

results.yaml says what is trained; results.json holds what was measured, and this command alone writes it:

    python -m docs.results experiment=ett_linear          trains a row, and puts down what came out
    python -m docs.results --run RUN                      puts down a finished run of a row, trained anywhere

The data lie in paths.data (GRIDLIGHT_DATA), as for any run; runs are left in outputs/results.
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
from src.cli.hydra_app import errors_for_people
from src.config.compose import compose
from src.config.groups import CONF
from src.config.validate import check
from src.core.errors import UserError, nearest
from src.run_store.config_hash import config_hash
from src.run_store.run_folder import RunFolder
from src.tasks.registry import direction_of

PAGE, ASKED, RESULTS = (ROOT / "docs" / f"results.{kind}" for kind in ("md", "yaml", "json"))
MARKS = BEGIN.replace("docs.catalogue", "docs.results")
OUTPUTS = ROOT / "outputs" / "results"


@dataclass(frozen=True)
class Row:
    """One result that is asked for.

    Args:
        words: of the command line, without ``python -m src.train``.
        data, model: what the table says about them.
        published: a result of others on the same data, and of what; the page says where they are from.
        goals: the metrics that are shown, with the value that is to be reached; None where none was set.
        prompt: what a language model continues, for the page.
        why_not: why there is no result yet, or why it is less than the goal.
    """

    words: str
    data: str
    model: str
    published: str
    goals: dict[str, float | None]
    prompt: str | None = None
    why_not: str = ""

    @property
    def command(self) -> str:
        return f"python -m src.train {self.words}"


@dataclass(frozen=True)
class Measured:
    """What one run came to, as results.json holds it; `recipe` is the digest of what it was trained with."""

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
    return [Row(**entry) for entry in yaml.safe_load(ASKED.read_text(encoding="utf-8"))]


def results() -> dict[str, list[Measured]]:
    """Return results.json: the runs of each row, one a seed, by the row's words."""
    if not RESULTS.exists():
        return {}
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    return {words: [Measured(**run) for run in runs] for words, runs in found.items()}


def recipe(row: Row) -> str:
    """Return a digest of a row's words and of the experiment that they name, with those that it builds upon: a recipe that
    is changed has not been measured.
    """
    (name,) = re.findall(r"experiment=(\w+)", row.words)
    parts: list[Any] = [row.words]
    while name:
        parts.append(yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")))
        name = next((other for other in parts[-1]["defaults"] if isinstance(other, str)), None)
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


# ---- measuring ----------------------------------------------------------------------------------------------------


def train(row: Row, seed: int) -> Measured:
    """Train a row with a seed, in a process of its own.

    Raises:
        UserError: if the run failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=OUTPUTS) as outputs:  # the run is found there, and moved out
        words = [*shlex.split(row.words), f"seed={seed}", "logger=none", "callbacks=quiet", f"paths.outputs={outputs}"]
        done = subprocess.run([sys.executable, "-m", "src.train", *words], cwd=ROOT, text=True, stderr=subprocess.PIPE)
        if done.returncode:
            raise UserError(f"{row.command}\n{done.stderr.strip()}")
        (record,) = Path(outputs).glob("runs/*/*/run.json")
        folder = record.parent.rename(OUTPUTS / record.parent.name)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return read(RunFolder.open(folder), row, round(cpu))


def read(folder: RunFolder, row: Row, cpu_seconds: int | None, machine: str | None = None) -> Measured:
    """Return what a finished run of a row came to.

    Args:
        folder: of the run.
        row: that it was trained for.
        cpu_seconds: processor time, where it is known.
        machine: where it is more than the processor that the run recorded.
    """
    record = folder.record
    here = f"{record['hardware']['cpu']}, {record['hardware']['usable_cores']} cores"
    return Measured(
        recipe=recipe(row),
        seed=record["seed"],
        metrics={name: float(f"{value:.6g}") for name, value in sorted({**record["best"], **record["final"]}.items())},
        epochs=sum("train/loss" in line for line in folder.metrics()),
        parameters=record["parameters"],
        seconds=round(record["seconds"]),
        cpu_seconds=cpu_seconds,
        machine=machine or here,
        torch=record["packages"]["torch"],
        date=record["started"][:10],
        sample=None if row.prompt is None else _continued(folder, row.prompt),
    )


def _continued(folder: RunFolder, prompt: str) -> str:
    from src.cli.predict import predict

    (answer,) = predict(folder.path, [prompt], length=400, seed=0)
    return prompt + str(answer["prediction"])


def row_of(folder: RunFolder) -> Row:
    """Return the row that a run was trained for: all that decides its result is as the row has it.

    Raises:
        UserError: if there is none, or if the run is not finished.
    """
    if folder.record["status"] != "finished":
        raise UserError(f"{folder.path}: the run is {folder.record['status']}, and only a finished one is a result")
    for row in rows():
        asked = check(compose([*shlex.split(row.words), f"seed={folder.record['seed']}"]))
        if config_hash(asked.plain()) == folder.record["config_hash"]:
            return row
    raise UserError(f"{folder.path}: its config is that of no row of {ASKED.name} (today's code composes them)")


def put_down(row: Row, run: Measured) -> None:
    """Keep a run in results.json, in place of an older one of its seed, in the order of results.yaml."""
    known = results()
    others = [other for other in known.get(row.words, []) if other.seed != run.seed]
    known[row.words] = sorted([*others, run], key=lambda one: one.seed)
    ordered = {row.words: [vars(one) for one in known[row.words]] for row in rows() if row.words in known}
    RESULTS.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# ---- writing ------------------------------------------------------------------------------------------------------


def table() -> str:
    """Return what was reached, a line a row."""
    known = results()
    lines = ["| data | model | parameters | | result | seeds | goal | published | time (CPU) | |"]
    lines.append("|---|---|---:|---|---:|---:|---:|---|---:|---|")
    before = None
    for row in rows():
        data, before = ("" if row.data == before else row.data), row.data
        runs = known.get(row.words, [])
        cells = [
            data,
            row.model,
            f"{runs[0].parameters:,}" if runs else "",
            ", ".join(f"`{name}`" for name in row.goals),
        ]
        cells += [" / ".join(result(name, runs) for name in row.goals) if runs else "not measured"]
        cells += [str(len(runs)) if runs else ""]
        cells += [" / ".join(goal(name, wanted) for name, wanted in row.goals.items() if wanted is not None)]
        cells += [row.published, taken(runs), f"`{row.command}`"]
        lines.append("| " + " | ".join(cells) + " |")
    where = sorted({f"{run.machine}, torch {run.torch}, {run.date}." for runs in known.values() for run in runs})
    return "\n".join([*lines, "", *where]) + "\n"


def result(name: str, runs: Sequence[Measured]) -> str:
    """Return a metric of one run, or mean ± deviation of several."""
    values = [run.metrics[name] for run in runs]
    spread = f" ± {number(name, stdev(values)).removesuffix(' %')}" if len(values) > 1 else ""
    shown = number(name, mean(values))
    return shown.replace(" %", f"{spread} %") if shown.endswith(" %") else shown + spread


def number(name: str, value: float) -> str:
    """Return an accuracy in percent, BLEU with a digit and everything else with three."""
    if name.endswith(("accuracy", "exact_match")):
        return f"{100 * value:.1f} %"
    return f"{value:.1f}" if name.endswith("bleu") else f"{value:.3f}"


def goal(name: str, wanted: float) -> str:
    """Return what a metric is to be, at least or at most."""
    return ("≥ " if direction_of(name) == "max" else "≤ ") + number(name, wanted)


def reached(row: Row, runs: Sequence[Measured]) -> bool:
    """Tell whether a row was measured and has its goals, on the mean of its seeds."""
    if not runs:
        return False
    for name, wanted in row.goals.items():
        value = mean(run.metrics[name] for run in runs)
        if wanted is not None and (value < wanted if direction_of(name) == "max" else value > wanted):
            return False
    return True


def taken(runs: Sequence[Measured]) -> str:
    """Return wall-clock time, and processor time where it is known, of one run."""
    if not runs:
        return ""
    wall, cpu = mean(run.seconds for run in runs), [run.cpu_seconds for run in runs if run.cpu_seconds is not None]
    return f"{wall:.0f} s" + (f" ({mean(cpu):.0f} s)" if cpu else "")


def missing() -> str:
    """Return what was not reached, and why."""
    lines = []
    for row in rows():
        runs = results().get(row.words, [])
        if not reached(row, runs):
            state = " / ".join(result(name, runs) for name in row.goals) if runs else "not measured yet"
            lines.append(f"- `{row.words}`: {state}. {row.why_not}".rstrip())
    return "\n".join(lines or ["Nothing."]) + "\n"


def samples() -> str:
    """Return what the language models wrote."""
    parts = []
    for row in rows():
        for run in results().get(row.words, [])[:1]:
            if run.sample is not None:
                parts.append(f"`{row.words}`:\n\n```\n{run.sample.strip()}\n```\n")
    return "\n".join(parts)


def filled(text: str, where: Path, tables: Mapping[str, str]) -> str:
    """Return a text with what stands between its marks made anew."""
    for key, made in tables.items():
        begin = MARKS.format(key)
        head, found, rest = text.partition(begin)
        _, end, tail = rest.partition(END)
        if not (found and end):
            raise UserError(f"{where}: no marks for {key}: {begin}{END}")
        text = f"{head}{begin}\n{made}\n{end}{tail}"
    return text


def written() -> Iterator[tuple[Path, str]]:
    """Yield each file that shows results, and its text with them."""
    for path, tables in ((README, {"results": table()}), (PAGE, {"missing": missing(), "samples": samples()})):
        yield path, filled(path.read_text(encoding="utf-8"), path, tables)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        "python -m docs.results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", help="rows to train, such as experiment=ett_linear")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="that the rows are trained with")
    parser.add_argument("--run", type=Path, help="the folder of a finished run of a row")
    parser.add_argument("--cpu", type=int, help="processor seconds that it took, where they are known")
    parser.add_argument("--machine", help="that it was trained on, where it is more than its processor: one H100")
    words = parser.parse_args(argv)
    with errors_for_people():
        if words.run is None and (words.cpu is not None or words.machine):
            raise UserError("--cpu and --machine are about a finished run: --run RUN")
        known = {row.words: row for row in rows()}
        for name in words.rows:
            if name not in known:
                raise UserError(f"{name}: there is no such row. {nearest(name, known)}")
        for name in words.rows:
            for seed in words.seeds:
                put_down(known[name], train(known[name], seed))
        if words.run is not None:
            folder = RunFolder.open(words.run)
            row = row_of(folder)
            put_down(row, read(folder, row, words.cpu, words.machine))
        for path, text in written():
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
