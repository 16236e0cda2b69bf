"""Sizes in a config, which may be recorded by someone else, have an upper bound."""

from collections.abc import Iterator
from typing import Any

import pytest

from src.config.schema.base import Section
from src.config.schema.callbacks import ENTRIES
from src.config.schema.registry import SCHEMAS
from src.config.schema.search import SEARCHES
from src.config.schema.trainer import TrainerOption

NO_SIZES = {
    "default_epochs",
    "early_stopping_patience",
    "every_n_steps",
    "flush_logs_every_n_steps",
    "min_frequency",
    "patience",
    "reduction_factor",
    "startup_jobs",
    "version",
    "warmup_epochs",
}
"""Counts that no memory, process or loop over nothing depends on: how often something is done, or must have occurred."""

SECTIONS: dict[str, type[Section]] = {
    **{target: schema for group in ("model", "datamodule") for target, schema in SCHEMAS[group].items()},
    **ENTRIES,
    **SEARCHES,
}


def unbounded(node: Any, name: str = "") -> Iterator[str]:
    """Yield the names of integers and lists of integers without a largest value, in a JSON schema."""
    if isinstance(node, dict):
        if node.get("type") == "integer" and not {"maximum", "exclusiveMaximum", "enum", "const"} & node.keys():
            yield name
        for key, inner in node.items():
            if key == "properties":
                for field, schema in inner.items():
                    yield from unbounded(schema, field)
            else:
                yield from unbounded(inner, name)
    elif isinstance(node, list):
        for inner in node:
            yield from unbounded(inner, name)


@pytest.mark.parametrize("target", SECTIONS)
def test_every_size_has_a_largest_value(target: str) -> None:
    assert set(unbounded(SECTIONS[target].model_json_schema())) <= NO_SIZES


def test_the_processes_of_a_trainer_are_bounded() -> None:
    def refused(devices: Any) -> str:
        with pytest.raises(ValueError) as caught:
            TrainerOption.model_validate({"devices": devices})
        return str(caught.value)

    for devices in (65, [*range(65)], [0, 65]):
        assert "at most 64 devices" in refused(devices)
    for allowed in (64, [*range(64)], "auto"):
        assert "at most 64 devices" not in refused(allowed)
