"""Temporary replacement of Hydra's global state."""

from collections.abc import Iterator
from contextlib import contextmanager

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from src.compat.hydra_version import version_base
from src.config.groups import CONF


@contextmanager
def isolated_hydra() -> Iterator[None]:
    """Initialize Hydra with conf/ in a context, and restore its previous global state on exit.

    Configs can then be composed inside a command or a notebook that uses Hydra itself.
    """
    previous = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), **version_base()):
            yield
    finally:
        GlobalHydra.instance().clear()
        if previous is not None:
            GlobalHydra.instance().hydra = previous
