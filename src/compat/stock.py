"""Stock mode: `GRIDLIGHT_STOCK=1` turns off all uses of private names of dependencies."""

import logging
import os
from functools import cache

log = logging.getLogger(__name__)

STOCK = "GRIDLIGHT_STOCK"


def is_stock() -> bool:
    """Return whether the environment variable `GRIDLIGHT_STOCK` is set to anything but ``0``."""
    return os.environ.get(STOCK, "0") not in ("", "0")


@cache
def log_fallback(fallback: str, reason: str) -> None:
    """Log once that a dependency's own behavior is used, and why.

    Args:
        fallback: description of the behavior that is used instead.
        reason: why, such as a private name that is missing.
    """
    log.warning("%s (%s)", fallback, reason)


def fallback_reason(error: Exception) -> str:
    """Return the reason of a fallback: stock mode, or a private name that the installed version lacks."""
    return f"{STOCK} is set" if is_stock() else f"this version of a library is not supported: {error}"
