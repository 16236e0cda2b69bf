"""The run folder: what a run leaves on disk, and the only code that knows its files.

    run.json        the record: status, provenance, times, metrics, error; replaced as a whole, so never half written
    config.yaml     the resolved config; rerunning needs nothing else
    metrics.jsonl   one line a log; only ever appended to
    answers.json    confusion of the classes, predicted numbers, and examples, on the test split
    examples.png    the inputs of the examples side by side, where they are images
    checkpoints/    best.ckpt, last.ckpt
    train.log, plots/, wandb/

Epochs in these files count from 0, as Lightning counts them; what is shown to people counts from 1.
"""

import json
import logging
import os
import re
import secrets
import shutil
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from time import monotonic
from typing import Any

from src.core.errors import UserError
from src.core.files import is_file_below, read_below, refuse_links_that_leave
from src.core.records import FORMAT_VERSION, parse_yaml, read_json
from src.run_store.atomic_write import replaced
from src.run_store.config_file import as_yaml, plain
from src.run_store.config_hash import config_hash
from src.run_store.metrics_file import read_metrics
from src.run_store.provenance import provenance
from src.run_store.schema import run_config, run_record

log = logging.getLogger(__name__)

WANDB_LINKS = ("wandb/*/logs/debug-core.log", "wandb/*/files/answers.json")
"""Links of the W&B client that may leave a run folder: to its own log, and, in earlier versions, to the predictions by an
absolute path. It does not write through them.
"""


