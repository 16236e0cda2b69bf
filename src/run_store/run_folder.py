"""The run folder: the files that a run writes. Only this room knows their names and formats.

    run.json          the record: status, provenance, times, metrics, error; written atomically
    config.yaml       the resolved config; rerunning needs nothing else
    metrics.jsonl     one line per log; append-only
    predictions.json  confusion matrix, predicted numbers, and examples of the test split
    examples.png      the inputs of the examples side by side, if they are images
    checkpoints/      best.ckpt, last.ckpt
    train.log, plots/, wandb/

Epochs in these files count from 0, as in Lightning; displayed epochs count from 1.
"""

import fcntl
import json
import logging
import os
import re
import secrets
import shlex
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
from src.core.files import UnsafeFileError, is_file_below, links_that_leave, read_below
from src.core.records import FORMAT_VERSION, parse_yaml, read_json
from src.run_store.atomic_write import atomic_write
from src.run_store.config_file import as_yaml, to_plain
from src.run_store.config_hash import config_hash
from src.run_store.metrics_file import read_metrics
from src.run_store.provenance import provenance
from src.run_store.schema import validate_config, validate_record

log = logging.getLogger(__name__)

WANDB_LINKS = ("wandb/*/logs/debug-core.log", "wandb/*/files/predictions.json")
"""Links of the W&B client that may point out of a run folder: to its own log, and, in earlier versions, to the predictions by
an absolute path. The client does not write through them.
"""


