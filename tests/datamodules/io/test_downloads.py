"""Public files: taken where they lie, downloaded whole or in two pieces, and refused by name where they are wrong."""

import gzip
import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from src.core.errors import UserError
from src.datamodules.io.downloads import PublicFile

CONTENTS = bytes(range(256)) * 2000
SUM = hashlib.sha256(CONTENTS).hexdigest()


class Server:
    """Serves CONTENTS; `breaks_after` bytes the connection ends, `ranges` says whether it can go on where it broke."""

    def __init__(self) -> None:
        self.breaks_after: int | None = None
        self.ranges = True
        self.contents = CONTENTS
        self.sends_length = True
        self.chunk_delay = 0.0
        self.asked: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                server.asked.append(wanted)
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
                if self.path != "/file":
                    self.send_error(404)
                    return
                if start >= len(server.contents):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(server.contents)}")
                    self.end_headers()
                    return
                body = server.contents[start:]
                self.send_response(206 if start else 200)
                if server.sends_length:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                for first in range(0, len(body[: server.breaks_after]), 1 << 16):
                    self.wfile.write(body[: server.breaks_after][first : first + (1 << 16)])
                    time.sleep(server.chunk_delay)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def public(url: str, sha256: str | None = SUM, **more: Any) -> PublicFile:
    return PublicFile(f"{url}/file", "set/file.bin", sha256, **more)


def test_a_missing_file_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    file = public(server.url)
    assert file.read(tmp_path) == CONTENTS == file.read(tmp_path)
    assert server.asked == [None]
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == [".download.lock", "file.bin"]


def test_concurrent_processes_download_a_file_once(server: Server, tmp_path: Path) -> None:
    server.chunk_delay = 0.01  # long enough for all of them to be there at once
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: public(server.url).read(tmp_path), range(4)))
    assert found == [CONTENTS] * 4
    assert server.asked == [None]


@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted_download_is_continued(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.breaks_after, server.ranges = 100_000, ranges
    with pytest.raises(UserError, match="broke off after 100,000 of 512,000 bytes"):
        public(server.url).read(tmp_path)
    assert public(server.url).find(tmp_path) is None, "half a file is no file"
    server.breaks_after = None
    assert public(server.url).read(tmp_path) == CONTENTS
    assert server.asked == [None, "bytes=100000-"]


def test_complete_partial_download_is_moved(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / ".file.bin.partial").write_bytes(CONTENTS)
    assert public(server.url, None).read(tmp_path) == CONTENTS
    assert server.asked == ["bytes=512000-"]


@pytest.mark.parametrize("left", [b"rubbish", CONTENTS + b"more", b"x" * len(CONTENTS)], ids=["less", "more", "equal"])
def test_wrong_partial_download_is_discarded(server: Server, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / ".file.bin.partial").write_bytes(left)
    assert public(server.url).read(tmp_path) == CONTENTS
    assert not (tmp_path / "set" / ".file.bin.partial").exists()


@pytest.mark.parametrize("sent", [b"<html>Please log in</html>", CONTENTS[:-5]], ids=["a page", "broken off"])
def test_file_that_differs_from_the_published_one_is_not_stored(server: Server, tmp_path: Path, sent: bytes) -> None:
    server.contents, server.sends_length = sent, False
    with pytest.raises(UserError, match=rf"the downloaded {len(sent):,} bytes are not the published file"):
        public(server.url).read(tmp_path)
    assert [path.name for path in (tmp_path / "set").iterdir()] == [".download.lock"]
    server.contents = CONTENTS
    assert public(server.url).read(tmp_path) == CONTENTS


def test_file_without_checksum_is_verified_by_its_number_of_lines(server: Server, tmp_path: Path) -> None:
    server.contents, server.sends_length = b"one\ntwo\nthr", False
    with pytest.raises(UserError, match="not the published file"):
        public(server.url, None, lines=4).read(tmp_path)
    server.contents = b"one\ntwo\nthree\nfour\n"
    assert public(server.url, None, lines=4).read(tmp_path) == server.contents


@pytest.mark.parametrize("place", ["set/file.bin", "other/file.bin.gz", "other/file.bin"])
def test_common_alternative_paths_are_found(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir()
    path.write_bytes(gzip.compress(CONTENTS) if place.endswith(".gz") else CONTENTS)
    assert public("http://127.0.0.1:9", also=("other/file.bin.gz",)).read(tmp_path) == CONTENTS


def test_recompressed_file_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for level in (1, 9):
        (tmp_path / "set" / "file.bin").write_bytes(gzip.compress(CONTENTS, level))
        assert public("").read(tmp_path) == CONTENTS


def test_download_error_names_file_url_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        public("http://127.0.0.1:9").read(tmp_path)
    message = str(error.value)
    assert f"{tmp_path}/set/file.bin" in message and "http://127.0.0.1:9/file" in message and "paths.data" in message


def test_missing_url_is_reported(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Not Found"):
        PublicFile(f"{server.url}/gone", "set/file.bin").read(tmp_path)


def test_other_contents_are_rejected_unless_verify_is_false(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin").write_bytes(CONTENTS[:-1])
    with pytest.raises(UserError, match=r"file\.bin: the contents \(511,999 bytes\) differ from those published at"):
        public("http://x").read(tmp_path)
    assert public("http://x").read(tmp_path, verify=False) == CONTENTS[:-1]


def test_error_names_a_truncated_archive(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin").write_bytes(gzip.compress(CONTENTS)[:-100])
    with pytest.raises(UserError, match=r"file\.bin: this file is damaged"):
        public("http://x").read(tmp_path)


def test_checksum_of_the_compressed_file_is_verified(tmp_path: Path) -> None:
    packed = gzip.compress(CONTENTS, mtime=0)
    file = public("http://x", None, packed=hashlib.sha256(packed).hexdigest())
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin").write_bytes(packed)
    assert file.read(tmp_path) == CONTENTS
    (tmp_path / "set" / "file.bin").write_bytes(gzip.compress(CONTENTS[:-1], mtime=0))
    with pytest.raises(UserError, match="differ from those published"):
        file.read(tmp_path)


def test_md5_verifies_the_compressed_file_and_lines_the_decompressed_one(tmp_path: Path) -> None:
    packed = gzip.compress(b"one\ntwo\n", mtime=0)
    file = public("http://x", None, packed=hashlib.md5(packed).hexdigest(), lines=2)
    (tmp_path / "set").mkdir()
    place = tmp_path / "set" / "file.bin"
    for contents in (packed, b"one\ntwo\n", gzip.compress(b"one\ntwo\n", 1, mtime=9)):
        place.write_bytes(contents)
        assert file.read(tmp_path) == b"one\ntwo\n"
    for contents in (b"one\n", gzip.compress(b"one\ntwo\nthree\n")):
        place.write_bytes(contents)
        with pytest.raises(UserError, match="differ from those published"):
            file.read(tmp_path)
