"""Time until a command prints its first output or trains its first step: python -m benchmarks.start_up [--repeats 5]

Wall-clock times of whole processes, from their start to their end or to the first optimizer step. The bare script for
comparison imports torch, builds the same small MLP and takes one step of AdamW on one batch, for which torch imports its
compiler; python -m src.train avoids that import unless something is compiled (src/compat/lazy_dynamo.py).
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.machine import machine, today
from src import ROOT

COMMANDS = {
    "--help": (["--help"], 0),
    "a config error": (["optimizer.lrr=0.1"], 2),
    "--cfg job": (["--cfg", "job"], 0),
}
"""Arguments of src.train that train nothing, and the expected exit codes."""

BARE = """
import torch
from torch import nn
network = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(network.parameters())
nn.functional.cross_entropy(network(torch.randn(64, 64)), torch.randint(10, (64,))).backward()
optimizer.step()
print("first step", flush=True)
"""

FIRST_STEP = """
import sys
import torch
from src.train import main
first = torch.optim.AdamW.step
def step(self, *args, **kwargs):
    result = first(self, *args, **kwargs)
    print("first step", flush=True)
    torch.optim.AdamW.step = first
    return result
torch.optim.AdamW.step = step
main(sys.argv[1:])
"""


def command_seconds(overrides: list[str], code: int) -> float:
    """Return the duration of one command that trains nothing."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "src.train", *overrides], cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    assert done.returncode == code, done.stderr
    return seconds


def imports_torch(overrides: list[str]) -> bool:
    """Return whether a command imports torch."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "src.train", *overrides], cwd=ROOT, capture_output=True, text=True
    )
    return any(line.rpartition("|")[2].strip() == "torch" for line in done.stderr.splitlines())


def first_step_seconds(program: str, overrides: list[str]) -> float:
    """Return the time from the start of a process to the end of its first optimizer step."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", program, *overrides],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    output = []
    for line in process.stdout:
        output.append(line)
        if line.strip() == "first step":
            seconds = time.perf_counter() - started
            break
    else:
        raise RuntimeError("no step was taken:\n" + "".join(output))
    process.stdout.read()
    process.wait()
    return seconds


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.start_up", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print(f"medians of {repeats}; {machine()}; Python {sys.version.split()[0]}; {today()}\n")
    print("| from the start of the process to | median | torch imported |")
    print("|---|---:|---|")
    for name, (overrides, code) in COMMANDS.items():
        seconds = median(command_seconds(overrides, code) for _ in range(repeats))
        print(f"| the end of {name} | {seconds:.2f} s | {'yes' if imports_torch(overrides) else 'no'} |", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        overrides = ["optimizer=adamw", "logger=none", "trainer=smoke", f"paths.outputs={Path(temporary)}"]
        bare, ours = zip(
            *((first_step_seconds(BARE, []), first_step_seconds(FIRST_STEP, overrides)) for _ in range(repeats)),
            strict=True,
        )
    print(f"| the first step of a bare torch script | {median(bare):.2f} s | yes |")
    ratio = median(a / b for a, b in zip(ours, bare, strict=True))
    print(f"| the first step of python -m src.train | {median(ours):.2f} s | yes |")
    print(f"\nratio of the last two, median of neighboring pairs: {ratio:.2f}")


if __name__ == "__main__":
    main()
