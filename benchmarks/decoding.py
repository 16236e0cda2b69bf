"""Speed-up of decoding by the cache of keys and values: python -m benchmarks.decoding [--repeats 5]

An untrained transformer of the default size generates texts (decoder only) and translations (encoder-decoder), with and
without the cache alternately, always to the full length. Both generate the same tokens. Results are medians.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from benchmarks.machine import machine, today
from src.core.data_spec import DataSpec
from src.models.transformer import Transformer

PADDING, START, END = 0, 1, 2
BATCH = 16


def make_generator(task: str, length: int) -> Callable[[bool, int], torch.Tensor]:
    """Return a function that generates `length` tokens for each row of a batch, with or without the cache."""
    torch.manual_seed(0)
    special = {"padding_id": PADDING, "start_id": START, "end_id": END} if task == "translation" else {}
    spec = DataSpec(task, "tokens", (length + 1,), (80,), vocabulary_size=80, target_length=length + 1, **special)
    model = Transformer(spec).eval()
    model.output.bias.data[END] = -1e4
    prompt = torch.randint(3, 80, (BATCH, 30 if task == "translation" else 1))
    return lambda cache, beams: model.generate(prompt, length, beams=beams, use_cache=cache)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.decoding", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print(f"| {BATCH} sequences | tokens | beams | without cache | with cache | ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    for task, length, beams in (
        ("language_modelling", 64, 1),
        ("language_modelling", 256, 1),
        ("translation", 64, 1),
        ("translation", 64, 4),
    ):
        generate = make_generator(task, length)
        times, tokens = [], []
        for _ in range(repeats):
            for cache in (False, True):
                started = time.perf_counter()
                tokens.append(generate(cache, beams))
                times.append(time.perf_counter() - started)
        assert all(torch.equal(tokens[0], other) for other in tokens)
        pairs = list(zip(times[::2], times[1::2], strict=True))
        without, cached = (median(column) for column in zip(*pairs, strict=True))
        print(
            f"| {task} | {length} | {beams} | {without:.2f} s | {cached:.2f} s | {median(a / b for a, b in pairs):.1f} |",
            flush=True,
        )
    print(f"\n{machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {today()}")


if __name__ == "__main__":
    main()
