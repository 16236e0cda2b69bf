"""Batches that worker processes read from files while the model trains; resume is as exact as with data in memory."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_all_start_methods

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.core.batches import Batch, LabelledBatch
from src.core.errors import UserError
from src.core.process import set_parent_death_signal
from src.core.resources import usable_cores
from src.datamodules.loaders.in_memory import BatchLoader

Read = Callable[[Tensor, bool], Tensor]
"""(indices of examples [B], augment) → inputs."""
_START = "fork" if "fork" in get_all_start_methods() else None
"""Start method of workers: fork starts at once, also in a spawned process, where spawn would import everything again."""
PREFETCH = 2
"""Batches that each worker prefetches."""


def default_workers() -> int:
    """Return the default number of reader processes: all cores but one, at least 1 and at most 8."""
    return min(max(usable_cores() - 1, 1), 8)


@dataclass(eq=False, kw_only=True)
class StreamLoader(BatchLoader):
    """Batches in the order of `BatchLoader`, whose inputs are read from files on demand.

    Random operations of the reader (augmentation) depend on seed, epoch and batch only, not on the number of workers,
    and do not change the random state of the process.

    Args:
        split: the targets, with indices of examples as inputs.
        read: reads the inputs; it must be picklable.
        augment: apply the augmentation.
        workers: number of reader processes; 0 reads in this process.
    """

    read: Read
    augment: bool
    workers: int

    def cut(self, indices: Sequence[Tensor], start: int) -> Iterator[Batch]:
        assert isinstance(self.split, LabelledBatch)
        requests = [
            (self.split.x[index], (self.seed, self.epoch, number, self.rank)) for number, index in enumerate(indices)
        ]
        loader = DataLoader(
            _FileDataset(self.read, self.augment),
            batch_size=None,
            sampler=requests[start:],  # type: ignore[arg-type]
            num_workers=self.workers,
            prefetch_factor=PREFETCH if self.workers else None,
            multiprocessing_context=_START if self.workers else None,
            worker_init_fn=_init_worker,
            generator=torch.Generator(),  # draws the unused seeds of workers, instead of the global generator
        )
        batches = iter(loader)
        for index in indices[start:]:
            try:
                inputs = next(batches)
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise UserError(
                    "a data-loading worker was killed, probably out of memory. Set datamodule.workers=0 to read without "
                    "workers, or reduce datamodule.batch_size"
                ) from error
            if isinstance(inputs, UserError):
                raise inputs
            yield LabelledBatch(inputs, self.split.y[index])


def _init_worker(worker: int) -> None:
    """Exit with the run if it is killed: a surviving worker would hold the lock of the run folder and prevent a resume."""
    set_parent_death_signal()


@dataclass(frozen=True)
class _FileDataset(Dataset):
    read: Read
    augment: bool

    def __getitem__(self, request: tuple[Tensor, tuple[int, ...]]) -> Tensor | UserError:
        """Return the inputs, or the error of a file: DataLoader would change the message of a raised exception."""
        index, seed = request
        python_seed, numpy_seed, torch_seed = np.random.SeedSequence(seed).generate_state(3).tolist()
        with isolate_rng(include_cuda=False):
            random.seed(python_seed)
            np.random.seed(numpy_seed)
            torch.default_generator.manual_seed(torch_seed)  # this one alone: torch.manual_seed seeds GPUs too
            try:
                return self.read(index, self.augment)
            except UserError as error:
                return error
