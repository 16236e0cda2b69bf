"""The textbook's table of RNN, LSTM and GRU, measured: python -m benchmarks.recurrent_comparison [--series FILE COLUMN]

Runs experiment=recurrent_comparison over the adding problem at three lags and over a series, Mackey-Glass or a column of a
CSV file, and prints one Markdown table. The same command given again goes on where it was interrupted.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import machine, today
from src import ROOT


def sweep(*words: str) -> None:
    """Run the experiment with further words of a command line."""
    command = [sys.executable, "-m", "src.train", "-m", "experiment=recurrent_comparison", "logger=none", *words]
    subprocess.run(command, cwd=ROOT, check=True)


def table(data: str) -> list[str]:
    """Return the lines that the sweep over a data source has left."""
    folder = ROOT / "outputs" / "sweeps" / f"recurrent-comparison-{data}"
    return (folder / "recurrent_comparison.md").read_text(encoding="utf-8").splitlines()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.recurrent_comparison",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--series", nargs=2, metavar=("FILE", "COLUMN"), help="in place of Mackey-Glass")
    series = parser.parse_args().series
    data = "series" if series else "mackey_glass"
    file = [f"datamodule.path={Path(series[0]).absolute()}", f"datamodule.column={series[1]}"] if series else []
    sweep("+sweeps=lag")
    sweep(f"datamodule={data}", "optimizer.lr=1e-3", *file)
    print("\n".join([f"\n{machine()}, {today()}\n", *table("adding"), *table(data)[2:]]))


if __name__ == "__main__":
    main()
