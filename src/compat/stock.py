"""Stock mode: `GRIDLIGHT_STOCK=1` turns off every use of private names of a dependency."""

import logging
import os
from functools import cache

log = logging.getLogger(__name__)

STOCK = "GRIDLIGHT_STOCK"


def is_stock() -> bool:
    """Return whether the environment variable `GRIDLIGHT_STOCK` is set to anything but ``0``."""
    return os.environ.get(STOCK, "0") not in ("", "0")


@cache
def log_fallback(what: str, reason: str) -> None:
    """Log once what is replaced by a dependency's own way, and why.

    Args:
        what: the replaced part, and what is used in its place.
        reason: why, such as a private name that is missing.
    """
    log.warning("%s (%s)", what, reason)


def fallback_reason(error: Exception) -> str:
    """Return the reason of a fallback: stock mode, or the private name that an installed version lacks."""
    return f"{STOCK} is set" if is_stock() else f"this version of a library is not supported: {error}"
