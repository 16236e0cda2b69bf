"""Upper bounds of the sizes in a config, which may be a record from someone else."""

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
"""Counts that determine neither memory nor the number of processes, such as how often something is done."""

SECTIONS: dict[str, type[Section]] = {
    **{target: schema for group in ("model", "datamodule") for target, schema in SCHEMAS[group].items()},
    **ENTRIES,
    **SEARCHES,
}


def unbounded(node: Any, name: str = "") -> Iterator[str]:
    """Yield the names of integers and lists of integers without an upper bound in a JSON schema."""
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
def test_every_size_has_an_upper_bound(target: str) -> None:
    assert set(unbounded(SECTIONS[target].model_json_schema())) <= NO_SIZES


def test_number_of_devices_is_bounded() -> None:
    def error_message(devices: Any) -> str:
        with pytest.raises(ValueError) as caught:
            TrainerOption.model_validate({"devices": devices})
        return str(caught.value)

    for devices in (65, [*range(65)], [0, 65]):
        assert "at most 64 devices" in error_message(devices)
    for allowed in (64, [*range(64)], "auto"):
        assert "at most 64 devices" not in error_message(allowed)
