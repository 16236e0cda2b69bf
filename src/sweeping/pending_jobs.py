"""What the ledgers of sweeps know beside their run folders."""

import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from src.core.errors import UserError
from src.core.files import is_file_below, open_below
from src.sweeping.ledger import LEDGER, LOCK, Ledger

log = logging.getLogger(__name__)


def pending(paths: Iterable[Path]) -> tuple[int, bool]:
    """Return how many jobs have not started, in the sweeps at some folders or directly below, and whether a process is
    there to start them.
    """
    ledgers = {file.absolute() for path in paths for pattern in (LEDGER, f"*/{LEDGER}") for file in path.glob(pattern)}
    count, driven = 0, False
    for file in ledgers:
        with suppress(UserError):  # a damaged ledger is no matter of the runs that are there
            ledger = Ledger.open(file.parent, remarks=log.warning)
            count += sum(not is_file_below(file.parent, f"{job.slug}/config.yaml") for job in ledger.jobs)
            driven = driven or _is_driven(file.parent)
    return count, driven


def _is_driven(sweep: Path) -> bool:
    """Whether a process holds the lock of a sweep, which the system releases even if that is killed; where there are no
    locks, it may.
    """
    try:
        import fcntl

        with open_below(sweep, LOCK) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (FileNotFoundError, IsADirectoryError, UserError):
        return False
    except (ImportError, OSError):
        return True
    return False
