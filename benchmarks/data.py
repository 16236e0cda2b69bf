"""Speed and memory of data loading: python -m benchmarks.data [--images 2000] [--sounds 1000] [--epochs 3]

Folders of images (JPEG, 96×96 in color, resized to 64×64) and of sounds (WAV, one second at 16 kHz, as log-mel
spectrograms) are written to a temporary folder and read completely: held in memory, and batch by batch with 0, 1 and 2
workers. No model trains meanwhile. Each mode runs in its own process, so that its peak memory is measured separately, and so
is that of the workers. Results are medians of epochs over the training split, after one warm-up epoch.
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
MODES = {
    "in memory": (1.0, 0),
    "from files, 0 workers": (0.0, 0),
    "from files, 1 worker": (0.0, 1),
    "from files, 2 workers": (0.0, 2),
}
"""Memory share and number of workers of each mode."""


def write_images(folder: Path, count: int) -> None:
    """Write images with the spatial frequencies of photographs: enlarged noise."""
    generator = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        path = folder / f"class{number % 10}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small.resize((96, 96), Image.Resampling.BICUBIC).save(path, quality=90)


def write_sounds(folder: Path, count: int) -> None:
    """Write sounds of one second of noise."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class{number % 10}" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        wavfile.write(path, 16_000, generator.normal(0, 3000, 16_000).astype(np.int16))


def build_datamodule(kind: str, folder: Path, mode: str) -> DataModule:
    """Return a datamodule of a folder in one mode."""
    share, workers = MODES[mode]
    common = {"memory_share": share, "workers": workers, "batch_size": BATCH}
    if kind == "images":
        return ImageFolder(folder, size=[64, 64], **common)
    return AudioFolder(folder, **common)


def measure(kind: str, folder: Path, mode: str, epochs: int) -> dict[str, float]:
    """Return seconds until the data are ready, examples per second, and peak memory in bytes."""
    started = time.perf_counter()
    data = build_datamodule(kind, folder, mode)
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
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs of each mode")
    parser.add_argument("--one", nargs=3, metavar=("KIND", "FOLDER", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, folder, mode = arguments.one
        print(json.dumps(measure(kind, Path(folder), mode, arguments.epochs)))
        return
    print(
        f"{machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {today()}; {load()}; "
        f"workers by default here: {default_workers()}\n"
    )
    print(
        "| data | read | ready after | examples a second | peak of memory | of a worker |\n|---|---|---:|---:|---:|---:|"
    )
    for kind, count, write in (("images", arguments.images, write_images), ("sounds", arguments.sounds, write_sounds)):
        with tempfile.TemporaryDirectory() as temporary:
            write(Path(temporary), count)
            for mode in MODES:
                command = [sys.executable, "-m", "benchmarks.data", "--epochs", str(arguments.epochs)]
                done = subprocess.run([*command, "--one", kind, temporary, mode], capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
                measured = json.loads(done.stdout.splitlines()[-1])
                worker = f"{measured['worker_peak'] / 1e6:.0f} MB" if MODES[mode][1] else ""
                print(
                    f"| {count:,} {kind} | {mode} | {measured['ready']:.1f} s | {measured['rate']:,.0f} "
                    f"| {measured['peak'] / 1e6:.0f} MB | {worker} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
