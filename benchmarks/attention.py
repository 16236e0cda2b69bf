"""Time of a training step of the transformer, relative to nn.Transformer: python -m benchmarks.attention [--steps 15]

Both sides are an encoder-decoder of the same size with dropout 0.1, post-norm, on the same batch with a padding mask and
a causal mask, in one process and alternating: forward, backward and a step of Adam each. Embeddings and the output layer,
which would be the same, are omitted. Results are medians; the first three steps of each side are warm-up.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.machine import machine, today
from src.layers.transformer_blocks import Stack

CASES = {
    "the default, dates": (128, 4, 2, 256, 128, 30, 11),
    "twice as wide and deep": (256, 8, 4, 1024, 32, 30, 11),
    "long sequences": (128, 4, 2, 256, 8, 256, 256),
}
"""d_model, heads, layers, d_ff, batch, source and target length."""

WARM_UP = 3


class GridlightTransformer(nn.Module):
    """Encoder and decoder of this project."""

    def __init__(self, d_model: int, heads: int, layers: int, d_ff: int) -> None:
        super().__init__()
        sizes = {"num_heads": heads, "d_ff": d_ff, "dropout": 0.1, "activation": "relu"}
        self.encoder = Stack(layers, d_model, False, cross=False, **sizes)
        self.decoder = Stack(layers, d_model, False, cross=True, **sizes)

    def forward(self, source: Tensor, target: Tensor, padded: Tensor) -> Tensor:
        mask = ~padded[:, None, None, :]
        return self.decoder(target, None, True, self.encoder(source, mask), mask)


class TorchTransformer(nn.Module):
    """nn.Transformer, used as in its documentation."""

    def __init__(self, d_model: int, heads: int, layers: int, d_ff: int) -> None:
        super().__init__()
        self.network = nn.Transformer(d_model, heads, layers, layers, d_ff, 0.1, batch_first=True)

    def forward(self, source: Tensor, target: Tensor, padded: Tensor) -> Tensor:
        future = nn.Transformer.generate_square_subsequent_mask(target.size(1), dtype=torch.bool)
        return self.network(
            source,
            target,
            tgt_mask=future,
            src_key_padding_mask=padded,
            memory_key_padding_mask=padded,
            tgt_is_causal=True,
        )


def timed_step(network: nn.Module, source: Tensor, target: Tensor, padded: Tensor) -> Callable[[], float]:
    """Return a function that trains one step and returns its seconds."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def step() -> float:
        started = time.perf_counter()
        optimizer.zero_grad()
        network(source, target, padded).square().mean().backward()
        optimizer.step()
        return time.perf_counter() - started

    return step


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.attention", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=15, help="timed steps of each side")
    steps = parser.parse_args().steps
    print(
        "| one training step | width, heads, layers, d_ff | batch × source, target | nn.Transformer | Gridlight | ratio |"
    )
    print("|---|---|---|---:|---:|---:|")
    for name, (d_model, heads, layers, d_ff, batch, source_length, target_length) in CASES.items():
        torch.manual_seed(0)
        source, target = torch.randn(batch, source_length, d_model), torch.randn(batch, target_length, d_model)
        padded = torch.arange(source_length) >= torch.randint(source_length // 2, source_length + 1, (batch, 1))
        steps_of_sides = [
            timed_step(network_class(d_model, heads, layers, d_ff), source, target, padded)
            for network_class in (TorchTransformer, GridlightTransformer)
        ]
        times = [[step_of_side() for step_of_side in steps_of_sides] for _ in range(WARM_UP + steps)][WARM_UP:]
        theirs, ours = (median(column) for column in zip(*times, strict=True))
        ratio = median(b / a for a, b in times)
        print(
            f"| {name} | {d_model}, {heads}, {layers}, {d_ff} | {batch} × {source_length}, {target_length} "
            f"| {1000 * theirs:.0f} ms | {1000 * ours:.0f} ms | {ratio:.2f} |",
            flush=True,
        )
    print(f"\n{machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {today()}")


if __name__ == "__main__":
    main()
