"""Which records and files of a W&B session are passed to ``wandb sync``, and which are refused."""

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from src.compat.wandb_session import MAX_SESSION_BYTES, CopiedSession, _records, copy_session
from src.core.files import UnsafeFileError
from src.core.wandb_account import Account

proto: Any = pytest.importorskip("wandb.proto.wandb_internal_pb2")

ID = "abcd1234"


def chunks(data: bytes, position: int) -> bytes:
    """Return a record as the chunks of a LevelDB log that begin at a position of the file."""
    written, first = b"", True
    while True:
        left = 32768 - (position + len(written)) % 32768
        if left < 7:
            written += bytes(left)
            continue
        part, data = data[: left - 7], data[left - 7 :]
        kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[first, not data]
        written += struct.pack("<IHB", zlib.crc32(part, zlib.crc32(bytes([kind]))), len(part), kind) + part
        first = False
        if not data:
            return written


def write_session(run: Path, records: Sequence[Any], name: str = ID) -> Path:
    """Write a session of a run folder with some records, and return its file."""
    folder = run / "wandb" / f"offline-run-20260101_000000-{name}"
    (folder / "files").mkdir(parents=True, exist_ok=True)
    written = b":W&B\xe1\xbe\x00"
    for record in records:
        written += chunks(record.SerializeToString(), len(written))
    file = folder / f"run-{name}.wandb"
    file.write_bytes(written)
    return file


def entry(**fields: Any) -> Any:
    manifest = proto.ArtifactManifest(contents=[proto.ArtifactManifestEntry(path="a", **fields)])
    return proto.Record(artifact=proto.ArtifactRecord(name="a", type="model", manifest=manifest))


def run_record(**fields: Any) -> Any:
    return proto.Record(run=proto.RunRecord(**{"run_id": ID, **fields}))


def file_record(path: str) -> Any:
    return proto.Record(files=proto.FilesRecord(files=[proto.FilesItem(path=path)]))


def history(size: int = 10) -> Any:
    item = proto.HistoryItem(key="val/loss", value_json="1" * size)
    return proto.Record(history=proto.HistoryRecord(item=[item]))


BAD = {
    "entity": run_record(entity="attacker"),
    "project": run_record(project="attacker"),
    "run id": run_record(run_id="another1"),
    "another run by its key": run_record(storage_id="UnVuOnYxOmE6Yjpj"),
    "rewinding": run_record(branch_point=proto.BranchPoint(run=ID, metric="_step", value=0)),
    "forking": run_record(forked=True),
    "name of two lines": run_record(display_name=f"x at http://evil.example/runs/{ID}\nrest"),
    "artifact of an entity": proto.Record(artifact=proto.ArtifactRecord(entity="attacker")),
    "artifact of a project": proto.Record(artifact=proto.ArtifactRecord(project="attacker")),
    "artifact of a run": proto.Record(artifact=proto.ArtifactRecord(run_id="another1")),
    "artifact with a reference": entry(ref="file:///etc/passwd"),
    "artifact with a list elsewhere": proto.Record(
        artifact=proto.ArtifactRecord(manifest=proto.ArtifactManifest(manifest_file_path="/etc/passwd"))
    ),
    "file above": file_record("../../../../secret"),
    "absolute file": file_record("/etc/passwd"),
    "empty file": file_record(""),
    "TensorBoard": proto.Record(tbrecord=proto.TBRecord(log_dir="/etc", root_dir="/")),
    "request": proto.Record(request=proto.Request(download_artifact=proto.DownloadArtifactRequest(download_root="/"))),
    "used artifact": proto.Record(use_artifact=proto.UseArtifactRecord(id="x")),
    "alert": proto.Record(alert=proto.AlertRecord(title="x")),
    "nothing": proto.Record(),
}
OWN = Account({"me"}, {"mine"})


def copy(session: Path, run: Path) -> CopiedSession:
    target = run.parent / "copies"
    return copy_session(session, run, target / str(len(list(target.glob("*")))), OWN)


def records_of(file: Path) -> list[Any]:
    with file.open("rb") as log:
        return [proto.Record.FromString(data) for data in _records(log, file)]


@pytest.mark.parametrize("kind", BAD)
def test_a_record_that_reaches_beyond_the_run_is_refused(tmp_path: Path, kind: str) -> None:
    run = tmp_path / "run"
    session = write_session(run, [run_record(), history(), BAD[kind], history()])
    with pytest.raises(UnsafeFileError):
        copy(session, run)


