"""Tables that are shipped with scikit-learn: vectors of numeric features with one target."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.datamodules.io.numeric_table import read_rows
from src.datamodules.preparation import part
from src.datamodules.splits.holdout import split_indices
from src.datamodules.standardizer import StandardizedData, Standardizer


class SklearnTable(StandardizedData):
    """A table whose columns are standardised with mean and standard deviation of the training split.

    A regression target is standardised too, so that the loss does not depend on its unit. Metrics are on this scale;
    predictions are in the original unit.

    Args:
        split_seed: seed of the split, which is stratified by class.
        val_fraction, test_fraction: shares of the rows.
        common: arguments of `DataModule`.
    """

    inputs = "vector"
    supports_folds = True
    source: ClassVar[Callable[[], Any]]

    def __init__(
        self, split_seed: int = 0, val_fraction: float = 0.15, test_fraction: float = 0.15, **common: Any
    ) -> None:
        super().__init__(**common)
        self.split_seed = split_seed
        self.fractions = (val_fraction, test_fraction)
        self._bunch = type(self).source()
        self.target_scale: Standardizer | None = None

    @property
    def _columns(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self._bunch.feature_names)

    def _parts(self) -> dict[str, Any]:
        classes = None if self.task == "regression" else self._bunch.target
        return split_indices(len(self._bunch.target), *self.fractions, self.split_seed, classes, self.fold)

    def load(self) -> dict[str, Batch]:
        parts = self._parts()
        x = torch.tensor(self._bunch.data, dtype=torch.float64)
        y = torch.tensor(self._bunch.target)
        if self.scale is None:
            self.scale = Standardizer.fit(x[parts["train"]])
        if self.task == "regression":
            y = y.double().unsqueeze(1)
            if self.target_scale is None:
                self.target_scale = Standardizer.fit(y[parts["train"]])
            y = self.target_scale.apply(y)
        else:
            y = y.long() if self.task == "classification" else y.float()
        x = self.scale.apply(x)
        return {name: LabelledBatch(x[index], y[index]) for name, index in parts.items()}

    @property
    def spec(self) -> DataSpec:
        classes = () if self.task == "regression" else tuple(str(name) for name in self._bunch.target_names)
        shapes: dict[str, tuple[int, ...]] = {"classification": (len(classes),), "binary_classification": ()}
        return DataSpec(
            self.task,
            self.inputs,
            (len(self._columns),),
            shapes.get(self.task, (1,)),
            class_names=classes,
            feature_names=self._columns,
            target_names=("target",) if self.task == "regression" else (),
        )

    def encode(self, inputs: Sequence[str]) -> Batch:
        """Each input is a CSV row of the features, or a CSV file of such rows."""
        assert self.scale is not None
        x = self.scale.apply(torch.tensor(read_rows(inputs, self._columns), dtype=torch.float64))
        return LabelledBatch(x, torch.zeros(len(x)))

    def example_inputs(self, count: int = 3) -> list[str]:
        return [",".join(f"{v:g}" for v in self._bunch.data[i]) for i in self._parts()["test"][:count]]

    def decode_predictions(self, predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.target_scale is None:
            return predictions
        return [
            {"prediction": self.target_scale.undo(0, prediction["prediction"]["target"])} for prediction in predictions
        ]

    def state_dict(self) -> dict[str, Any]:
        targets = {"target_scale": self.target_scale.to_plain()} if self.target_scale else {}
        return super().state_dict() | targets

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.task == "regression":
            self.target_scale = Standardizer.from_plain(part(state_dict, "target_scale"))


class BreastCancer(SklearnTable):
    """Malignant or benign, from 30 measurements of cell nuclei in each of 569 samples (UCI, Wisconsin diagnostic)."""

    task = "binary_classification"
    source = load_breast_cancer


class Wine(SklearnTable):
    """Three cultivars, from 13 chemical measurements of 178 wines (UCI)."""

    task = "classification"
    source = load_wine


class Diabetes(SklearnTable):
    """Progression of the disease after one year, from 10 features of 442 patients (Efron et al. 2004).

    The features are in original units; by default, scikit-learn scales them with statistics of all rows, test rows included.
    """

    task = "regression"
    source = partial(load_diabetes, scaled=False)
