"""What a sweep costs: python -m benchmarks.sweep_throughput [--repeats 3] [--jobs 64]

The same sweep (MLP 64-128-64-10 on digits, 10 epochs, learning rate × weight decay), whole commands from start to end, in
turns: plain Lightning under Hydra's basic launcher, all in one process (benchmarks/plain_lightning.py); Gridlight with one
worker; Gridlight with two; Gridlight with two that train the jobs as one (hydra/launcher=fused). Figures are medians. The
overhead of a job is what a job more costs one worker, beyond the time that its own record says it took; `seconds` in run.json
begins when the job's folder is made. The start of a sweep is the same with one worker and with two, so the work of both is
also told without it: by what 8 jobs take less.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.machine import load, machine, today
from benchmarks.sweeps import THREADS, records, timed

RATES = ("1e-4", "3e-4", "1e-3", "2e-3", "3e-3", "5e-3", "1e-2", "3e-2")
DECAYS = ("0.0", "1e-6", "1e-5", "1e-4", "3e-4", "1e-3", "3e-3", "1e-2")


def axes(jobs: int) -> tuple[str, str]:
    """Return learning rates and weight decays that make so many jobs, a multiple of 8."""
    return ",".join(RATES), ",".join(DECAYS[: jobs // len(RATES)])


def plain(jobs: int, folder: Path) -> float:
    """Return the time of Hydra's basic launcher over plain Lightning."""
    rates, decays = axes(jobs)
    words = ["-m", f"lr={rates}", f"weight_decay={decays}", f"hydra.sweep.dir={folder}"]
    taken, _ = timed(["benchmarks.plain_lightning", *words])
    assert len(list(folder.glob("*/best*.ckpt"))) == jobs
    return taken


def gridlight(jobs: int, workers: int, folder: Path, launcher: str = "local") -> tuple[float, float]:
    """Return the time of a sweep of ours, and the sum of what its jobs say that they took."""
    rates, decays = axes(jobs)
    taken, _ = timed(
        [
            "src.train",
            "-m",
            "model=mlp",
            "datamodule=digits",
            "trainer=cpu",
            "trainer.max_epochs=10",
            "logger=none",
            "sweep.name=benchmark",
            f"hydra/launcher={launcher}",
            f"hydra.launcher.jobs={workers}",
            f"hydra.launcher.threads={THREADS}",
            f"optimizer.lr={rates}",
            f"regularization.weight_decay={decays}",
            f"paths.outputs={folder}",
        ]
    )
    return taken, sum(record["seconds"] for record in records(folder, jobs))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.sweep_throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=64, help="a multiple of 8, at most 64")
    arguments = parser.parse_args()
    jobs, times = arguments.jobs, {"plain": [], "one": [], "two": [], "fused": []}  # type: ignore[var-annotated]
    overheads, ratios, busy = [], [], load()
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            times["plain"].append(plain(jobs, folder / "plain"))
            times["two"].append(gridlight(jobs, 2, folder / "two")[0])
            times["fused"].append(gridlight(jobs, 2, folder / "fused", "fused")[0])
            one, inside = gridlight(jobs, 1, folder / "one")
            few, inside_few = gridlight(8, 1, folder / "few")
            few_by_two = gridlight(8, 2, folder / "few_by_two")[0]
        times["one"].append(one)
        if jobs > 8:
            overheads.append(((one - few) - (inside - inside_few)) / (jobs - 8))
            ratios.append((one - few) / (times["two"][-1] - few_by_two))
    plain_time, one_time, two_time, fused_time = (median(times[name]) for name in ("plain", "one", "two", "fused"))
    print(f"medians of {arguments.repeats}; {machine()}; {THREADS} thread a process; {today()}; {busy} before\n")
    print(f"| {jobs} jobs, whole command | time | of plain Lightning's speed |\n|---|---:|---:|")
    print(f"| plain Lightning, Hydra's basic launcher | {plain_time:.1f} s | 1.0 |")
    print(f"| Gridlight, one worker | {one_time:.1f} s | {plain_time / one_time:.1f} |")
    print(f"| Gridlight, two workers | {two_time:.1f} s | {plain_time / two_time:.1f} |")
    print(f"| Gridlight, two workers, fused | {fused_time:.1f} s | {plain_time / fused_time:.1f} |")
    if overheads:
        print(f"\noverhead of a job: {1000 * median(overheads):.0f} ms")
        print(f"two workers, once they run, do {median(ratios):.2f} times the work of one")


if __name__ == "__main__":
    main()
