"""What of a W&B session is handed to ``wandb sync``, and what is refused."""

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from src.compat.wandb_session import check_session, valid_run_id
from src.core.files import UnsafeFileError

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
    "run id": run_record(run_id="another1"),
    "fork or rewind": run_record(branch_point=proto.BranchPoint(run="another1", metric="_step", value=1)),
    "name of two lines": run_record(display_name=f"x at http://evil.example/runs/{ID}\nrest"),
    "artifact of an entity": proto.Record(artifact=proto.ArtifactRecord(entity="attacker")),
    "artifact of a run": proto.Record(artifact=proto.ArtifactRecord(run_id="another1")),
    "artifact with a secret": entry(local_path="/etc/passwd"),
    "artifact with a way out": entry(local_path="../secret"),
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


@pytest.mark.parametrize("kind", BAD)
def test_a_record_that_reaches_beyond_the_run_is_refused(tmp_path: Path, kind: str) -> None:
    session = write_session(tmp_path, [run_record(), history(), BAD[kind], history()])
    with pytest.raises(UnsafeFileError):
        check_session(session, tmp_path, {"me"})


def test_ordinary_records_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    staged = tmp_path / "data" / "artifacts" / "staging" / "tmp1"
    staged.parent.mkdir(parents=True)
    staged.write_text("x")
    run = tmp_path / "run"
    records = [run_record(entity="me"), history(), history(100_000), *[history(n) for n in range(32_700, 32_770)]]
    records += [file_record("media/a.png"), entry(local_path=str(staged)), entry(local_path=str(run / "best.ckpt"))]
    session = write_session(run, records)
    (run / "best.ckpt").write_text("x")
    check_session(session, run, {"me"})
    whole = session.read_bytes()
    for cut in (0, 3, 7, 9, len(whole) // 2, len(whole) - 1):  # the process was killed while it wrote
        session.write_bytes(whole[:cut])
        check_session(session, run, {"me"})


def test_a_staged_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "secret").write_text("x")
    run = tmp_path / "run"
    session = write_session(run, [entry(local_path=str(run / "link"))])
    (run / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeFileError):
        check_session(session, run, set())


@pytest.mark.parametrize("position", [0, 4, 6, 8, 13, 20])
def test_a_damaged_log_is_refused(tmp_path: Path, position: int) -> None:
    session = write_session(tmp_path, [run_record(), history()])
    damaged = bytearray(session.read_bytes())
    damaged[position] ^= 0x5A
    session.write_bytes(damaged)
    with pytest.raises(UnsafeFileError):
        check_session(session, tmp_path, set())


def _dangling(session: Path, place: Path) -> None:
    place.symlink_to(session.parents[3] / "made")


def _leaving(session: Path, place: Path) -> None:
    (session.parents[3] / "secret").write_text("x")
    place.symlink_to(session.parents[3] / "secret")


def _pipe(session: Path, place: Path) -> None:
    os.mkfifo(place)


@pytest.mark.parametrize("make", [_dangling, _leaving, _pipe])
@pytest.mark.parametrize("name", ["files/config.yaml", "files/a.txt", f"run-{ID}.wandb.synced", ".syncstate", "logs"])
def test_a_link_that_leaves_is_refused(tmp_path: Path, name: str, make: Callable[[Path, Path], None]) -> None:
    session = write_session(tmp_path / "run", [run_record()])
    check_session(session, tmp_path / "run", set())
    make(session, session.parent / name)
    with pytest.raises(UnsafeFileError):
        check_session(session, tmp_path / "run", set())


def test_without_the_reader_a_session_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = write_session(tmp_path, [run_record()])
    monkeypatch.delattr(proto, "Record")
    with pytest.raises(UnsafeFileError, match="not checked"):
        check_session(session, tmp_path, set())


@pytest.mark.parametrize(
    "value", [None, 3, "", "..", "../a", "a/b", "a b", "a\n", "-x", ".x", "a" * 129, "a%2f", ["a"], "ä"]
)
def test_what_is_no_run_id(value: object) -> None:
    assert not valid_run_id(value) and valid_run_id(ID)
