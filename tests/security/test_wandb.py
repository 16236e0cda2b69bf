"""Sessions of Weights & Biases in a run folder, and ``sync`` by the real client to a server on the loopback device."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from src.compat.wandb_session import copy_session
from src.core.files import UnsafeFileError
from src.core.wandb_account import Account
from src.run_store.run_folder import RunFolder
from tests.compat.test_wandb_session import ID, chunks, write_session
from tests.loggers.wandb.recording import KEY
from tests.security.harness import (
    CONTROL,
    ROOT,
    SECRET,
    Case,
    chosen,
    every,
    read_record,
    report,
    snapshot,
    walk,
    with_value,
    write_record,
)
from tests.security.hostile import IN_PLACE_OF_A_FILE, STRINGS, VALUES, mutated, put, string
from tests.wandb_server import WandbServer

proto: Any = pytest.importorskip("wandb.proto.wandb_internal_pb2")

WHOLE = [pytest.param(None, marks=pytest.mark.slow, id="whole"), pytest.param(1, id="sample")]
WORK = b"a year of work"
"""What the files of the folder beside contain."""


@pytest.fixture
def server() -> Iterator[WandbServer]:
    """Return a server that is the user's own."""
    server = WandbServer()
    yield server
    server.die()


def ordinary_records(name: str) -> list[Any]:
    """Return the records of a session of a W&B run."""
    run = proto.RunRecord(run_id=name, project="tests", display_name=name)
    row = [proto.HistoryItem(key=key, value_json="0") for key in ("_step", "val/loss")]
    return [
        proto.Record(num=1, run=run),
        proto.Record(num=2, history=proto.HistoryRecord(step=proto.HistoryStep(num=0), item=row)),
        proto.Record(num=3, exit=proto.RunExitRecord(exit_code=0)),
    ]


def add_run(case: Case, name: str, records: Sequence[Any] | None = None) -> Path:
    """Copy the ordinary run, give it a session, and return the file of that."""
    folder = case.outputs / name
    shutil.copytree(case.run, folder)
    RunFolder.open(folder).update(wandb={"id": name, "mode": "offline"})
    session = write_session(folder, ordinary_records(name) if records is None else records, name)
    for file in ("config.yaml", "output.log", "wandb-metadata.json", "wandb-summary.json", "requirements.txt"):
        (session.parent / "files" / file).write_text("{}\n")
    (session.parent / "logs").mkdir()
    (session.parent / "logs" / "debug.log").write_text("")
    return session


def sync(case: Case, server: WandbServer) -> list[str]:
    """Upload all runs with the command line, and return its faults."""
    (case.cwd / "wandb").mkdir(exist_ok=True)  # the client's own logs
    before = snapshot(case.workspace, [case.outputs, case.out, case.cwd / "wandb"])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"HOME": str(case.out), "WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url, "WANDB_PROJECT": "tests"}
    environment |= {"OMP_NUM_THREADS": "1", "AWS_SECRET_ACCESS_KEY": SECRET}
    environment |= {"PYTHONPATH": os.pathsep.join([str(case.cwd), str(ROOT)])}
    command = [sys.executable, "-m", "src.sync", str(case.outputs)]
    try:
        ended = subprocess.run(command, cwd=case.cwd, env=environment, text=True, capture_output=True, timeout=400)
    except subprocess.TimeoutExpired:
        return ["hang"]
    case.stdout, case.stderr, case.code = ended.stdout, ended.stderr, ended.returncode
    after = snapshot(case.workspace, [case.outputs, case.out, case.cwd / "wandb"])
    faults = [f"changed outside: {path}" for path in before.keys() | after if before.get(path) != after.get(path)]
    output = ended.stdout + ended.stderr
    if "Traceback" in output:
        faults.append(f"traceback: {output[-800:]}")
    if ended.returncode not in (0, 1, 2):
        faults.append(f"exit code {ended.returncode}")
    if match := CONTROL.search(output):
        faults.append(f"control character: {output[max(match.start() - 60, 0) : match.end() + 10]!r}")
    sent = [repr(vars(run)).encode() for run in server.runs.values()]
    sent += [contents for run in server.runs.values() for contents in run.files.values()]
    sent += [contents for artifact in server.artifacts.values() for contents in artifact["files"].values()]
    sent.append(output.encode())
    faults += [
        f"{argument!r} was sent or printed"
        for argument in (WORK, SECRET[:40].encode())
        if any(argument in p for p in sent)
    ]
    return faults


def verdict(session: Path, run: Path) -> str | None:
    """Return why a session is refused; None if it is not. Any other error than the one of a refusal is raised."""
    try:
        with TemporaryDirectory() as target:
            copy_session(session, run, Path(target, "copy"), Account({"local"}, {"tests"}))
    except UnsafeFileError as error:
        return str(error)
    return None


# ---- records of a session --------------------------------------------------------------------------------------------


