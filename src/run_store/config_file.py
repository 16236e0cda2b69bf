"""Write a config as YAML."""

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import yaml

from src.core.errors import UserError


def as_yaml(config: Mapping[str, Any]) -> str:
    """Return a config as YAML for config.yaml: as OmegaConf writes it, in a tenth of the time. The text of a section that
    several configs share is cached.
    """
    return "".join(_section_as_yaml(key, json.dumps(to_plain(value))) for key, value in config.items())


@lru_cache(maxsize=1000)
def _section_as_yaml(key: str, value: str) -> str:
    try:
        return yaml.dump({key: json.loads(value)}, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    except UnicodeEncodeError as error:
        context = error.object[max(error.start - 20, 0) : error.end + 20]
        raise UserError(f"{key}: {context!r} cannot be encoded in UTF-8: it contains a single surrogate") from error


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Quotes texts that OmegaConf would read back as numbers: in YAML 1.1 itself, 1e-3 is a text."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="'" if _is_number(text) else None)


_Dumper.add_representer(str, _Dumper.represent_text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def to_plain(value: Any) -> Any:
    """Return a value as JSON can represent it: plain containers, and null for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # tensors, and arrays and scalars of NumPy
        return to_plain(value.tolist())
    return str(value)
