"""What the ledgers of sweeps know beside their run folders."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from src.errors import UserError
from src.sweeping.ledger import LEDGER, Ledger


def pending(paths: Iterable[Path]) -> int:
    """Return how many jobs have not started, in the sweeps at some folders or directly below."""
    ledgers = {file.absolute() for path in paths for pattern in (LEDGER, f"*/{LEDGER}") for file in path.glob(pattern)}
    count = 0
    for file in ledgers:
        with suppress(UserError):  # a damaged ledger is no matter of the runs that are there
            ledger = Ledger.open(file.parent)
            count += sum(not (ledger.path(job) / "config.yaml").is_file() for job in ledger.jobs)
    return count