class RunFolder:
    """A run on disk. `create` makes a new one, `open` reads one back.

    While a run works, it holds a lock on its folder, which the system releases even if the process is killed: so a
    record that says "running" can be told from a run that is running (`alive`).
    """

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path = path
        self.root: Path | None = None  # the folder in which it was found, if it may not be reached through a link
        self.record = record
        self._made: list[Path] = []
        self._before: tuple[dict[str, Any], str] | None = None
        self._lock: tuple[Callable[[], Any], int] | None = None
        self._written_into = False
        self._since: float | None = None

    # ---- life of a run -------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: Path, config: dict[str, Any], command: Sequence[str], **facts: Any) -> "RunFolder":
        """Make the folder of a new run, with its config and a record that says "running".

        Args:
            path: where; it must not exist or be empty.
            config: the resolved config, plain containers only.
            command: the words of the command line.
            facts: entries of the record that are known already.

        Raises:
            UserError: if there is something at the path, if the folder cannot be made, or if a text of the config has no
                UTF-8.
        """
        path, text = Path(path).absolute(), as_yaml(config)
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path}: cannot make the run folder: {error.strerror}") from error
        folder = cls(path, {})
        folder._since = monotonic()
        folder._made = missing
        folder._acquire()
        if any(path.iterdir()):
            folder._release()
            raise UserError(f"{path}: a new run needs a new or empty folder. To go on with a run: resume={path}")
        _write(path / "config.yaml", text)
        folder.record = {
            "format_version": FORMAT_VERSION,
            "status": "running",
            "config_hash": config_hash(config),
            "seed": config.get("seed"),
            "started": _now(),
            "ended": None,
            "seconds": None,
            "resumed": [],
            **provenance(command),
            "wandb": None,
            "parameters": None,
            "best_epoch": None,
            "best": {},
            "final": {},
            "error": None,
        }
        folder.update(**facts)
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Read an existing run.

        A missing or damaged run.json is warned about and read as the status "unknown", as long as the config is there.

        Raises:
            UserError: if this is no run folder.
        """
        path = Path(path).absolute()
        if path.is_file():
            raise UserError(
                f"{path}: this is a file; a run is a folder that holds run.json, config.yaml and checkpoints/"
            )
        if not path.is_dir():
            siblings = [folder.name for folder in path.parent.iterdir()] if path.parent.is_dir() else []
            near = get_close_matches(path.name, siblings, n=1)
            raise UserError(f"{path}: there is no such run folder." + (f" Did you mean '{near[0]}'?" if near else ""))
        if not is_file_below(path, "config.yaml"):
            raise UserError(f"{path}: this is no run folder; one holds run.json, config.yaml and checkpoints/")
        try:
            record = read_record(path)
        except (OSError, UserError) as error:
            log.warning("%s: cannot be read (%s); the run counts as of unknown status", path / "run.json", error)
            record = {"status": "unknown"}
        return cls(path, record)

    def update(self, **changes: Any) -> None:
        """Change entries of the record, and replace run.json as a whole."""
        self.note(**changes)
        text = json.dumps(plain(self.record), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        with replaced(self.path / "run.json", self.root) as file:
            file.write(text.encode("utf-8", "backslashreplace"))  # which is how JSON writes a single surrogate

    def note(self, **changes: Any) -> None:
        """Change entries of the record, to be written with the next update."""
        self.record.update(plain(changes))

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Record the end of a run.

        Args:
            metrics: the final metrics, such as those on the test split.
        """
        self._end("finished", final=dict(metrics), error=None)

    def fail(self, exception: BaseException) -> None:
        """Record that a run failed, with the whole traceback."""
        self._end("failed", error="".join(traceback.format_exception(exception)))

    def interrupt(self) -> None:
        """Record that a run was stopped on request, and can be resumed."""
        self._end("interrupted")

    def resume(self, config: dict[str, Any] | None = None) -> None:
        """Record that the run goes on, in this process.

        Args:
            config: the config that it goes on with, where keys of it were changed.

        Raises:
            UserError: if it is still running elsewhere, or if the folder cannot be written.
        """
        refuse_links_that_leave(self.path, "resume", WANDB_LINKS)  # loggers write into the folder by its path
        text = None if config is None else as_yaml(config)
        self._acquire()
        seconds = self._spent()
        self._since = monotonic()
        self._before = self.record.copy(), read_below(self.path, "config.yaml").decode("utf-8", "replace")
        here = provenance([])
        del here["command"]
        resumed = [*self.record.get("resumed", []), _now()]
        try:
            if config is not None and text is not None:
                _write(self.path / "config.yaml", text)
                self.record["config_hash"] = config_hash(config)
            self.update(status="running", ended=None, error=None, resumed=resumed, seconds=seconds, **here)
        except OSError as error:
            raise UserError(f"{error.filename or self.path}: cannot be written: {error.strerror}") from error

    def set_config(self, config: dict[str, Any]) -> None:
        """Write the config of the run anew."""
        _write(self.path / "config.yaml", as_yaml(config))

    def undo_resume(self) -> None:
        """Put back what was recorded before `resume`, which came to nothing."""
        assert self._before is not None
        self.record, config = self._before
        _write(self.path / "config.yaml", config)
        self.update()
        self._release()

    def discard(self) -> None:
        """Remove the folder, and the parents that were made for it if nothing else is in them."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._release()
        for parent in self._made[1:]:
            try:
                parent.rmdir()
            except OSError:
                break

    def _end(self, status: str, **changes: Any) -> None:
        self.update(status=status, ended=_now(), seconds=self._spent(), **changes)
        if not self._written_into:
            self._release()

    def _spent(self) -> float:
        """Return the seconds of all sessions of this run; one that was killed counts up to its last sign of life."""
        before = float(self.record.get("seconds") or 0.0)
        if self._since is not None:
            return round(before + monotonic() - self._since, 3)
        dates = [date for date in (self.record.get("started"), *self.record.get("resumed", [])) if date]
        if self.record.get("status") != "running" or not dates:
            return before
        begun = datetime.fromisoformat(dates[-1]).timestamp()
        signs = (self.path / "run.json", self.path / "metrics.jsonl", self.checkpoints / "last.ckpt")
        seen = max((path.stat().st_mtime for path in signs if path.is_file()), default=begun)
        return round(before + max(seen - begun, 0.0), 3)

    @contextmanager
    def written_into(self) -> Iterator[None]:
        """Keep the lock after the record has ended, as loggers still write into the folder then."""
        self._written_into = True
        try:
            yield
        finally:
            self._written_into = False
            if self.record.get("ended"):
                self._release()

    # ---- what is in it -------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether a process works on this run now."""
        if self._lock is not None:
            return True
        try:
            self._acquire()
        except UserError:
            return True
        self._release()
        return False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock of a run that does not run, so that it cannot be resumed meanwhile.

        Raises:
            UserError: if it is running.
        """
        self._acquire()
        try:
            yield
        finally:
            self._release()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best_checkpoint(self) -> Path:
        """The weights of the best epoch; raises UserError if there are none."""
        return self._checkpoint("best.ckpt")

    @property
    def last_checkpoint(self) -> Path:
        """The state to go on from; raises UserError if there is none."""
        return self._checkpoint("last.ckpt")

    def has_checkpoint(self, name: str) -> bool:
        """Tell whether there is a ``best`` or a ``last`` checkpoint."""
        return is_file_below(self.path, f"checkpoints/{name}.ckpt")

    @property
    def train_log(self) -> Path:
        return self.path / "train.log"

    def config(self) -> dict[str, Any]:
        """Return the config of the run as plain containers.

        Raises:
            UserError: if config.yaml is missing or damaged.
        """
        file = self.path / "config.yaml"
        try:
            config = parse_yaml(read_below(self.path, file.name), file)
        except OSError as error:
            raise UserError(f"{file}: cannot be read: {error.strerror}") from error
        if not isinstance(config, dict) or not config:
            raise UserError(f"{file}: holds no config")
        return run_config(config, file)

    def metrics(self) -> list[dict[str, Any]]:
        """Return everything that was logged; see `read_metrics`."""
        return read_metrics(self.path)

    def _checkpoint(self, name: str) -> Path:
        path = self.checkpoints / name
        if not is_file_below(self.path, f"checkpoints/{name}"):
            reason = (
                "kept none" if self.record.get("status") == "finished" else "was stopped before its first epoch ended"
            )
            raise UserError(f"{path}: there is no such checkpoint; the run {reason}")
        return path

    # ---- the lock ------------------------------------------------------------------------------------------------

    def _acquire(self) -> None:
        try:
            import fcntl

            handle = os.open(self.path, os.O_RDONLY)
        except (ImportError, OSError) as error:
            log.debug("%s: no lock: %s", self.path, error)
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if isinstance(error, BlockingIOError):
                raise UserError(f"{self.path}: this run is still running") from None
            log.debug("%s: no lock: %s", self.path, error)  # some network file systems lock no folders
            return
        self._lock = weakref.finalize(self, os.close, handle), handle

    def _release(self) -> None:
        if self._lock is not None:
            import fcntl

            close, handle = self._lock
            fcntl.flock(handle, fcntl.LOCK_UN)  # worker processes that were forked may still have it open
            close()
            self._lock = None


def new_run_path(outputs: Path, model: str, datamodule: str) -> Path:
    """Return a path for a new run that no other run has: runs/<date>/<time>-<model>-<datamodule>-<random id>.

        The id comes from the system, so that neither the second nor the seed makes two runs meet. Characters that are not
    part of plain names, and what is longer than any option's name, are left out of the names of the model and the data.
    """
    now = datetime.now()
    chosen = re.sub(r"[^\w.+-]+", "-", f"{model}-{datamodule}")[:50]
    while True:
        name = f"{now:%H%M%S}-{chosen}-{secrets.token_hex(3)}"
        path = Path(outputs) / "runs" / f"{now:%Y-%m-%d}" / name
        if not path.exists():
            return path


def read_record(path: Path) -> dict[str, Any]:
    """Return the record of a run, with values of the right types only.

    Args:
        path: the run folder.

    Raises:
        OSError: if there is no run.json.
        UserError: if it is damaged, or of another format version.
    """
    return run_record(read_json(path, "run.json"), os.path.join(path, "run.json"))


def _write(path: Path, text: str) -> None:
    with replaced(path) as file:
        file.write(text.encode(errors="backslashreplace"))  # half of a pair of surrogates, as JSON and YAML escape it


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
