"""Construction of the task of a DataSpec."""

from collections.abc import Callable

from torch import Tensor

from src.core.data_spec import DataSpec
from src.tasks.base import Task
from src.tasks.classification import BinaryClassification, Classification
from src.tasks.regression import Forecasting, Regression
from src.tasks.sequence_generation import LanguageModelling, Translation
from src.tasks.tagging import Tagging

_CLASSES: dict[str, type[Task]] = {
    task.name: task
    for task in (
        Classification,
        BinaryClassification,
        Regression,
        Forecasting,
        Tagging,
        LanguageModelling,
    )
}


def build_task(spec: DataSpec, decode: Callable[[Tensor], list[str]] | None = None) -> Task:
    """Return the task of the data.

    Args:
        spec: description of the data.
        decode: function that maps target tokens [B, T] to texts, for the BLEU of a translation.
    """
    if spec.task == Translation.name:
        return Translation(spec, decode)
    return _CLASSES[spec.task](spec)
