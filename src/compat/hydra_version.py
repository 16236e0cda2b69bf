"""Differences between Hydra 1.3 and 1.4."""

from importlib.metadata import version


def version_base() -> dict[str, str]:
    """Return arguments of ``hydra.main`` and ``initialize_config_dir``: Hydra 1.3 needs `version_base`, and 1.4 deprecates it."""
    return {"version_base": "1.3"} if version("hydra-core").startswith("1.3.") else {}
