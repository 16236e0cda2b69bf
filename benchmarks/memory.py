"""Memory of a run: python -m benchmarks.memory [--batch-size 128]

The peak of the resident memory during fit, minus that of the process before it, compared with the minimum: parameters, their
gradients, the state of Adam (two numbers per parameter), and the activations that the backward pass of one batch needs
(`torch.autograd.graph.saved_tensors_hooks`, every storage once, without parameters and inputs). Each model runs at its
defaults on images 28×28 in its own process. Two deep models are also measured with model.checkpoint_activations=true
("recomputed"); the activations that are printed for them are those without it. On Linux, on the CPU.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.epoch_cost import CASES, Case
from benchmarks.machine import machine, today
from src import ROOT
from src.core.batches import Batch
from src.core.resources import reset_peak_memory, resident_memory
from src.diagnostics.saved_activations import saved_bytes
from src.models.base import Model
from src.run_store.run_folder import RunFolder
from src.training.build import build_model
from src.training.experiment import build

MIB = 2**20
RESNET = ("model=resnet", "model.blocks_per_stage=3")
TRANSFORMER = ("model=transformer", "model.num_layers=6", "model.d_model=256", "model.num_heads=8", "model.d_ff=1024")


def cases(batch_size: int) -> list[Case]:
    """Return the models of `benchmarks.epoch_cost` and deep ones, for a few steps, which have the peak memory of an epoch."""
    train_size, again = 5 * batch_size, "model.checkpoint_activations=true"
    deep = [
        Case(f"{name}{how}", (*overrides, *more), batch_size, train_size)
        for name, overrides in (("ResNet-20", RESNET), ("transformer, 6 layers, 256 wide", TRANSFORMER))
        for how, more in (("", ()), (", recomputed", (again,)))
    ]
    return [*(replace(case, train_size=train_size) for case in CASES if case.batch_size == batch_size), *deep]


def activations(model: Model, batch: Batch) -> int:
    """Return the bytes that are saved for the backward pass of a batch."""
    for module in model.modules():
        if hasattr(module, "checkpoint_activations"):
            module.checkpoint_activations = False
    return saved_bytes(model, batch)


def measure(case: Case) -> dict[str, float]:
    """Train for one epoch in this process, and return sizes in MiB."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        config = case.config(1, Path(temporary))
        folder = RunFolder.create(Path(temporary) / "run", config.plain(), ["benchmark"])
        experiment = build(config, folder, verbose=False)
        batch = next(iter(experiment.datamodule.loader("train")))
        saved = activations(build_model(config, experiment.datamodule.spec), batch)
        parameters = sum(p.numel() * p.element_size() for p in experiment.model.parameters())
        before = resident_memory()
        reset_peak_memory()
        experiment.trainer.fit(experiment.model, datamodule=experiment.datamodule)
        peak = resident_memory(peak=True) - before
        folder.finish({})
    sizes = {"parameters": parameters, "gradients": parameters, "optimizer": 2 * parameters, "activations": saved}
    return {name: size / MIB for name, size in {**sizes, "peak": peak}.items()}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=128, choices=(32, 128))
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(measure(cases(arguments.batch_size)[arguments.case])))
        return
    print(f"MiB; batch {arguments.batch_size}; {machine()}, torch {torch.__version__}, {today()}\n")
    print("| model | parameters | gradients | optimizer | activations | their sum | peak of fit |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for number, case in enumerate(cases(arguments.batch_size)):
        argv = ["--batch-size", str(arguments.batch_size), "--case", str(number)]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", *argv], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        sizes = json.loads(done.stdout.splitlines()[-1])
        peak = sizes.pop("peak")
        cells = " | ".join(f"{size:.1f}" for size in (*sizes.values(), sum(sizes.values()), peak))
        print(f"| {case.name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
