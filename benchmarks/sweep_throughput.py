"""Throughput of sweeps: python -m benchmarks.sweep_throughput [--repeats 3] [--jobs 64]

The same sweep (MLP 64-128-64-10 on digits, 10 epochs, learning rate × weight decay) as whole commands, alternating: plain
Lightning under Hydra's basic launcher, all in one process (benchmarks/plain_lightning.py); Gridlight with one worker; with
two workers; with two workers that fuse the jobs (hydra/launcher=fused). Results are medians. The overhead of a job is the
time that one more job takes one worker, minus `seconds` in the job's run.json, which starts when the job's folder is
created. The start of a sweep takes the same time with one worker and with two; the speed-up of two workers is therefore
also printed without it, computed from the difference to a sweep of 8 jobs.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.machine import load, machine, today
from benchmarks.sweeps import THREADS, records, timed_run

RATES = ("1e-4", "3e-4", "1e-3", "2e-3", "3e-3", "5e-3", "1e-2", "3e-2")
DECAYS = ("0.0", "1e-6", "1e-5", "1e-4", "3e-4", "1e-3", "3e-3", "1e-2")


def axes(jobs: int) -> tuple[str, str]:
    """Return learning rates and weight decays of a grid with `jobs` points, a multiple of 8."""
    return ",".join(RATES), ",".join(DECAYS[: jobs // len(RATES)])


def plain(jobs: int, folder: Path) -> float:
    """Return the duration of a sweep of plain Lightning with Hydra's basic launcher."""
    rates, decays = axes(jobs)
    argv = ["-m", f"lr={rates}", f"weight_decay={decays}", f"hydra.sweep.dir={folder}"]
    seconds, _ = timed_run(["benchmarks.plain_lightning", *argv])
    assert len(list(folder.glob("*/best*.ckpt"))) == jobs
    return seconds


def gridlight(jobs: int, workers: int, folder: Path, launcher: str = "local") -> tuple[float, float]:
    """Return the duration of a Gridlight sweep, and the sum of `seconds` in the records of its jobs."""
    rates, decays = axes(jobs)
    seconds, _ = timed_run(
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
    return seconds, sum(record["seconds"] for record in records(folder, jobs))


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
    overheads, ratios, initial_load = [], [], load()
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            times["plain"].append(plain(jobs, folder / "plain"))
            times["two"].append(gridlight(jobs, 2, folder / "two")[0])
            times["fused"].append(gridlight(jobs, 2, folder / "fused", "fused")[0])
            one, job_seconds = gridlight(jobs, 1, folder / "one")
            few, job_seconds_few = gridlight(8, 1, folder / "few")
            few_by_two = gridlight(8, 2, folder / "few_by_two")[0]
        times["one"].append(one)
        if jobs > 8:
            overheads.append(((one - few) - (job_seconds - job_seconds_few)) / (jobs - 8))
            ratios.append((one - few) / (times["two"][-1] - few_by_two))
    plain_time, one_time, two_time, fused_time = (median(times[name]) for name in ("plain", "one", "two", "fused"))
    print(
        f"medians of {arguments.repeats}; {machine()}; {THREADS} thread a process; {today()}; {initial_load} before\n"
    )
    print(f"| {jobs} jobs, whole command | time | speed relative to plain Lightning |\n|---|---:|---:|")
    print(f"| plain Lightning, Hydra's basic launcher | {plain_time:.1f} s | 1.0 |")
    print(f"| Gridlight, one worker | {one_time:.1f} s | {plain_time / one_time:.1f} |")
    print(f"| Gridlight, two workers | {two_time:.1f} s | {plain_time / two_time:.1f} |")
    print(f"| Gridlight, two workers, fused | {fused_time:.1f} s | {plain_time / fused_time:.1f} |")
    if overheads:
        print(f"\noverhead per job: {1000 * median(overheads):.0f} ms")
        print(f"two workers are {median(ratios):.2f} times as fast as one, without start-up")


if __name__ == "__main__":
    main()
