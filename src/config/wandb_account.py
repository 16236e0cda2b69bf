"""The Weights & Biases entities and projects of the user."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config.groups import search_roots
from src.core.wandb_account import Account, client_settings


def user_account(entity: str | None = None, project: str | None = None) -> Account:
    """Return the entities and projects that the user sets in the environment, in W&B's settings file, or in the option file
    ``logger/wandb.yaml`` of a config folder.

    Args:
        entity, project: additional names, such as those of the command line.
    """
    return Account(frozenset(_names("entity", entity)), frozenset(_names("project", project)))


def _names(key: str, additional: str | None) -> Iterator[str]:
    yield from filter(None, (additional, os.environ.get(f"WANDB_{key.upper()}"), client_settings().get(key)))
    for root in search_roots(sys.argv[1:]):
        with suppress(OSError, ValueError, yaml.YAMLError, OmegaConfBaseException):
            if name := OmegaConf.select(OmegaConf.load(root / "logger" / "wandb.yaml"), f"wandb.{key}"):
                yield str(name)
