"""Count the jobs of sweeps that have not started."""

import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from src.core.errors import UserError
from src.core.files import is_file_below, open_below
from src.sweeping.ledger import LEDGER, LOCK, Ledger

log = logging.getLogger(__name__)


def pending(paths: Iterable[Path]) -> tuple[int, bool]:
    """Return how many jobs of the sweeps in these folders, or directly below them, have not started, and whether a driver
    process is running that will start them.
    """
    ledgers = {file.absolute() for path in paths for pattern in (LEDGER, f"*/{LEDGER}") for file in path.glob(pattern)}
    count, is_running = 0, False
    for file in ledgers:
        with suppress(UserError):  # the runs of a sweep can be read even if its ledger is damaged
            ledger = Ledger.open(file.parent, on_damage=log.warning)
            count += sum(not is_file_below(file.parent, f"{job.slug}/config.yaml") for job in ledger.jobs)
            is_running = is_running or _is_driven(file.parent)
    return count, is_running


def _is_driven(sweep: Path) -> bool:
    """Return whether a process holds the lock of a sweep; True on systems without file locks."""
    try:
        import fcntl

        with open_below(sweep, LOCK) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (FileNotFoundError, UserError):
        return False
    except (ImportError, OSError):
        return True
    return False
