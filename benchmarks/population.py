"""Speed of fused training steps: python -m benchmarks.population [--repeats 5] [--members 1,16,64] [--device cpu]

Optimizer steps (forward, backward, AdamW) of K models as one, compared with the same models one after the other in a bare
loop over torch's own layers and optimizer, alternating in one process; on a CPU with one thread. Results are medians; the
ratio is the median of the ratios of neighboring measurements. If K separate models take more than `--patience` seconds per
repetition, only a part of them is timed.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median

import lightning as L
import torch
from torch.optim import Optimizer

from benchmarks.machine import load, machine, today
from src.config.compose import compose
from src.config.validate import check
from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.fused.population.population import Population
from src.models.base import Model
from src.optim.factory import build_optimizer
from src.training.build import build_model

DIGITS = DataSpec("classification", "image", (1, 8, 8), (10,))
FASHION = DataSpec("classification", "image", (1, 28, 28), (10,))
SERIES = DataSpec("forecasting", "sequence", (48, 1), (1, 1))

CASES = {
    "MLP 64-128-64-10, digits": (DIGITS, ["model=mlp"]),
    "CNN 16-32, 8×8": (DIGITS, ["model=cnn"]),
    "CNN 16-32, 28×28": (FASHION, ["model=cnn"]),
    "ResNet-8, 8×8": (DIGITS, ["model=resnet"]),
    "LSTM 64, 48 steps": (SERIES, ["model=lstm"]),
    "GRU 64, 48 steps": (SERIES, ["model=gru"]),
    "transformer 64 wide, 2 layers, 28 rows": (
        FASHION,
        ["model=transformer", "datamodule=digits", "model.d_model=64", "model.d_ff=128", "regularization.dropout=0.0"],
    ),
}
BATCH = 32


def members(spec: DataSpec, overrides: list[str], count: int, device: str) -> tuple[list[Model], list[Optimizer]]:
    """Return models with different seeds, and an AdamW for each."""
    config = check(compose([*overrides, "optimizer=adamw"]))
    models = []
    for seed in range(count):
        L.seed_everything(seed, verbose=False)
        models.append(build_model(config, spec).to(device).train())
    return models, [build_optimizer(model, config) for model in models]


def batches(spec: DataSpec, count: int, device: str) -> Batch:
    """Return a random batch of each member."""
    x = torch.randn(count, BATCH, *spec.input_shape, device=device)
    if spec.task == "classification":
        return LabelledBatch(x, torch.randint(spec.output_size, (count, BATCH), device=device))
    return LabelledBatch(x, torch.randn(count, BATCH, *spec.output_shape, device=device))


def step_separately(models: Sequence[Model], optimizers: Sequence[Optimizer], batch: Batch) -> None:
    """Take a step of every model, one after the other."""
    for row, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
        member_batch = LabelledBatch(*(tensor[row] for tensor in batch))
        clip = model.training_config.regularization.gradient_clip_norm
        loss = model.task.losses(model(member_batch.x), member_batch.y).mean()
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


def seconds(step: Callable[[], object], steps: int, device: str) -> float:
    """Return the duration of one of several calls."""
    started = time.perf_counter()
    for _ in range(steps):
        step()
    if device != "cpu":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / steps


def measure(
    spec: DataSpec, overrides: list[str], count: int, repeats: int, device: str, patience: float
) -> list[float]:
    """Return medians of a step of all members in milliseconds, fused and separate, and of the ratios."""
    fused, single = members(spec, overrides, count, device), members(spec, overrides, count, device)
    population, batch = Population(*fused), batches(spec, count, device)
    for _ in range(3):
        population.step(batch)
    step_separately(*single, batch)
    guess = seconds(lambda: step_separately(*single, batch), 1, device)
    timed = max(1, min(count, int(count * patience / guess)))
    timed_models = single[0][:timed], single[1][:timed]
    steps = max(1, min(50, int(0.5 / guess)))
    pairs = []
    for _ in range(repeats):
        one = seconds(lambda: population.step(batch), steps, device)
        other = seconds(lambda: step_separately(*timed_models, batch), steps, device) * count / timed
        pairs.append((one, other))
    return [
        1e3 * median(one for one, _ in pairs),
        1e3 * median(other for _, other in pairs),
        median(other / one for one, other in pairs),
    ]


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.population", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--members", default="1,16,64")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--patience", type=float, default=5.0)
    parser.add_argument("--only", default="", help="run the cases with this text in their name")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    initial_load = load()
    where = machine() if arguments.device == "cpu" else torch.cuda.get_device_name()
    print(
        f"batch {BATCH}, AdamW, float32; {where}, 1 thread; torch {torch.__version__}, {today()}; {initial_load} before\n"
    )
    print("| model | members | fused | separate | member steps per second | ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, (spec, overrides) in CASES.items():
        if arguments.only.lower() not in name.lower():
            continue
        for count in map(int, arguments.members.split(",")):
            one, other, ratio = measure(spec, overrides, count, arguments.repeats, arguments.device, arguments.patience)
            print(
                f"| {name} | {count} | {one:.2f} ms | {other:.2f} ms | {1e3 * count / one:,.0f} | {ratio:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
