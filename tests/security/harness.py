"""Open a hostile folder with a verb, in this process, and report every effect that it must not have.

`Case` is one attack: a workspace of its own, with

- ``hostile/outputs``: what the attacker wrote, a copy of an ordinary run and of an ordinary sweep,
- ``hostile/outputs/good``: a run that nobody changed, which lists still show,
- ``victim``: files beside it that must not change,
- ``cwd``: the working directory, in which canary modules wait to be imported,
- ``out``: the folder for the output of the verb.

`Case.open` runs a verb and returns what went wrong, as a list of texts; an empty list is a success.
"""

import contextlib
import csv
import html.parser
import io
import json
import logging
import os
import re
import resource
import shlex
import shutil
import signal
import stat
import sys
import tempfile
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tests.security.hostile import MARK, SECRET

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 10.0
WAITING = 3
"""How many times as long a case may take where it waits for others, such as tests on the same cores."""

MEMORY = 3 * 2**30
"""How much address space a case may take beside what the process has: a bomb ends in a MemoryError, not the machine."""
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
IMPORTED = "canary_imports"
"""Name of the list in `builtins` to which a canary module adds itself when it is imported or used."""

CANARY = f"""import builtins
builtins.{IMPORTED}.append(__name__)
class Model:
    def __new__(cls, *args, **kwargs):
        builtins.{IMPORTED}.append(__name__ + '.Model')
        return object.__new__(cls)
    def __init__(self, *args, **kwargs):
        pass
def function(*args, **kwargs):
    builtins.{IMPORTED}.append(__name__ + '.function')
"""

HARMLESS_PROGRAMS = {
    "git",
    "fc-list",
    "nvidia-smi",
    "uname",
    "ldconfig",
    "lscpu",
    "gcc",
    "cc",
    "c++",
    "g++",
    "file",
    "sysctl",
}


# ---- what happens in the process -----------------------------------------------------------------------------------


class Hang(BaseException):
    """A case took too long."""


_OF_FILES: dict[str, int | None] = {
    "open": None,
    "os.listdir": 0,
    "os.scandir": 0,
    "os.mkdir": 2,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.rename": 2,
    "os.link": 2,
    "os.truncate": 0,
    "os.utime": 0,
    "os.chmod": 0,
}
"""Events that name a file first, and which argument is the descriptor of its folder: None for that of `os.open`, 0 for none."""


