"""Run all benchmarks, each in its own process: python -m benchmarks [start_up memory …]

Results are only valid on an idle machine. `python -m benchmarks.NAME --help` describes a benchmark and its options.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machine import load
from src import ROOT

NOT_BENCHMARKS = {"__init__", "__main__", "machine", "plain_lightning", "sweeps"}
"""Modules that are not benchmarks."""


def main() -> None:
    """Run the benchmarks, and print how long each took."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in NOT_BENCHMARKS)
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(names)}; all by default")
    selected = parser.parse_args().names or names
    if unknown := set(selected) - set(names):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(names)}")
    failed = []
    for name in selected:
        print(f"\n## {name} ({load()} before)\n", flush=True)
        started = time.perf_counter()
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT).returncode:
            failed.append(name)
        print(f"\n{name} took {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