def test_ordinary_records_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    staged = tmp_path / "data" / "artifacts" / "staging" / "tmp1"
    staged.parent.mkdir(parents=True)
    staged.write_text("x")
    run = tmp_path / "run"
    records = [run_record(entity="me", project="mine")]
    records += [history(), history(100_000), *[history(n) for n in range(32_600, 32_770)]]
    records += [file_record("media/a.png"), entry(local_path=str(staged)), entry(local_path=str(run / "best.ckpt"))]
    session = write_session(run, records)
    (run / "best.ckpt").write_text("weights")
    (session.parent / "files" / "media").mkdir()
    (session.parent / "files" / "media" / "a.png").write_text("png")
    (session.parent / "files" / "b.ckpt").symlink_to(run / "best.ckpt")
    (session.parent / f"{session.name}.syncstate").write_text("{}")
    log, has_run, whole = copy(session, run)
    *same, own = records_of(log)
    assert has_run and whole and same == records[:-1]
    assert Path(own.artifact.manifest.contents[0].local_path).read_text() == "weights"
    copied = {path.relative_to(log.parent).as_posix() for path in log.parent.rglob("*") if path.is_file()}
    assert copied == {log.name, f"{log.name}.syncstate", "files/media/a.png", "files/b.ckpt", "artifacts/0"}
    assert not any(path.is_symlink() for path in log.parent.rglob("*"))


def test_a_log_that_ends_within_a_record_is_cut(tmp_path: Path) -> None:
    records = [run_record(), history(), history(100_000), history(5)]
    run = tmp_path / "run"
    ends = [write_session(run, records[:count]).stat().st_size for count in range(5)]
    session = write_session(run, records)
    whole = session.read_bytes()
    for cut in {0, 3, 7, *(end + more for end in ends for more in (-1, 1, 8)), len(whole) // 2}:
        if 0 <= cut < len(whole):
            session.write_bytes(whole[:cut])
            log, has_run, complete = copy(session, run)
            count = sum(end <= cut for end in ends[1:])
            assert complete == (cut in ends) and has_run == bool(count) and records_of(log) == records[:count], cut


@pytest.mark.parametrize("zeros", [7, 50, 100_000])
def test_a_log_that_ends_with_zeros_is_cut(tmp_path: Path, zeros: int) -> None:
    session = write_session(tmp_path / "run", [run_record(), history()])
    session.write_bytes(session.read_bytes() + bytes(zeros))
    log, has_run, whole = copy(session, tmp_path / "run")
    assert has_run and not whole and records_of(log) == [run_record(), history()]


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "{run}/../secret", "{run}/gone", "/moved/run/best.ckpt"])
def test_an_artifact_with_a_file_outside_of_the_run_is_left_out(tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    (tmp_path / "secret").write_text("x")
    records = [run_record(), entry(local_path=name.format(run=run)), history()]
    log, _, whole = copy(write_session(run, records), run)
    assert not whole and records_of(log) == [run_record(), history()]


@pytest.mark.parametrize("staged", [True, False])
def test_a_link_in_an_artifact_is_not_followed(tmp_path: Path, monkeypatch: Any, staged: bool) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "secret").write_text("x")
    run = tmp_path / "run"
    link = tmp_path / "data" / "artifacts" / "staging" / "link" if staged else run / "link"
    session = write_session(run, [run_record(), entry(local_path=str(link))])
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "secret")
    if staged:
        assert records_of(copy(session, run).log) == [run_record()]
    else:
        with pytest.raises(UnsafeFileError, match="link"):
            copy(session, run)


@pytest.mark.parametrize("position", [0, 4, 6, 8, 13, 20])
def test_a_damaged_log_is_refused(tmp_path: Path, position: int) -> None:
    session = write_session(tmp_path / "run", [run_record(), history()])
    damaged = bytearray(session.read_bytes())
    damaged[position] ^= 0x5A
    session.write_bytes(damaged)
    with pytest.raises(UnsafeFileError):
        copy(session, tmp_path / "run")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../secret", "nothing", "/moved/run/predictions.json"])
def test_a_link_that_leaves_the_run_is_left_out(tmp_path: Path, target: str) -> None:
    (tmp_path / "secret").write_text("x")
    session = write_session(tmp_path / "run", [run_record()])
    (session.parent / "files" / "a.txt").symlink_to(target)
    log, _, whole = copy(session, tmp_path / "run")
    assert not whole and not (log.parent / "files").exists()


@pytest.mark.parametrize("name", ["files/a.txt", f"run-{ID}.wandb", f"run-{ID}.wandb.syncstate"])
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_anything_but_a_regular_file_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    run = tmp_path / "run"
    session = write_session(run, [run_record()])
    place = session.parent / name
    place.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(place)
    else:  # to another link, within the run folder
        (run / "link").symlink_to("/etc/passwd")
        place.symlink_to(run / "link")
    with pytest.raises(UnsafeFileError):
        copy(session, run)


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    session = write_session(tmp_path / "run", [run_record()])
    with (session.parent / "files" / "a.txt").open("wb") as file:
        file.truncate(MAX_SESSION_BYTES + 1)
    with pytest.raises(UnsafeFileError, match="GiB"):
        copy(session, tmp_path / "run")


def test_without_the_reader_a_session_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = write_session(tmp_path / "run", [run_record()])
    monkeypatch.delattr(proto, "Record")
    with pytest.raises(UnsafeFileError, match="not checked"):
        copy(session, tmp_path / "run")