class _Watch:
    """Records effects with an audit hook while it is on. A hook cannot be removed, so all cases share one."""

    def __init__(self) -> None:
        self.allowed: list[str] = []
        self.workspace = ""
        self.faults: list[str] = []
        self.on = False
        self.processes_allowed = False
        self.before: Callable[[str, str], None] | None = None  # called with each event that names a file, and its path
        self.folder_descriptor: int | None = None  # of the call of os.open that is under way
        self._installed = False

    def install(self) -> None:
        if self._installed:
            return
        self._installed = True
        sys.addaudithook(self._hook)
        opens = os.open

        def anchored_open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            self.folder_descriptor = dir_fd  # the audit event does not have it
            try:
                return opens(path, flags, mode, dir_fd=dir_fd)
            finally:
                self.folder_descriptor = None

        os.open = anchored_open  # type: ignore[assignment]
        for module in (os.supports_dir_fd, os.supports_follow_symlinks):
            if opens in module:
                module.add(anchored_open)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on:
            self.on = False  # what this does itself is not noted
            try:
                if self.before is not None and event in _OF_FILES:
                    place = _OF_FILES[event]
                    descriptor = self.folder_descriptor if place is None else args[place] if place else None
                    if isinstance(args[0], str | bytes | os.PathLike):
                        self.before(event, self._absolute(args[0], descriptor))
                self._note(event, args)
            finally:
                self.on = True

    @staticmethod
    def _absolute(path: Any, descriptor: int | None) -> str:
        """Return the path of an event, which may be relative to an open folder."""
        path = os.fsdecode(path)
        if os.path.isabs(path):
            return path
        folder = os.getcwd()
        if descriptor is not None and descriptor >= 0:
            folder = os.readlink(f"/proc/self/fd/{descriptor}")
        return os.path.join(folder, path)

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        match event:
            case "open":
                path, _, flags = args
                writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
                if writes and not isinstance(path, int):
                    self._wrote(event, path, self.folder_descriptor, not flags & os.O_NOFOLLOW)
            case "os.remove" | "os.rmdir":
                self._wrote(event, args[0], args[1], False)
            case "os.mkdir":
                if args[2] not in (None, -1) or not os.path.isdir(args[0]):  # `exist_ok` has no effect
                    self._wrote(event, args[0], args[2], False)
            case "os.rename" | "os.link":
                self._wrote(event, args[0], args[2], False)
                self._wrote(event, args[1], args[3], False)
            case "os.symlink":
                self._wrote(event, args[1], args[2], False)
            case "os.truncate" | "os.utime" | "os.chmod" | "os.chown":
                if not isinstance(args[0], int):
                    self._wrote(event, args[0], None, True)
            case "subprocess.Popen" | "os.posix_spawn" | "os.exec":
                self._started(event, str(args[0]), [str(argument) for argument in args[1] or ()])
            case "os.system" | "os.spawn" | "pty.spawn":
                self.faults.append(f"{event}{args!r:.200}")
            case "socket.connect" | "socket.sendto":
                if isinstance(args[1], tuple):
                    self.faults.append(f"{event} to {args[1]!r}")
            case "socket.getaddrinfo" | "socket.gethostbyname":
                self.faults.append(f"{event} of {args[0]!r}")
            case "import":
                if args[0].split(".")[0].startswith("canary_") and args[0] not in sys.modules:
                    self.faults.append(f"import of {args[0]} was tried")
            case "ctypes.dlopen":
                if args[0] and self.workspace in os.path.realpath(str(args[0])):
                    self.faults.append(f"{event} of {args[0]}")
            case "pickle.find_class":
                if args[0].split(".")[0] in ("os", "posix", "nt", "subprocess", "shutil", "runpy", "webbrowser"):
                    self.faults.append(f"{event} of {args[0]}.{args[1]}")

    def _wrote(self, event: str, path: Any, descriptor: int | None, follow: bool) -> None:
        path = self._absolute(path, descriptor)
        if follow and os.path.islink(path):
            path = os.path.realpath(path)
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if any(path == place or path.startswith(place + os.sep) for place in self.allowed):
            return
        elsewhere = not path.startswith(self.workspace + os.sep)
        # A device keeps nothing, and caches of libraries are not what an attacker chooses.
        if elsewhere and (path.startswith("/dev/") or {"__pycache__", ".cache", ".config"} & set(path.split(os.sep))):
            return
        if elsewhere and "pytest-of-" not in path and path.startswith(os.path.realpath(tempfile.gettempdir()) + os.sep):
            return
        self.faults.append(f"{event} outside: {path}")

    def _started(self, event: str, program: str, argv: list[str]) -> None:
        argv = [os.fsdecode(argument) if isinstance(argument, bytes) else argument for argument in argv]
        name = os.path.basename(program)
        before = argv[: argv.index("--")] if "--" in argv else argv
        bad = [
            argument
            for argument in before
            if MARK in argument or re.match(r"--(output|remote|upload-pack|exec)\b", argument)
        ]
        if bad:
            self.faults.append(f"{event}: {name} with {bad}")
        elif name not in HARMLESS_PROGRAMS and not self.processes_allowed:
            self.faults.append(f"{event}: {name} {' '.join(argv[1:])[:200]}")


WATCH = _Watch()


# ---- what is left on the disk --------------------------------------------------------------------------------------


def snapshot(folder: Path, leave_out: Iterable[Path] = ()) -> dict[str, object]:
    """Return what is below a folder: kinds, link targets, and hashes of small files."""
    found: dict[str, object] = {}
    left = {str(path) for path in leave_out}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if os.path.join(place, name) not in left and name != "__pycache__"]
        for name in (*folders, *files):
            path = os.path.join(place, name)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                found[path] = ("link", os.readlink(path))
            elif stat.S_ISREG(status.st_mode):
                small = status.st_size < 2**22
                digest = blake2b(Path(path).read_bytes()).hexdigest() if small else status.st_mtime_ns
                found[path] = (status.st_size, digest)
            else:
                found[path] = stat.S_IFMT(status.st_mode)
    return found


