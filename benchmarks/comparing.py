"""Time and memory of a comparison: python -m benchmarks.comparing [--runs 2000] [--epochs 100] [--repeats 5]

Writes run folders like those of training to a temporary folder: a grid of learning rates and dropout rates with five seeds
each; in every epoch one training metric, three validation metrics and the learning rate. Then it measures whole processes,
with their peak memory: the table, and the page with curves and importance. On an idle machine the processor time equals the
wall-clock time. Where Chromium and its driver are installed, it measures the page in the browser too: until it can be used, and
sorting and filtering its table.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from math import exp, log10
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.machine import machine, today
from src import ROOT
from tests.comparison.browser import CHROMIUM, DRIVER, browser

SEEDS = 5
COMMANDS = {"the table": [], "the page report.html": ["--html"]}


def write_runs(folder: Path, runs: int, epochs: int) -> None:
    """Write the folders of finished runs.

    Args:
        folder: folder of the sweep.
        runs: number of runs.
        epochs: epochs of each run.
    """
    import yaml

    from src.config.compose import compose

    base = compose(["logger=none"])
    from src.config.validate import check

    config = check(base).plain()
    random = Random(0)
    for number in range(runs):
        grid_point, seed = divmod(number, SEEDS)
        lr = 10 ** random.uniform(-4, -1) if seed == 0 else lr  # noqa: F821 - drawn once per grid point
        dropout = round(0.05 * (grid_point % 10), 2)
        config["seed"] = config["datamodule"]["seed"] = seed
        config["optimizer"]["lr"] = lr
        config["regularization"]["dropout"] = config["model"]["dropout"] = dropout
        run = folder / f"lr-{lr:.3g}_dropout-{dropout}_seed-{seed}_{number:012x}"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(yaml.dump(config, Dumper=yaml.CSafeDumper, sort_keys=False))
        floor = 0.1 + 0.2 * (log10(lr) + 2.5) ** 2 + 0.3 * (dropout - 0.2) ** 2 + random.gauss(0, 0.01)
        lines, rows = [], []
        for epoch in range(epochs):
            val, train = (floor + scale * exp(-epoch / 20) + random.gauss(0, 0.003) for scale in (1.0, 0.9))
            step = 20 * epoch + 19
            validated = {"val/loss": val, "val/accuracy": exp(-val), "val/f1": exp(-val) - 0.01}
            rows.append({"train/loss": train} | validated)
            lines.append({"step": step, "epoch": epoch, **validated, "time": 1795642982.542 + epoch})
            lines.append({"step": step, "epoch": epoch, "train/loss": train, "lr": lr, "time": 1795642982.553 + epoch})
        lines.append({"step": 20 * epochs, "epoch": epochs, "test/loss": floor, "test/accuracy": exp(-floor)})
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        best = min(range(epochs), key=lambda epoch: rows[epoch]["val/loss"])
        record = {
            "status": "finished",
            "seed": seed,
            "seconds": 12.5 + random.random(),
            "command": "python -m src.train -m optimizer.lr=… regularization.dropout=…",
            "git": {"revision": "0" * 40, "diff": "x" * 20_000},
            "parameters": 17_226,
            "best_epoch": best,
            "monitor": "val/loss",
            "mode": "min",
            "value": rows[best]["val/loss"],
            "best": rows[best],
            "final": {"test/loss": floor, "test/accuracy": exp(-floor)},
        }
        (run / "run.json").write_text(json.dumps(record, indent=2))


def measure(arguments: list[str]) -> tuple[float, float, float]:
    """Return wall-clock seconds, processor seconds, and peak memory in MB of one process."""
    started = time.perf_counter()
    process = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "src.compare", *arguments],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - started
    assert status == 0, arguments
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def measure_page(page: Path) -> dict[str, float]:
    """Return the milliseconds that a browser needs to open the page, and to sort and filter its table, layout included."""
    sort = "document.querySelectorAll('#table thead button')[1].click()"
    narrow = "field.value = 'lr<0.01'; field.dispatchEvent(new Event('input'))"
    field = "const field = document.querySelector('input[type=search]'), start = performance.now(); "
    timed = field + "{}; document.body.offsetHeight; return performance.now() - start"
    with browser() as window:
        window.open(page)  # the first page that a browser opens takes longer
        window.open(page)
        opened = window.run("return performance.getEntriesByType('navigation')[0].domComplete")
        return {
            "opening": opened,
            "sorting": window.run(timed.format(sort)),
            "filtering": window.run(timed.format(narrow)),
        }


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.comparing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as temporary:
        sweep = Path(temporary) / "sweep"
        write_runs(sweep, arguments.runs, arguments.epochs)
        print(
            f"{arguments.runs:,} runs of {arguments.epochs} epochs; medians of {arguments.repeats}; {machine()}; {today()}\n"
        )
        print("| output | seconds | processor time | peak memory |")
        print("|---|---:|---:|---:|")
        for name, more in COMMANDS.items():
            costs = zip(*(measure([str(sweep), *more]) for _ in range(arguments.repeats)), strict=True)
            seconds, processor, memory = map(median, costs)
            print(f"| {name} | {seconds:.2f} s | {processor:.2f} s | {memory:.0f} MB |", flush=True)
        if not (CHROMIUM and DRIVER):
            print("\nChromium is not installed: apt-get install chromium chromium-driver")
            return
        pages = [measure_page(sweep / "report.html") for _ in range(arguments.repeats)]
        print(
            f"\n| the page of {(sweep / 'report.html').stat().st_size / 1e6:.1f} MB in Chromium | milliseconds |\n|---|---:|"
        )
        for name in pages[0]:
            print(f"| {name} | {median(times[name] for times in pages):.0f} |")


if __name__ == "__main__":
    main()
