"""The default of an argument is in the schema of its option and in the constructor of its class, and both agree."""

from typing import Any

import pytest

from src.config.locate import locate
from src.config.schema.base import Option
from src.config.schema.from_signature import schema_of_class
from src.config.schema.registry import SCHEMAS

SHIPPED = [(group, target) for group, classes in SCHEMAS.items() for target in classes if target.startswith("src.")]
UNPASSED = {"target", "name", "default_epochs"}
"""Keys of an option that are not arguments of its class."""


def comparable(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default


@pytest.mark.parametrize(("group", "target"), SHIPPED)
def test_schema_and_constructor_have_the_same_defaults(group: str, target: str) -> None:
    constructor = schema_of_class(locate(target, object), Option, from_run=()).model_fields
    for name, field in SCHEMAS[group][target].model_fields.items():
        if name not in UNPASSED and not field.is_required():
            assert comparable(field.default) == comparable(constructor[name].default), name
