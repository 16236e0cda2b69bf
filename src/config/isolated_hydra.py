"""A clean global state of Hydra for the duration of a call."""

from collections.abc import Iterator
from contextlib import contextmanager

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from src.compat.hydra_version import version_base
from src.config.groups import CONF


@contextmanager
def own_hydra() -> Iterator[None]:
    """Let Hydra compose, also inside a command or a notebook that uses Hydra itself."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), **version_base()):
            yield
    finally:
        GlobalHydra.instance().clear()
        if before is not None:
            GlobalHydra.instance().hydra = before
