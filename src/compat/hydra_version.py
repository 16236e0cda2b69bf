"""Differences between Hydra 1.3 and 1.4."""

from importlib.metadata import version

VERSION_BASE = {"version_base": "1.3"} if version("hydra-core").startswith("1.3.") else {}
"""Arguments of ``hydra.main`` and ``initialize_config_dir``: Hydra 1.4 deprecates `version_base`, and 1.3 warns without it."""
