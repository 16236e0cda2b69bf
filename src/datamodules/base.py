"""Base class of all datamodules: seeded loaders over tensors, and the preparation that is stored in checkpoints."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, Self

import lightning as L
import numpy as np
import torch
from torch import Tensor

from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.core.resources import format_bytes
from src.datamodules.loaders.in_memory import BatchLoader
from src.datamodules.loaders.worker_processes import StreamLoader
from src.datamodules.splits.cross_validation import Fold, factorize
from src.tasks.naive_baseline import score_naive_baseline

log = logging.getLogger(__name__)

DEVICE_SHARE = 0.5
"""Share of a GPU's free memory that the data may occupy; larger data stay in host memory."""


class DataModule(L.LightningDataModule):
    """A data source. Its splits are tensors in memory, or (`readers`) are read from files batch by batch.

    A subclass declares `task` and `inputs`, takes its own settings as keyword arguments, and implements `load`,
    `spec` and `encode`. It returns what it fitted on the training split (means, vocabularies) from `state_dict` as
    plain containers and restores it in `load_state_dict`, so that evaluation and prediction prepare data exactly
    as training did. If a preparation was loaded, `load` must use it instead of fitting a new one.

    Args:
        batch_size: examples per step and device.
        seed: seed of the shuffling.
        shuffle: draw a new order of the training examples in every epoch.
        data_dir: folder of the public files.
        write_dir: folder to which downloads and caches are written, and in which files are searched too; None: `data_dir`.
            It differs if `data_dir` comes from a record of someone else: a recorded folder is read, never written.
        fold: fold of a cross-validation; None: no cross-validation.
        augmentation: augmentation of raw training examples; None: none.

    Attributes:
        task: name of the task that the data define.
        inputs: kind of one input: vector, image, sequence or tokens.
        raw: kind of a raw example that can be augmented before it becomes an input: text or audio; None: there is none.
        supports_folds: whether `load` splits training and validation data by `fold`, before it fits anything.
        readers: for each split that is not in memory, a picklable function (indices of examples [B], augment) → inputs.
        workers: number of reader processes; 0 reads in this process.
        movable: whether splits may be moved to the training device.
        paths: paths of the splits that the user gave, in datamodules that take a path per split; the others are drawn from
            train.
        whole: whether the whole file of the user is the test split; `load` then returns only this split.

    Raises:
        UserError: if a fold is given and the class does not support folds.
    """

    task: ClassVar[str]
    inputs: ClassVar[str]
    raw: ClassVar[str | None] = None
    supports_folds: ClassVar[bool] = False

    def __init__(
        self,
        batch_size: int = 64,
        seed: int = 0,
        shuffle: bool = True,
        data_dir: Path = Path("data"),
        write_dir: Path | None = None,
        fold: Fold | None = None,
        augmentation: Any = None,
    ) -> None:
        if fold is not None and not self.supports_folds:
            raise UserError(f"cross_validation: {type(self).__name__} does not support folds (docs/extending.md)")
        super().__init__()
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.data_dir = data_dir
        self.write_dir = write_dir or data_dir
        self.fold = fold
        self.augmentation = augmentation
        self.readers: dict[str, Callable[[Tensor, bool], Tensor]] = {}
        self.workers = 0
        self.movable = True
        self.paths: dict[str, Path] = {}
        self.whole = False
        self._loads_all = True
        self._splits: dict[str, Batch] | None = None
        self._moved: dict[str, Batch] = {}

    def with_batch_size(self, batch_size: int) -> Self:
        """Return a datamodule with another batch size, which shares the loaded data and has no trainer."""
        other = copy(self)
        other.batch_size, other.trainer = batch_size, None
        return other

    def attach(self, trainer: L.Trainer) -> None:
        """Load data for the device of a trainer to which loaders are passed instead of this datamodule."""
        self.trainer = trainer

    def groups(self, column: str) -> Sequence[Any]:
        """Return the value of a column for each example; a cross-validation keeps examples of equal values in one fold.

        Raises:
            UserError: if the data have no such column.
        """
        raise UserError(f"cross_validation.group={column}: {type(self).__name__} has no columns to group by")

    def fold_groups(self) -> np.ndarray | None:
        """Return the group index [N] of each example if the cross-validation splits by groups, else None."""
        column = self.fold.group if self.fold else None
        return None if column is None else factorize([str(value) for value in self.groups(column)])[1]

    @abstractmethod
    def load(self) -> dict[str, Batch]:
        """Return each whole split as one batch: {"train": …, "val": …, "test": …}. Where `readers` make the inputs, the
        batch holds the indices of the examples instead.
        """

    def load_only(self, name: str, whole: bool = False) -> None:
        """Load one split only, if it has its own file. The preparation must have been loaded before.

        Args:
            name: train, val or test.
            whole: use the whole file of the user as this split.
        """
        self._loads_all, self.whole, self._splits = False, whole, None
        has_own_file = name in self.paths and (name == "test" or (name == "val" and self.fold is None))
        if self.paths and (whole or has_own_file):
            self.paths = {name: self.paths["train" if whole else name]}

    def source_path(self, name: str) -> Path:
        """Return the path from which a split is read: its own, or that of train."""
        return self.paths.get(name) or self.paths["train"]

    @property
    @abstractmethod
    def spec(self) -> DataSpec:
        """The `DataSpec` from which a model is built; available after `setup`."""

    def baseline(self) -> dict[str, float]:
        """Return the metrics of the naive baseline (majority class, mean, last value) on the test split."""
        train, test = self.split("train"), self.split("test")
        return score_naive_baseline(self.spec, train, test)

    @abstractmethod
    def encode(self, inputs: Sequence[str]) -> Batch:
        """Turn the inputs of `predict` into a batch; targets are filled with zeros.

        Args:
            inputs: one text per example: the path of a file, a CSV row, or a sentence, as the subclass documents.

        Raises:
            UserError: if an input cannot be read; names the file, row and column.
        """

    def example_inputs(self, count: int = 3) -> list[str]:
        """Return inputs of the test split in the form that `encode` accepts; for documentation and tests."""
        return []

    def decode_predictions(self, predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Convert predictions of the task to the units and texts of the data."""
        return predictions

    def token_names(self, tokens: Sequence[int], target: bool = False) -> list[str]:
        """Return each token as readable text; with `target`, tokens of the target vocabulary, if there are two vocabularies."""
        return [str(token) for token in tokens]

    texts: Callable[[Tensor], list[str]] | None = None
    """A method that turns target tokens [B, T] into texts, if BLEU is computed on texts."""

    def training_texts(self) -> list[str]:
        """Return the untokenized training texts in the order of the split; only where `raw` is ``text``."""
        raise UserError(f"{type(self).__name__} does not implement `training_texts`")

    def augmented(self, index: Tensor) -> Tensor:
        """Return the inputs of training examples [B], changed by a new draw of `augmentation`."""
        raise AssertionError(f"{type(self).__name__} has no raw examples")

    def collate(self, batch: Batch) -> Batch:
        """Post-process a batch that was cut out of a split; override to remove unneeded padding."""
        return batch

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a preparation. Subclasses call this first: it discards splits that were made with a different preparation."""
        if state_dict != self.state_dict():
            self._splits = None

    def setup(self, stage: str | None = None) -> None:
        if self._splits is not None:
            return
        if self._loads_all:
            self.fold_groups()  # raises for an unknown column, even if `load` does not call it
        try:
            self._splits, self._moved = self.load(), {}
        except UserError as error:
            message = str(error)
            paths = [str(path) for path in self.paths.values()]
            if paths and not any(path in message for path in paths):
                message = f"{paths[0]}: {message}"
            if self.fold is not None:
                message = f"cross_validation, fold {self.fold.number} of {self.fold.of}: {message}"
            raise UserError(message) from error

    @property
    def splits(self) -> dict[str, Batch]:
        """All splits as `load` made them; available after `setup`."""
        assert self._splits is not None
        return self._splits

    def split(self, name: str) -> Batch:
        """Return one whole split as `load` made it; load the data first, if necessary."""
        self.setup()
        return self.splits[name]

    def examples(self, name: str, count: int) -> Batch:
        """Return the first examples of a split as inputs of a model."""
        split = self.split(name)
        batch = type(split)(*(tensor[:count] for tensor in split))
        return batch._replace(x=self.readers[name](batch[0], False)) if name in self.readers else batch  # type: ignore[call-arg]

    def listed(self, inputs: Sequence[str]) -> list[str]:
        """Expand the inputs of `predict` to one per example: for data of files, a folder becomes its files."""
        return list(inputs)

    def loader(self, name: str, shuffle: bool = False, augment: bool = False) -> BatchLoader:
        """Return the loader of one split; on several devices, of the share of this device.

        Args:
            name: train, val or test.
            shuffle: draw a new order in every epoch.
            augment: apply `augmentation` to training examples, if there is one.
        """
        split = self.split(name)
        options: dict[str, Any] = {
            "shuffle": shuffle,
            "seed": self.seed,
            "training": name == "train",
            "rank": self.trainer.global_rank if self.trainer else 0,
            "world_size": self.trainer.world_size if self.trainer else 1,
            "collate": self.collate,
        }
        if name in self.readers:
            assert isinstance(split, LabelledBatch)
            options |= {"read": self.readers[name], "augment": augment, "workers": self.workers}
            return StreamLoader(split, self.batch_size, **options)
        if augment and self.augmentation is not None:
            split = LabelledBatch(torch.arange(len(split.targets)), split.targets)
            options["collate"] = self._augmented_batch
        else:
            split = self._on_device(name, split)
        return BatchLoader(split, self.batch_size, **options)

    def _on_device(self, name: str, split: Batch) -> Batch:
        """Return a split on the training device, if all splits fit there."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if device.type != "cuda" or not self.movable:
            return split
        if name not in self._moved:
            needed = size_of(self.splits.values())
            free = torch.cuda.mem_get_info(device)[0] + size_of(self._moved.values())
            if needed > DEVICE_SHARE * free:
                log.info(
                    "data: %s stay in host memory: %s has %s free", format_bytes(needed), device, format_bytes(free)
                )
                return split
            self._moved[name] = type(split)(*(tensor.to(device) for tensor in split))
            log.info("data: %s of %s is resident on %s", format_bytes(size_of([split])), name, device)
        return self._moved[name]

    def _augmented_batch(self, batch: Batch) -> Batch:
        assert isinstance(batch, LabelledBatch)
        return self.collate(batch._replace(x=self.augmented(batch.x)))

    def log_storage(self) -> None:
        """Log how the data are stored."""
        if self.readers:
            reader = {0: "this process", 1: "a worker process"}.get(self.workers, f"{self.workers} worker processes")
            log.info("data: read from files batch by batch, by %s", reader)
        elif self.movable:
            log.info("data: %s in memory, as tensors", format_bytes(size_of(self.splits.values())))

    def train_dataloader(self) -> BatchLoader:
        return self.loader("train", shuffle=self.shuffle, augment=True)

    def val_dataloader(self) -> BatchLoader:
        return self.loader("val")

    def test_dataloader(self) -> BatchLoader:
        return self.loader("test")


def size_of(batches: Iterable[Batch]) -> int:
    """Return the total size of the tensors of several batches, in bytes."""
    return sum(tensor.numel() * tensor.element_size() for batch in batches for tensor in batch)
