"""Construction of the task of a DataSpec."""

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
        Translation,
    )
}


def build_task(spec: DataSpec) -> Task:
    """Return the task of the data."""
    return _CLASSES[spec.task](spec)