class _Scripts(html.parser.HTMLParser):
    """Finds scripts, handlers, and addresses that come from hostile values in a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.faults: list[str] = []
        self._script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._script = tag == "script"
        for name, value in attrs:
            if MARK in name or (name.startswith("on") and MARK in str(value)):
                self.faults.append(f"<{tag} {name}={value!r:.80}>")
            if name in ("href", "src") and re.match(r"\s*(javascript|data:text|https?://attacker)", str(value), re.I):
                self.faults.append(f"<{tag} {name}={value!r:.80}>")
        if tag == "img" and dict(attrs).get("src") == "x":
            self.faults.append("<img src=x>")

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        if self._script and data.strip() == MARK:
            self.faults.append(f"<script>{MARK}")


def check_html(text: str) -> list[str]:
    """Return the scripts, handlers, and addresses of an attacker that a page has."""
    parser = _Scripts()
    parser.feed(text)
    return parser.faults


def check_csv(text: str) -> list[str]:
    """Return the cells that a spreadsheet takes for formulas."""
    faults = []
    for row in csv.reader(io.StringIO(text)):
        for cell in row:
            if cell[:1] in ("=", "+", "-", "@", "\t", "\r") and cell[:1]:
                try:
                    float(cell)
                except ValueError:
                    if cell not in ("-", "+"):
                        faults.append(f"cell {cell!r:.60}")
    return faults


def check_markdown(text: str) -> list[str]:
    """Return the HTML and links of an attacker that Markdown has outside of its code."""
    text = re.sub(r"(?ms)^```.*?^```", "", text)
    text = re.sub(r"(?<![\\`])(`+)(?!`).+?(?<!`)\1(?!`)", "", text)
    faults = re.findall(r"(?<!\\)<(?:script|img|/script)[^>]{0,40}", text)
    return faults + re.findall(r"(?<!\\)\]\((?:javascript:|https?://attacker)[^)]{0,40}", text)


CHECKS: dict[str, Callable[[str], list[str]]] = {".html": check_html, ".csv": check_csv, ".md": check_markdown}


# ---- one case ------------------------------------------------------------------------------------------------------


class Case:
    """One attack: a workspace, and what a verb did to it."""

    def __init__(self, folder: Path, outputs: Path | None) -> None:
        """Make a workspace.

        Args:
            folder: where; it must not exist.
            outputs: what is copied into ``hostile/outputs``.
        """
        folder.mkdir()
        self.workspace = Path(os.path.realpath(folder))
        self.hostile, self.victim = self.workspace / "hostile", self.workspace / "victim"
        self.cwd, self.out = self.workspace / "cwd", self.workspace / "out"
        for place in (self.hostile, self.victim, self.cwd, self.out):
            place.mkdir()
        self.outputs = self.hostile / "outputs"
        if outputs is not None:
            shutil.copytree(outputs, self.outputs, symlinks=True)
        for name in ("thesis.txt", "config.yaml", "run.json"):
            (self.victim / name).write_text("a year of work\n")
        (self.cwd / "canary_in_cwd.py").write_text(CANARY)
        package = self.cwd / "canary_package"
        package.mkdir()
        (package / "__init__.py").write_text(CANARY)
        (package / "module.py").write_text(CANARY)
        path = self.workspace / "on_path"
        path.mkdir()
        (path / "canary_on_path.py").write_text(CANARY)
        self.stdout = self.stderr = ""
        self.code: int | None = None

    @property
    def run(self) -> Path:
        """The run that the attacker changed."""
        return self.outputs / "run"

    @property
    def sweep(self) -> Path:
        """The sweep that the attacker changed."""
        return self.outputs / "sweep"

    def open(
        self,
        verb: "Callable[[], Any]",
        argv: Sequence[object] = (),
        seconds: float = SECONDS,
        processes: bool = False,
    ) -> list[str]:
        """Run a verb and return what went wrong.

        Args:
            verb: its ``main``.
            argv: the command line.
            seconds: how long it may take.
            processes: whether it may start processes of its own.
        """
        texts = [str(argument) for argument in argv]
        before, around = snapshot(self.workspace), set(os.listdir(ROOT))
        faults: list[str] = []
        streams = io.StringIO(), io.StringIO()
        with self._canaries(faults), self._watched(processes), self._limited(seconds):
            try:
                with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
                    self.code = self._call(verb, texts)
            except Hang:
                faults.append(f"hang: it took more than {seconds:g} s")
            except BaseException as error:  # whatever a verb lets through is a traceback for its user
                frames = traceback.extract_tb(error.__traceback__)
                place = next((f for f in reversed(frames) if str(ROOT / "src") in f.filename), frames[-1])
                faults.append(
                    f"traceback: {type(error).__name__}: {str(error)[:150]!r} "
                    f"({os.path.relpath(place.filename, ROOT)}:{place.lineno})"
                )
        if self.code not in (None, 0, 1, 2):
            faults.append(f"exit code {self.code}")
        faults += dict.fromkeys(WATCH.faults)
        self._end_wandb()
        faults += [f"made in the repository: {name}" for name in set(os.listdir(ROOT)) - around if MARK in name]
        self.stdout, self.stderr = (stream.getvalue() for stream in streams)
        return faults + self._traces(before)

    def _end_wandb(self) -> None:
        """End the run that W&B keeps in the process, so that the next case begins its own."""
        wandb = sys.modules.get("wandb")
        if wandb is not None and getattr(wandb, "run", None) is not None:
            with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):
                wandb.teardown()

    def _call(self, verb: Callable[..., Any], argv: list[str]) -> int:
        old_argv, path, here, environment = sys.argv[:], sys.path[:], os.getcwd(), dict(os.environ)
        sys.argv = ["verb", *argv]
        sys.path[:0] = [str(self.cwd), str(self.workspace / "on_path")]
        os.environ.update(AWS_SECRET_ACCESS_KEY=SECRET, WANDB_API_KEY=SECRET[:40], HOME=str(self.out))
        handlers, level = logging.root.handlers[:], logging.root.level
        os.chdir(self.cwd)
        try:
            verb(argv)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        finally:
            os.chdir(here)
            sys.argv, sys.path[:] = old_argv, path
            os.environ.clear()
            os.environ.update(environment)
            logging.root.handlers[:], logging.root.level = handlers, level
            from hydra.core.global_hydra import GlobalHydra

            GlobalHydra.instance().clear()
        return 0

    @contextlib.contextmanager
    def _watched(self, processes: bool) -> Iterator[None]:
        WATCH.install()
        WATCH.faults, WATCH.workspace, WATCH.processes_allowed = [], str(self.workspace), processes
        WATCH.allowed = [str(self.outputs), str(self.out), str(self.cwd / "outputs")]
        WATCH.on = True
        try:
            yield
        finally:
            WATCH.on = False

    @contextlib.contextmanager
    def _limited(self, seconds: float) -> Iterator[None]:
        def stop(*_: object) -> None:
            raise Hang

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        memory, size = resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, memory[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**31, size[1]))
        # Of processor time, because other tests may run beside it, and more of real time, for what waits. Each comes
        # again, if an `except BaseException` took the first.
        before = signal.signal(signal.SIGALRM, stop), signal.signal(signal.SIGPROF, stop)
        signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)
        signal.setitimer(signal.ITIMER_REAL, seconds * WAITING, 1.0)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before[0])
            signal.signal(signal.SIGPROF, before[1])
            resource.setrlimit(resource.RLIMIT_AS, memory)
            resource.setrlimit(resource.RLIMIT_FSIZE, size)

    @contextlib.contextmanager
    def _canaries(self, faults: list[str]) -> Iterator[None]:
        import builtins

        imported: list[str] = []
        setattr(builtins, IMPORTED, imported)
        module = types.ModuleType("canary_imported")
        exec(CANARY, module.__dict__)
        imported.clear()
        sys.modules["canary_imported"] = module
        try:
            yield
        finally:
            faults += [f"canary: {name} was run" for name in dict.fromkeys(imported)]
            for name, module in list(sys.modules.items()):
                file = str(getattr(module, "__file__", None) or "")
                if name.startswith("canary_") or file.startswith(str(self.workspace)):
                    if name != "canary_imported":
                        faults.append(f"canary: {name} was imported")
                    del sys.modules[name]
            sys.path_importer_cache.clear()

    def _traces(self, before: dict[str, object]) -> list[str]:
        """Return what is wrong with the files that are there now, and with what was printed."""
        faults = []
        after = snapshot(self.workspace)
        changed = sorted({path for path in before.keys() | after.keys() if before.get(path) != after.get(path)})
        for path in changed:
            if not path.startswith(tuple(WATCH.allowed)):
                change = "made" if path not in before else "gone" if path not in after else "changed"
                faults.append(f"{change} outside: {path}")
            if path in after and isinstance(after[path], tuple) and after[path][0] != "link":
                faults += self._written(Path(path))
        for name, text in (("stdout", self.stdout), ("stderr", self.stderr)):
            if found := CONTROL.search(text):
                faults.append(
                    f"control character {found[0]!r} on {name}: {text[max(found.start() - 40, 0) : found.end() + 10]!r}"
                )
            if SECRET[:40] in text:
                faults.append(f"secret on {name}")
        if "Traceback (most recent call last)" in self.stderr and not self._recorded_traceback():
            faults.append(f"traceback on stderr: {self.stderr[-300:]!r}")
        return faults

    def _recorded_traceback(self) -> bool:
        return (
            "Traceback" in (self.run / "run.json").read_text(errors="ignore")
            if (self.run / "run.json").is_file()
            else False
        )

    def _written(self, path: Path) -> list[str]:
        if path.stat().st_size > 2**24:
            on_disk = path.stat().st_blocks * 512  # a sparse file that is copied or appended to may stay sparse
            return [f"written: {path.name} has {on_disk:,} bytes"] if on_disk > 2**27 else []
        contents = path.read_bytes()
        faults = [f"secret in {path.name}"] if SECRET[:40].encode() in contents else []
        if check := CHECKS.get(path.suffix):
            faults += [f"{path.name}: {fault}" for fault in check(contents.decode(errors="replace"))]
        return faults


# ---- records -------------------------------------------------------------------------------------------------------

Keys = tuple[str | int, ...]


def walk(record: Any, at: Keys = (), longest: int = 2) -> Iterator[tuple[Keys, Any]]:
    """Yield every field of a record with its value, containers too; of a list, only the first entries."""
    if at:
        yield at, record
    if isinstance(record, dict):
        for key, value in record.items():
            if isinstance(key, str | int):
                yield from walk(value, (*at, key), longest)
    elif isinstance(record, list):
        for position, value in enumerate(record[:longest]):
            yield from walk(value, (*at, position), longest)


def with_value(record: Any, at: Keys, value: Any) -> Any:
    """Return a copy of a record in which a field has another value."""
    if not at:
        return value
    copy: Any = dict(record) if isinstance(record, dict) else list(record)
    copy[at[0]] = with_value(copy[at[0]], at[1:], value)
    return copy


def with_every_string(record: Any, value: str, keys: bool = False, name: Any = None) -> Any:
    """Return a copy of a record in which every string is another one.

    Args:
        record: the record.
        value: the string.
        keys: replace the keys instead.
        name: the key of the record in that which holds it.
    """
    if isinstance(record, dict):
        if keys:
            return {
                (f"{value}{number}" if number % 2 else key): with_every_string(entry, value, keys)
                for number, (key, entry) in enumerate(record.items())
            }
        return {key: with_every_string(entry, value, keys, key) for key, entry in record.items()}
    if isinstance(record, list):
        return [with_every_string(entry, value, keys, name) for entry in record]
    # Without these the record is not shown at all; they have cases of their own.
    return value if isinstance(record, str) and not keys and name not in ("status", "mode", "_target_") else record


def dotted(at: Keys) -> str:
    return ".".join(map(str, at))


def read_record(path: Path) -> Any:
    """Return what a record holds: JSON, YAML, lines of JSON as a list, or a checkpoint."""
    import yaml

    if path.suffix == ".ckpt":
        import torch

        return torch.load(path, weights_only=True, map_location="cpu")
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".jsonl", ".journal"):
        return [json.loads(line) for line in text.splitlines()]
    return yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else json.loads(text)


def write_record(path: Path, record: Any) -> None:
    """Write what `read_record` reads; a string that UTF-8 cannot hold is written as an escape."""
    import yaml

    if path.suffix == ".ckpt":
        import torch

        torch.save(record, path)
    elif path.suffix in (".jsonl", ".journal"):
        path.write_text("".join(f"{json.dumps(line)}\n" for line in record), encoding="utf-8")
    elif path.suffix in (".yaml", ".yml"):
        path.write_text(yaml.dump(record, Dumper=yaml.CSafeDumper, allow_unicode=False), encoding="utf-8")
    else:
        path.write_text(json.dumps(record), encoding="utf-8")


def every(cases: list[Any], count: int | None, key: Callable[[Any], str] = repr) -> list[Any]:
    """Return so many of the cases, always the same ones, or all of them."""
    if count is None or count >= len(cases):
        return cases
    return sorted(cases, key=lambda case: blake2b(key(case).encode()).digest())[:count]


def report(failures: "dict[str, list[str]]", test: str) -> None:
    """Fail with one line a case, and how to repeat it.

    Args:
        failures: by the name of the case, what went wrong.
        test: the id of the test.
    """
    bad = {name: faults for name, faults in failures.items() if faults}
    if not bad:
        return
    lines = [
        f"{name}\n      " + "\n      ".join(fault[:300] for fault in faults[:4])
        for name, faults in list(bad.items())[:25]
    ]
    more = f"\n… and {len(bad) - 25} more" if len(bad) > 25 else ""
    text = f"{len(bad)} of {len(failures)} cases failed.\n" + "\n".join(lines) + more
    text += f"\nrepeat one: SECURITY_CASE={shlex.quote(next(iter(bad)))} python -m pytest -n 0 '{test}'"
    raise AssertionError(CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text))


def chosen(name: str) -> bool:
    """Return whether to run a case: the variable ``SECURITY_CASE`` selects one; without it, all run."""
    return os.environ.get("SECURITY_CASE", name) == name
