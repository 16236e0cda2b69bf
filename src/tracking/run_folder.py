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

import hashlib
import json
import logging
import math
import os
import secrets
import shutil
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from time import monotonic
from types import NoneType
from typing import Any, BinaryIO

import yaml

from src.core.files import MAX_RECORD_BYTES, is_file_below, open_below, read_below, refuse_links_that_leave
from src.core.records import FORMAT_VERSION, RecordError, lines_of, parse_json, parse_yaml, read_json
from src.errors import UserError
from src.run_store.schema import run_record
from src.tracking.provenance import provenance
from src.tracking.replacing import replaced

log = logging.getLogger(__name__)

ANSWERS, EXAMPLES = "answers.json", "examples.png"

_NO_INFLUENCE = (
    "paths",
    "resume",
    "tags",
    "notes",
    "logger",
    "sweep",
    "callbacks.progress",
    "callbacks.checkpoints",
    "callbacks.answers",
    "trainer.profiler",
    "trainer.detect_anomaly",
    "trainer.log_every_n_steps",
    "trainer.loop",
    "model.checkpoint_activations",
)
"""Keys that change where and how a run is recorded, not what comes out."""


class RunFolder:
    """A run on disk. `create` makes a new one, `open` reads one back.

    While a run works, it holds a lock on its folder, which the system releases even if the process is killed: so a
    record that says "running" can be told from a run that is running (`alive`).
    """

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path = path
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
            UserError: if there is something at the path, or if the folder cannot be made.
        """
        path = Path(path).absolute()
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
        _write(path / "config.yaml", as_yaml(config))
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
        _write(self.path / "run.json", json.dumps(self.record, indent=2, allow_nan=False, ensure_ascii=False) + "\n")

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
            UserError: if it is still running elsewhere.
        """
        # Loggers write into the folder by its path. That of W&B checks its own files, among which it keeps links.
        refuse_links_that_leave(self.path, "resume", ignore=("wandb",))
        self._acquire()
        seconds = self._spent()
        self._since = monotonic()
        self._before = self.record.copy(), read_below(self.path, "config.yaml").decode("utf-8", "replace")
        if config is not None:
            _write(self.path / "config.yaml", as_yaml(config))
            self.record["config_hash"] = config_hash(config)
        here = provenance([])
        del here["command"]
        resumed = [*self.record.get("resumed", []), _now()]
        self.update(status="running", ended=None, error=None, resumed=resumed, seconds=seconds, **here)

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
        return {str(key): value for key, value in config.items()}

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

    The id comes from the system, so that neither the second nor the seed makes two runs meet.
    """
    now = datetime.now()
    while True:
        name = f"{now:%H%M%S}-{model}-{datamodule}-{secrets.token_hex(3)}"
        path = Path(outputs) / "runs" / f"{now:%Y-%m-%d}" / name
        if not path.exists():
            return path


def config_hash(config: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits that two configs share when the same result is to be expected of them.

    The order of keys does not count, nor do the keys that only say where and how a run is recorded. Paths below the
    working directory count from there, so that a project may lie anywhere.
    """
    relevant = plain(config)
    for key in _NO_INFLUENCE:
        *parents, last = key.split(".")
        node = relevant
        for parent in parents:
            node = node.get(parent) if isinstance(node.get(parent), dict) else {}
        node.pop(last, None)
    text = json.dumps(relevant, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    here = json.dumps(f"{Path.cwd()}{os.sep}")[:-1]
    return hashlib.sha256(text.replace(here, '"').encode()).hexdigest()[:12]


def as_yaml(config: Mapping[str, Any]) -> str:
    """Return a config as it stands in config.yaml: as OmegaConf would write it, in a tenth of the time; a section that many
    configs share is put into words once.
    """
    return "".join(_section_as_yaml(key, json.dumps(plain(value))) for key, value in config.items())


@lru_cache(maxsize=1000)
def _section_as_yaml(key: str, value: str) -> str:
    return yaml.dump({key: json.loads(value)}, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Quotes texts that OmegaConf would read back as numbers: to YAML 1.1 itself, 1e-3 is none."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="'" if _is_number(text) else None)


_Dumper.add_representer(str, _Dumper.represent_text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_metrics(path: Path, damaged: Callable[[], object] | None = None) -> list[dict[str, Any]]:
    """Return what a run logged, in order: {"step", "epoch", "time", metrics…}; NaN where a number was not finite.

    A line that a crash tore is left out. A resumed run repeats the steps after its last checkpoint; what they gave the
    first time is left out too.

    Args:
        path: a run folder, or its metrics.jsonl.
        damaged: called once if lines had to be left out.
    """
    root, name = (path.parent, path.name) if path.suffix == ".jsonl" else (path, "metrics.jsonl")
    try:
        with open_below(root, name) as file:
            text = file.read(MAX_RECORD_BYTES)
            found = _logged_together(text) if len(text) < MAX_RECORD_BYTES else None
            if found is None:
                file.seek(0)
                found = _logged_line_by_line(file, root / name)
                if damaged is not None and len(text) < MAX_RECORD_BYTES:
                    damaged()
    except FileNotFoundError:
        return []
    except (OSError, UserError):
        if damaged is not None:
            damaged()
        return []
    entries: list[dict[str, Any]] = []
    for entry in found:
        if not isinstance(entry, dict) or type(entry.get("step", "")) not in (int, NoneType):
            continue
        if type(entry.get("epoch")) not in (int, NoneType):
            continue
        if "resumed" in entry and entry.pop("resumed"):
            entries = [earlier for earlier in entries if (earlier["step"] or 0) < (entry["step"] or 0)]
        if None in entry.values():
            entry = {key: math.nan if value is None else value for key, value in entry.items()}
        entries.append(entry)
    return entries


def _logged_together(text: bytes) -> list[Any] | None:
    """Return all lines parsed at once, which is several times faster; None if one of them is damaged."""
    joined = text.decode("utf-8", "replace").rstrip("\n").replace("\n", ",")
    with suppress(UserError):
        return parse_json(f"[{joined}]", "metrics.jsonl")  # type: ignore[no-any-return]
    return None


def _logged_line_by_line(file: BinaryIO, name: object) -> list[Any]:
    """Return the lines that can be parsed."""
    found = []
    with suppress(RecordError):  # a line without an end: what comes before it counts
        for line in lines_of(file, name):
            with suppress(UserError):
                found.append(parse_json(line.decode("utf-8", "replace"), name))
    return found


def read_record(path: Path) -> dict[str, Any]:
    """Return the record of a run, with values of the right types only.

    Args:
        path: the run folder.

    Raises:
        OSError: if there is no run.json.
        UserError: if it is damaged, or of another format version.
    """
    return run_record(read_json(path, "run.json"), path / "run.json")


def plain(value: Any) -> Any:
    """Return a value as JSON knows it: plain containers, null where a number is not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # tensors and numpy's arrays and scalars
        return plain(value.tolist())
    return str(value)


def _write(path: Path, text: str) -> None:
    with replaced(path) as file:
        file.write(text.encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
