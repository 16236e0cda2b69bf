"""Base class of datamodules of labelled files, which are in memory if they fit, and read batch by batch otherwise."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from src.core.batches import Batch, LabelledBatch
from src.core.resources import fits_in_memory
from src.datamodules.class_labels import class_numbers, classes_of
from src.datamodules.io.labelled_folder import Labelled, expand_folders, labelled_files
from src.datamodules.loaders.worker_processes import default_workers
from src.datamodules.preparation import texts
from src.datamodules.splits.holdout import draw_missing_splits, split_paths
from src.datamodules.standardizer import StandardizedData, Standardizer

log = logging.getLogger(__name__)

SCALE_SAMPLES = 2000
"""Training files from which mean and deviation are computed if not all fit into memory."""


class LabelledFiles(StandardizedData):
    """Files with one example each. Validation and test have their own folders, or are drawn, stratified by class.

    If all files together need more than `memory_share` of the free memory, they are read batch by batch.

    Args:
        path: the data folder; with `val_path` and `test_path`, all of it is training data.
        pattern: position of the class in the path of a file below the folder, such as ``{label}_*.wav``; ``*`` matches
            anything within a name. None: one subfolder per class, with files at any depth.
        val_path, test_path: folders of the other splits.
        memory_share: share of the free memory; 0 always reads from the files.
        workers: reader processes if the data do not fit into memory; None: all cores but one.
        split_seed: seed of the splits that are drawn.
        val_fraction, test_fraction: shares of the splits that are drawn.
        common: arguments of `DataModule`.

    Attributes:
        endings: extensions of the files.
        kind: such a file with its article, for error messages.
    """

    task = "classification"
    inputs = "image"
    supports_folds = True
    endings: ClassVar[tuple[str, ...]]
    kind: ClassVar[str]

    def __init__(
        self,
        path: Path,
        pattern: str | None = None,
        val_path: Path | None = None,
        test_path: Path | None = None,
        memory_share: float = 0.5,
        workers: int | None = None,
        split_seed: int = 0,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.paths = split_paths(path, val_path, test_path)
        self.pattern = pattern
        self.memory_share = memory_share
        self.workers = default_workers() if workers is None else workers
        self.split_seed = split_seed
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.classes: tuple[str, ...] = ()
        self._training: Any = None
        """Training examples in memory, if they are augmented."""

    def files(self) -> dict[str, list[Labelled]]:
        """Return path and class of each file of each split."""
        available = {
            name: labelled_files(folder, self.pattern, self.endings, self.kind) for name, folder in self.paths.items()
        }
        return draw_missing_splits(
            available, self.val_fraction, self.test_fraction, self.split_seed, itemgetter(1), self.fold
        )

    @abstractmethod
    def fit_shape(self, files: dict[str, list[Path]]) -> int:
        """Determine the shape of an example, unless it is known; return the bytes that an example needs in memory."""

    @abstractmethod
    def read(self, files: Sequence[Path]) -> Any:
        """Return the raw examples of files."""

    @abstractmethod
    def fit_scale(self, examples: Any) -> Standardizer:
        """Return the standardisation of raw training examples."""

    @abstractmethod
    def to_inputs(self, examples: Any) -> Tensor:
        """Return the inputs of a model [B, C, H, W] for raw examples."""

    def augment(self, examples: Any) -> Any:
        """Return raw examples, changed by a new draw of `augmentation`."""
        return examples

    def load(self) -> dict[str, Batch]:
        splits = self.files()
        files = {name: [path for path, _ in split] for name, split in splits.items()}
        folders = {name: str(self.source_path(name)) for name in files}
        if not self.classes:
            self.classes = classes_of((label for _, label in splits["train"]), folders["train"])
        targets = {
            name: class_numbers([label for _, label in split], self.classes, folders[name])
            for name, split in splits.items()
        }
        count = sum(map(len, files.values()))
        needed = count * self.fit_shape(files)
        if not fits_in_memory(needed, self.memory_share, f"{next(iter(folders.values()))}: {count:,} files"):
            return self._load_streamed(files, targets)
        self.readers = {}
        examples = {name: self.read(paths) for name, paths in files.items()}
        if self.augmentation is not None:
            self._training = examples["train"]
        if self.scale is None:
            self.scale = self.fit_scale(examples["train"])
        return {name: LabelledBatch(self.to_inputs(examples.pop(name)), y) for name, y in targets.items()}

    def _load_streamed(self, files: dict[str, list[Path]], targets: dict[str, Tensor]) -> dict[str, Batch]:
        if self.scale is None:
            train = files["train"]
            sample = np.random.default_rng(self.split_seed).choice(
                len(train), min(SCALE_SAMPLES, len(train)), replace=False
            )
            log.info("inputs are standardised with %s of %s training files", f"{len(sample):,}", f"{len(train):,}")
            self.scale = self.fit_scale(self.read([train[i] for i in sample]))
        source = copy(self)
        source.trainer, source._splits, source.readers = None, None, {}
        self.readers = {name: _FileReader(source, paths) for name, paths in files.items()}
        return {name: LabelledBatch(torch.arange(len(y)), y) for name, y in targets.items()}

    def augmented(self, index: Tensor) -> Tensor:
        return self.to_inputs(self.augment([self._training[i] for i in index.tolist()]))

    def encode(self, inputs: Sequence[str]) -> Batch:
        """Each input is a file, or a folder of them."""
        x = self.to_inputs(self.read([Path(text) for text in self.listed(inputs)]))
        return LabelledBatch(x, torch.zeros(len(x), dtype=torch.int64))

    def listed(self, inputs: Sequence[str]) -> list[str]:
        return expand_folders(inputs, self.endings)

    def example_inputs(self, count: int = 3) -> list[str]:
        return [str(path) for path, _ in self.files()["test"][:count]]

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return state | {"classes": list(self.classes)} if state else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.classes = texts(state_dict, "classes")


@dataclass(frozen=True)
class _FileReader:
    """Reads inputs of a split by index.

    Args:
        source: the datamodule, without data and trainer, so that it can be sent to a worker.
        files: files of the split.
    """

    source: LabelledFiles
    files: list[Path]

    def __call__(self, index: Tensor, augment: bool = False) -> Tensor:
        examples = self.source.read([self.files[i] for i in index.tolist()])
        return self.source.to_inputs(self.source.augment(examples) if augment else examples)
