"""Every benchmark in turn, each in a process of its own: python -m benchmarks [start_up memory …]

Figures count on an idle machine only. `python -m benchmarks.NAME --help` says what one measures and what can be set.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machine import load
from src import ROOT

PARTS = {"__init__", "__main__", "machine", "plain_lightning", "sweeps"}
"""What is no benchmark of its own."""


def main() -> None:
    """Run them, and say what each took."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in PARTS)
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(names)}; all by default")
    chosen = parser.parse_args().names or names
    if unknown := set(chosen) - set(names):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(names)}")
    failed = []
    for name in chosen:
        print(f"\n## {name} ({load()} before)\n", flush=True)
        started = time.perf_counter()
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT).returncode:
            failed.append(name)
        print(f"\n{name} took {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
