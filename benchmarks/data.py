"""How fast data come: python -m benchmarks.data [--images 2000] [--sounds 1000] [--epochs 3]

Folders of pictures (JPEG, 96×96 in colours, brought to 64×64) and of sounds (WAV, one second at 16 kHz, as log-mel
spectrograms) are written to a temporary folder and read whole: held in memory, and batch by batch with 0, 1 and 2 workers.
Nothing trains meanwhile. Each way has a process of its own, so that its peak of memory is its own; workers' memory is told
apart. Figures are medians of epochs over the training split, behind a first one that warms up.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from scipy.io import wavfile

from benchmarks.machine import load, machine, today
from src.datamodules.audio.audio_folder import AudioFolder
from src.datamodules.base import DataModule
from src.datamodules.loaders.worker_processes import default_workers
from src.datamodules.vision.image_folder import ImageFolder

BATCH = 64
WAYS = {
    "in memory": (1.0, 0),
    "from files, 0 workers": (0.0, 0),
    "from files, 1 worker": (0.0, 1),
    "from files, 2 workers": (0.0, 2),
}
"""For each way: the share of memory, and the workers."""


def write_images(folder: Path, count: int) -> None:
    """Write pictures with the frequencies of photographs: noise, smoothed by enlarging."""
    generator = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        path = folder / f"class{number % 10}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small.resize((96, 96), Image.Resampling.BICUBIC).save(path, quality=90)


def write_sounds(folder: Path, count: int) -> None:
    """Write a second of noise each."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class{number % 10}" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        wavfile.write(path, 16_000, generator.normal(0, 3000, 16_000).astype(np.int16))


def made(kind: str, folder: Path, way: str) -> DataModule:
    """Return a datamodule of a folder, read one way."""
    share, workers = WAYS[way]
    common = {"memory_share": share, "workers": workers, "batch_size": BATCH}
    if kind == "images":
        return ImageFolder(folder, size=[64, 64], **common)
    return AudioFolder(folder, **common)


def figures(kind: str, folder: Path, way: str, epochs: int) -> dict[str, float]:
    """Return seconds until the data are ready, examples a second, and the peak of memory in bytes."""
    started = time.perf_counter()
    data = made(kind, folder, way)
    data.setup()
    ready = time.perf_counter() - started
    loader, rates = data.train_dataloader(), []
    for epoch in range(epochs + 1):
        loader.set_epoch(epoch)
        started, count = time.perf_counter(), 0
        for batch in loader:
            count += len(batch[0])
        rates.append(count / (time.perf_counter() - started))
    peaks = (resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return dict(zip(("ready", "rate", "peak", "worker_peak"), (ready, median(rates[1:]), *peaks), strict=True))


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--sounds", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs of each way")
    parser.add_argument("--one", nargs=3, metavar=("KIND", "FOLDER", "WAY"), help=argparse.SUPPRESS)
    overrides = parser.parse_args()
    if overrides.one:
        kind, folder, way = overrides.one
        print(json.dumps(figures(kind, Path(folder), way, overrides.epochs)))
        return
    print(
        f"{machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {today()}; {load()}; "
        f"workers by default here: {default_workers()}\n"
    )
    print(
        "| data | read | ready after | examples a second | peak of memory | of a worker |\n|---|---|---:|---:|---:|---:|"
    )
    for kind, count, write in (("images", overrides.images, write_images), ("sounds", overrides.sounds, write_sounds)):
        with tempfile.TemporaryDirectory() as temporary:
            write(Path(temporary), count)
            for way in WAYS:
                command = [sys.executable, "-m", "benchmarks.data", "--epochs", str(overrides.epochs)]
                done = subprocess.run([*command, "--one", kind, temporary, way], capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
                found = json.loads(done.stdout.splitlines()[-1])
                worker = f"{found['worker_peak'] / 1e6:.0f} MB" if WAYS[way][1] else ""
                print(
                    f"| {count:,} {kind} | {way} | {found['ready']:.1f} s | {found['rate']:,.0f} "
                    f"| {found['peak'] / 1e6:.0f} MB | {worker} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