def strings_below(descriptor: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every field of a message that holds a text or bytes."""
    for field in descriptor.fields:
        if field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            yield (field.name,)
        elif field.message_type is not None and len(above) < 5 and field.message_type not in above:
            for path in strings_below(field.message_type, (*above, field.message_type)):
                yield (field.name, *path)


def set_text(message: Any, path: Sequence[str], value: str) -> None:
    """Write a text into a field of a message; lists and maps get one entry."""
    name, *rest = path
    field = message.DESCRIPTOR.fields_by_name[name]
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    if is_map:
        entries = getattr(message, name)
        key, inner = (value, rest) if rest[0] == "key" else ("key", rest)
        if field.message_type.fields_by_name["value"].message_type is None:
            entries[key] = value
        elif inner[0] == "key":
            entries.get_or_create(key)
        else:
            set_text(entries[key], inner[1:], value)
    elif not rest:
        given = value.encode() if field.type == field.TYPE_BYTES else value
        if field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED:
            getattr(message, name).append(given)
        else:
            setattr(message, name, given)
    elif field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED:
        set_text(getattr(message, name).add(), rest, value)
    else:
        inner_message = getattr(message, name)
        inner_message.SetInParent()
        set_text(inner_message, rest, value)


def text_of(name: str, victim: Path) -> str:
    return string(name, victim).replace("\ud800", "\ufffd")[:5000]


def with_text(path: Sequence[str], value: str, name: str) -> list[Any]:
    """Return the records of a session in one of which a field has a value; it is the run's own record if possible."""
    records = ordinary_records(name)
    if path[0] == "run":
        set_text(records[0], path, value)
    else:
        records.insert(2, proto.Record(num=9))
        set_text(records[2], path, value)
    return records


PATHS = list(strings_below(proto.Record.DESCRIPTOR))


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("name", STRINGS)
def test_a_hostile_string_in_each_field_of_a_record(
    new_case: Callable[..., Case], server: WandbServer, name: str, whole: int | None
) -> None:
    """All accepted sessions of one string are passed to the client together."""
    case = new_case()
    session = add_run(case, "probe0")
    accepted = []
    for path in PATHS if whole is None else every(PATHS, 40, ".".join):
        value = text_of(name, case.victim)
        write_session(session.parents[2], with_text(path, value, "probe0"), "probe0")
        if verdict(session, session.parents[2]) is None:
            accepted.append(path)
    shutil.rmtree(session.parents[2])
    reach = [("files", "files", "path"), ("artifact", "manifest", "contents", "ref"), ("tbrecord", "log_dir")]
    reach += [
        ("artifact", "manifest", "manifest_file_path"),
        ("run", "run_id"),
        ("run", "entity"),
        ("use_artifact", "id"),
    ]
    assert not [path for path in accepted if path in reach[1:]]
    if whole is not None:
        return
    for kind in sorted({path[0] for path in accepted}):
        add_run(case, f"x{kind}", [])
        records = ordinary_records(f"x{kind}")
        for path in accepted:
            if path[0] == kind == "run":
                set_text(records[0], path, text_of(name, case.victim))
            elif path[0] == kind:
                records.insert(2, proto.Record(num=9))
                set_text(records[2], path, text_of(name, case.victim))
        write_session(case.outputs / f"x{kind}", records, f"x{kind}")
    add_run(case, "ordinary0")
    assert sync(case, server) == []
    assert server.runs["ordinary0"].values("val/loss") == [0], case.stderr


# ---- files beside a session ------------------------------------------------------------------------------------------


FILES = (
    *("run-{id}.wandb", "files/config.yaml", "files/output.log", "files/wandb-metadata.json", "logs/debug.log"),
    *("files/wandb-summary.json", "files/requirements.txt"),
)
NEW_FILES = ("run-{id}.wandb.synced", ".syncstate", "files/media", "files/predictions.json", "settings", "../settings")
NEW_KINDS = ("link", "dangling_link", "pipe", "directory", "link_to_device", "sparse_gigabyte", "word")


def places() -> list[tuple[str, str]]:
    """Return every file of a session with the kinds of its replacements."""
    found = [(file, kind) for file in FILES for kind in IN_PLACE_OF_A_FILE if kind != "sparse_gigabyte"]
    return found + [(file, kind) for file in NEW_FILES for kind in NEW_KINDS]


@pytest.mark.parametrize("whole", WHOLE)
def test_in_place_of_each_file_of_a_session(
    new_case: Callable[..., Case], server: WandbServer, whole: int | None
) -> None:
    case = new_case()
    for number, (file, kind) in enumerate(every(places(), None if whole is None else 8)):
        if not chosen(f"{file}={kind}"):
            continue
        name = f"r{number}"
        place = add_run(case, name).parent / file.format(id=name)
        if not os.path.lexists(place):
            place.write_text("x")
        put(kind, place, case.victim)
        (case.victim / f"same-{place.name}").unlink(missing_ok=True)
    add_run(case, "ordinary0")
    assert sync(case, server) == []
    assert server.runs["ordinary0"].values("val/loss") == [0], case.stderr


@pytest.mark.parametrize("name", ("wandb", "wandb/offline-run-20260101_000000-r0", "wandb/{session}/files"))
def test_links_in_place_of_the_folders_of_a_session(
    new_case: Callable[..., Case], server: WandbServer, name: str
) -> None:
    case = new_case()
    folder = add_run(case, "r0").parents[1].parent
    place = folder / name.format(session="offline-run-20260101_000000-r0")
    shutil.move(place, case.victim / "moved")
    place.symlink_to(case.victim / "moved")
    assert sync(case, server) == []
    assert "r0" not in server.runs


def test_mutated_sessions_are_accepted_or_refused(new_case: Callable[..., Case]) -> None:
    """In process, by the check alone."""
    case = new_case()
    session = add_run(case, ID)
    whole = session.read_bytes()
    for number in range(300):
        session.write_bytes(mutated(whole, random.Random(number)))
        verdict(session, session.parents[2])


@pytest.mark.slow
def test_mutated_sessions_that_are_accepted_are_uploaded(new_case: Callable[..., Case], server: WandbServer) -> None:
    """Changes within records, whose checksums are right."""
    case = new_case()
    for number in range(40):
        name = f"r{number}"
        session = add_run(case, name)
        written = b":W&B\xe1\xbe\x00"
        for record in ordinary_records(name):
            data = record.SerializeToString()
            written += chunks(mutated(data, random.Random(number)) if number % 2 else data, len(written))
        session.write_bytes(written if number % 2 else mutated(session.read_bytes(), random.Random(number)))
    add_run(case, "ordinary0")
    assert sync(case, server) == []
    assert server.runs["ordinary0"].values("val/loss") == [0], case.stderr


# ---- what sync reads of the run folder -------------------------------------------------------------------------------


def incomplete(case: Case, name: str) -> Path:
    """Return a run whose rows must be backfilled from its folder, with the client in this process."""
    folder = add_run(case, name).parents[2]
    RunFolder.open(folder).update(wandb={"id": name, "mode": "offline", "complete": False})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("file", ("run.json", "config.yaml", "metrics.jsonl", "predictions.json"))
def test_records_of_a_run_that_is_completed(
    new_case: Callable[..., Case], server: WandbServer, request: pytest.FixtureRequest, file: str
) -> None:
    """Hostile strings and values in the fields of the records, a different one for each field of a run."""
    case = new_case()
    record = read_record(case.run / file)
    values: list[Any] = [text_of(name, case.victim) for name in STRINGS if name != "long"]
    values += [value for name, value in VALUES.items() if name != "huge"]
    for turn in range(0, len(values), 3):
        name = f"r{turn}"
        folder = incomplete(case, name)
        changed = read_record(folder / file)
        leaves = [at for at, value in walk(record) if not isinstance(value, dict | list) and "wandb" not in at]
        for number, at in enumerate(leaves):
            changed = with_value(changed, at, values[(number + turn) % len(values)])
        write_record(folder / file, changed)
    add_run(case, "ordinary0")
    assert sync(case, server) == []
    assert server.runs["ordinary0"].values("val/loss") == [0], case.stderr


@pytest.mark.slow
def test_what_run_json_records_about_its_session(new_case: Callable[..., Case], server: WandbServer) -> None:
    case = new_case()
    values: list[Any] = [*(text_of(name, case.victim) for name in STRINGS), *VALUES.values()]
    keys = ("id", "mode", "url", "project", "entity", "complete", "group", "name")
    cases = [(key, number) for key in keys for number in range(len(values))]
    for turn, (key, number) in enumerate(every(cases, 60)):
        name = f"r{turn}"
        folder = add_run(case, name).parents[2]
        record = read_record(folder / "run.json")
        write_record(folder / "run.json", {**record, "wandb": {"id": name, "mode": "offline", key: values[number]}})
    add_run(case, "ordinary0")
    assert sync(case, server) == []
    assert server.runs["ordinary0"].values("val/loss") == [0], case.stderr


@pytest.mark.slow
def test_an_ordinary_session_is_uploaded(new_case: Callable[..., Case], server: WandbServer) -> None:
    case = new_case()
    add_run(case, "ordinary0")
    assert sync(case, server) == [] and case.code == 0, case.stderr
    assert server.runs["ordinary0"].values("val/loss") == [0]


@pytest.mark.slow
def test_the_harness_notices_what_is_sent(
    new_case: Callable[..., Case], server: WandbServer, request: pytest.FixtureRequest
) -> None:
    case = new_case()
    add_run(case, "ordinary0")
    server.run("other").files["thesis.txt"] = WORK
    failures = {"sent": sync(case, server)}
    with pytest.raises(AssertionError, match="was sent"):
        report(failures, request.node.nodeid)
