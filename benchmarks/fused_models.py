"""Speed-up of fused training, for every model: python -m benchmarks.fused_models [--repeats 3] [--only lstm]

A sweep of 8 jobs (4 learning rates × 2 weight decays, a few epochs, local data) as whole commands, alternating:
hydra/launcher=local, and hydra/launcher=fused, which times both ways first and takes the faster. Each has two workers of one
thread. Results are medians; the ratio is the median of the ratios of neighboring sweeps. A ratio of 0.95 or more means that
the fused launcher was at most 5 % slower.
"""

import argparse
import re
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.machine import load, machine, today
from benchmarks.sweeps import THREADS, records, timed_run

CASES = {
    "mlp": ("digits", 10),
    "cnn": ("digits", 5),
    "resnet": ("digits", 1),
    "rnn": ("digits", 10),
    "lstm": ("mackey_glass", 2),
    "gru": ("mackey_glass", 2),
    "transformer": ("digits", 3),
}
"""Data and epochs of each model."""
RATES, DECAYS = ("1e-4", "3e-4", "1e-3", "3e-3"), ("0.0", "1e-3")
JOBS = len(RATES) * len(DECAYS)


def sweep(model: str, launcher: str) -> tuple[float, str]:
    """Return the duration of a sweep in seconds, and the choice of the launcher."""
    data, epochs = CASES[model]
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            "-m",
            f"model={model}",
            f"datamodule={data}",
            f"trainer.max_epochs={epochs}",
            "trainer=cpu",
            "logger=none",
            "sweep.name=benchmark",
            f"hydra/launcher={launcher}",
            "hydra.launcher.jobs=2",
            f"hydra.launcher.threads={THREADS}",
            f"optimizer.lr={','.join(RATES)}",
            f"regularization.weight_decay={','.join(DECAYS)}",
            f"paths.outputs={folder}",
        ]
        seconds, output = timed_run(["src.train", *overrides])
        records(Path(folder), JOBS)
    selected = re.findall(r"group \d+, .*: ((?:fused, |not fused).*)", output)
    return seconds, " and ".join(dict.fromkeys(selected))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.fused_models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default=",".join(CASES), help="models, separated by commas")
    arguments = parser.parse_args()
    selected = arguments.only.split(",")
    if unknown := set(selected) - set(CASES):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(CASES)}")
    print(
        f"{JOBS} jobs, two workers, medians of {arguments.repeats}; {machine()}; {THREADS} thread a process; {today()}; "
        f"{load()} before\n"
    )
    print("| model, data, epochs | local | fused | times | the fused launcher's choice |")
    print("|---|---:|---:|---:|---|")
    for model in selected:
        pairs = [(sweep(model, "local"), sweep(model, "fused")) for _ in range(arguments.repeats)]
        local, fused = (median(pair[mode][0] for pair in pairs) for mode in (0, 1))
        times = median(one / other for (one, _), (other, _) in pairs)
        data, epochs = CASES[model]
        choices = " or ".join(dict.fromkeys(choice for _, (_, choice) in pairs))
        print(f"| {model}, {data}, {epochs} | {local:.1f} s | {fused:.1f} s | {times:.2f} | {choices} |", flush=True)


if __name__ == "__main__":
    main()
