"""Time of the textbook's recurrent cells, relative to torch's kernels: python -m benchmarks.cells [--repeats 30]

Forward and backward pass of one layer, both sides alternating in one process, in float32 and with one thread, so that the
ratio does not depend on the machine's threading. Results are medians; the ratio is the median of the ratios of neighboring
passes.

The LSTM's equations take 1.5 to 1.9 times as long as torch's kernel where all sequences have the same length (1.92, 1.49 and
1.53 for the three shapes; Intel Xeon, 2 cores, torch 2.13.0+cpu, 2026-12-01), and a third to a half of its time where the
lengths differ, because torch packs the sequences.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.machine import machine, today
from src.core.data_spec import DataSpec
from src.models.recurrent import GRU, LSTM, RNN, Recurrent

SHAPES = ((64, 48, 1, 64), (64, 64, 64, 128), (32, 200, 2, 64))
"""Batch, steps, inputs, hidden size: those of mackey_glass, of a text, and of a long sequence."""


@dataclass(frozen=True)
class Cost:
    """Medians of a forward and backward pass in milliseconds, and of the ratios."""

    torch: float
    textbook: float
    ratio: float


def measure(kind: type[Recurrent], shape: tuple[int, int, int, int], repeats: int, ragged: bool = False) -> Cost:
    """Time both cells of an architecture alternately.

    Args:
        kind: the architecture.
        shape: batch, steps, inputs, hidden size.
        repeats: timed passes of each cell.
        ragged: use sequence lengths between half of the steps and all of them.
    """
    batch, steps, inputs, hidden = shape
    spec = DataSpec("regression", "sequence", (steps, inputs), (1,))
    x = torch.randn(batch, steps, inputs)
    lengths = torch.linspace(steps // 2, steps, batch).long() if ragged else None
    passes = [_pass(kind(spec, cell=cell, hidden_size=hidden), x, lengths) for cell in ("torch", "textbook")]
    seconds = [[one_pass() for one_pass in passes] for _ in range(repeats + 3)][3:]
    kernels, equations = zip(*seconds, strict=True)
    return Cost(1e3 * median(kernels), 1e3 * median(equations), median(b / a for a, b in seconds))


def _pass(model: Recurrent, x: torch.Tensor, lengths: torch.Tensor | None) -> Callable[[], float]:
    def one_pass() -> float:
        started = time.process_time()
        model(x, lengths).sum().backward()
        return time.process_time() - started

    return one_pass


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.cells", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=30)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"{machine()}, 1 thread; torch {torch.__version__}, {today()}\n")
    print("| cell | batch × steps × inputs, hidden | lengths | torch | textbook | ratio |")
    print("|---|---|---|---:|---:|---:|")
    for kind in (RNN, LSTM, GRU):
        for shape in SHAPES:
            for ragged in (False, True):
                cost = measure(kind, shape, repeats, ragged)
                batch, steps, inputs, hidden = shape
                print(
                    f"| {kind.__name__} | {batch} × {steps} × {inputs}, {hidden} | {'ragged' if ragged else 'full'} "
                    f"| {cost.torch:.1f} ms | {cost.textbook:.1f} ms | {cost.ratio:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