class RunFolder:
    """A run on disk. `create` makes a new one, `open` reads an existing one.

    A running process holds a lock on the folder of its run, which the system releases even if the process is killed. So
    `alive` is reliable even if the record still has the status "running".
    """

    def __init__(self, path: Path, record: dict[str, Any], root: Path | None = None) -> None:
        self.path = path
        self.root = root
        self.record = record
        self._created_folders: list[Path] = []
        self._before_resume: tuple[dict[str, Any], str] | None = None
        self._lock: tuple[Callable[[], Any], int] | None = None
        self._keep_lock = False
        self._session_start: float | None = None

    # ---- life of a run -------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: Path, config: dict[str, Any], command: Sequence[str], **entries: Any) -> "RunFolder":
        """Make the folder of a new run, with its config and a record of the status "running".

        Args:
            path: the folder, which must be empty or not exist.
            config: the resolved config, as plain containers.
            command: the command line, as a list of arguments.
            entries: further entries of the record.

        Raises:
            UserError: if the folder is not empty or cannot be made, or if a text of the config cannot be encoded in UTF-8.
        """
        path, text = Path(path).absolute(), as_yaml(config)
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path}: cannot make the run folder: {error.strerror}") from error
        folder = cls(path, {})
        folder._session_start = monotonic()
        folder._created_folders = missing
        folder._acquire()
        if any(path.iterdir()):
            folder._release()
            raise UserError(f"{path}: a new run needs a new or empty folder. To resume a run: resume={path}")
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
            "command": shlex.join(command),
            **provenance(),
            "wandb": None,
            "parameters": None,
            "best_epoch": None,
            "best": {},
            "final": {},
            "error": None,
        }
        folder.update(**entries)
        return folder

    @classmethod
    def open(cls, path: Path, root: Path | None = None) -> "RunFolder":
        """Read an existing run.

        If run.json is missing or damaged, log a warning and return a run of the status "unknown".

        Args:
            path: the folder of the run.
            root: a folder above it, below which no link is followed when the record is written; by default the folder itself.

        Raises:
            UserError: if the folder is not a run folder, which has at least config.yaml.
        """
        path = Path(path).absolute()
        if path.is_file():
            raise UserError(
                f"{path}: this is a file; a run is a folder that contains run.json, config.yaml and checkpoints/"
            )
        if not path.is_dir():
            names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            matches = get_close_matches(path.name, names, n=1)
            suggestion = f" Did you mean '{matches[0]}'?" if matches else ""
            raise UserError(f"{path}: there is no such run folder.{suggestion}")
        if not is_file_below(path, "config.yaml"):
            raise UserError(f"{path}: this is not a run folder, which contains run.json, config.yaml and checkpoints/")
        try:
            record = read_record(path)
        except (OSError, UserError) as error:
            log.warning("%s: cannot be read (%s); the status of the run is unknown", path / "run.json", error)
            record = {"status": "unknown"}
        return cls(path, record, root)

    def update(self, **changes: Any) -> None:
        """Change entries of the record, and write run.json atomically."""
        self.set_entries(**changes)
        text = json.dumps(to_plain(self.record), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        with atomic_write(self.path / "run.json", self.root) as file:
            file.write(text.encode("utf-8", "backslashreplace"))  # JSON escapes a single surrogate in the same way

    def set_entries(self, **changes: Any) -> None:
        """Change entries of the record in memory; the next `update` writes them."""
        self.record.update(to_plain(changes))

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Record the end of a run.

        Args:
            metrics: the final metrics, such as those on the test split.
        """
        self._end("finished", final=dict(metrics), error=None)

    def fail(self, exception: BaseException) -> None:
        """Record that a run failed, with the full traceback."""
        self._end("failed", error="".join(traceback.format_exception(exception)))

    def interrupt(self) -> None:
        """Record that a run was stopped by the user and can be resumed."""
        self._end("interrupted")

    def resume(self, config: dict[str, Any] | None = None) -> None:
        """Record that the run continues in this process.

        Args:
            config: the new config, if keys were changed.

        Raises:
            UserError: if the run is still running elsewhere, or if the folder cannot be written.
        """
        if links := links_that_leave(self.path, WANDB_LINKS):  # loggers write into the folder by its path
            raise UnsafeFileError(
                f"{links[0]}: this link points out of the folder, so resume is refused. Remove it, or replace it by a copy"
            )
        text = None if config is None else as_yaml(config)
        self._acquire()
        seconds = self._total_seconds()
        self._session_start = monotonic()
        self._before_resume = self.record.copy(), read_below(self.path, "config.yaml").decode("utf-8", "replace")
        resumed = [*self.record.get("resumed", []), _now()]
        try:
            if config is not None and text is not None:
                _write(self.path / "config.yaml", text)
                self.record["config_hash"] = config_hash(config)
            self.update(status="running", ended=None, error=None, resumed=resumed, seconds=seconds, **provenance())
        except OSError as error:
            raise UserError(f"{error.filename or self.path}: cannot be written: {error.strerror}") from error

    def set_config(self, config: dict[str, Any]) -> None:
        """Replace the config of the run."""
        _write(self.path / "config.yaml", as_yaml(config))

    def undo_resume(self) -> None:
        """Restore the record and the config from before `resume`, after the run could not be continued."""
        assert self._before_resume is not None
        self.record, config = self._before_resume
        _write(self.path / "config.yaml", config)
        self.update()
        self._release()

    def discard(self) -> None:
        """Remove the folder, and the parents that `create` made for it if they are empty."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._release()
        for parent in self._created_folders[1:]:
            try:
                parent.rmdir()
            except OSError:
                break

    def _end(self, status: str, **changes: Any) -> None:
        self.update(status=status, ended=_now(), seconds=self._total_seconds(), **changes)
        if not self._keep_lock:
            self._release()

    def _total_seconds(self) -> float:
        """Return the duration of all sessions of this run. A session that was killed counts until its last write to a file."""
        before = float(self.record.get("seconds") or 0.0)
        if self._session_start is not None:
            return round(before + monotonic() - self._session_start, 3)
        dates = [date for date in (self.record.get("started"), *self.record.get("resumed", [])) if date]
        if self.record.get("status") != "running" or not dates:
            return before
        start = datetime.fromisoformat(dates[-1]).timestamp()
        files = (self.path / "run.json", self.path / "metrics.jsonl", self.checkpoints / "last.ckpt")
        last_write = max((path.stat().st_mtime for path in files if path.is_file()), default=start)
        return round(before + max(last_write - start, 0.0), 3)

    @contextmanager
    def keep_locked(self) -> Iterator[None]:
        """Keep the lock until the end of the context, because loggers write into the folder after the run has ended."""
        self._keep_lock = True
        try:
            yield
        finally:
            self._keep_lock = False
            if self.record.get("ended"):
                self._release()

    # ---- contents ------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether a process is running this run now."""
        if self._lock is not None:
            return True
        try:
            self._acquire()
        except UserError:
            return True
        self._release()
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of a run that is not running, so that it cannot be resumed within the context.

        Raises:
            UserError: if the run is running.
        """
        self._acquire()
        try:
            yield
        finally:
            self._release()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint(self, name: str) -> Path:
        """Return the path of a checkpoint.

        Args:
            name: ``best`` for the weights of the best epoch, ``last`` for the state from which the run resumes.

        Raises:
            UserError: if there is none.
        """
        path = self.checkpoints / f"{name}.ckpt"
        if not self.has_checkpoint(name):
            finished = self.record.get("status") == "finished"
            reason = "the run saved none" if finished else "the run was stopped before its first epoch ended"
            raise UserError(f"{path}: there is no such checkpoint; {reason}")
        return path

    def has_checkpoint(self, name: str) -> bool:
        """Return whether there is a checkpoint of this name, ``best`` or ``last``."""
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
            raise UserError(f"{file}: the config is empty or not a mapping")
        return validate_config(config, file)

    def metrics(self) -> list[dict[str, Any]]:
        """Return all log entries; see `read_metrics`."""
        return read_metrics(self.path)

    # ---- the lock ------------------------------------------------------------------------------------------------

    def _acquire(self) -> None:
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            log.debug("%s: no lock: %s", self.path, error)
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock = weakref.finalize(self, os.close, handle), handle
        except BlockingIOError:
            os.close(handle)
            raise UserError(f"{self.path}: this run is still running") from None
        except OSError as error:  # some network file systems cannot lock folders
            os.close(handle)
            log.debug("%s: no lock: %s", self.path, error)

    def _release(self) -> None:
        if self._lock is not None:
            close, handle = self._lock
            fcntl.flock(handle, fcntl.LOCK_UN)  # forked worker processes may still have the descriptor open
            close()
            self._lock = None


def new_run_path(outputs: Path, model: str, datamodule: str) -> Path:
    """Return a unique path for a new run: runs/<date>/<time>-<model>-<datamodule>-<random id>.

    The id comes from the system's random source, so that runs of the same second or seed differ. In the names of the model
    and the datamodule, special characters are replaced by ``-``, and long names are cut off.
    """
    now = datetime.now()
    options = re.sub(r"[^\w.+-]+", "-", f"{model}-{datamodule}")[:50]
    while True:
        name = f"{now:%H%M%S}-{options}-{secrets.token_hex(3)}"
        path = Path(outputs) / "runs" / f"{now:%Y-%m-%d}" / name
        if not path.exists():
            return path


def read_record(path: Path) -> dict[str, Any]:
    """Return the validated record of a run.

    Args:
        path: the run folder.

    Raises:
        OSError: if there is no run.json.
        UserError: if it is damaged, or has another format version.
    """
    return validate_record(read_json(path, "run.json"), os.path.join(path, "run.json"))


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode(errors="backslashreplace"))  # JSON and YAML escape a single surrogate in the same way


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
