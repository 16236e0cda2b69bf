"""The harness itself: an ordinary folder raises no alarm, and each effect that it watches does."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.security.harness import SECRET, Case, check_csv, check_html, check_markdown
from tests.security.hostile import STRINGS
from tests.security.verbs import VERBS, attack


@pytest.mark.parametrize("verb", VERBS)
def test_an_ordinary_folder_raises_no_alarm(new_case: Callable[..., Case], verb: str) -> None:
    case = new_case()
    assert attack(case, verb) == []
    assert case.code == 0, case.stderr


def _write(case: Case) -> None:
    (case.victim / "new.txt").write_text("x")


def _write_through_link(case: Case) -> None:
    link = case.outputs / "link"
    link.symlink_to(case.victim / "thesis.txt")
    link.write_text("x")


def _write_anchored(case: Case) -> None:
    folder = os.open(case.victim, os.O_RDONLY)
    os.close(os.open("anchored", os.O_WRONLY | os.O_CREAT, dir_fd=folder))
    os.close(folder)


def _write_in_another_process(case: Case) -> None:
    subprocess.run(["touch", str(case.victim / "touched")], check=True)


def _connect(case: Case) -> None:
    with socket.socket() as client:
        client.settimeout(0.1)
        client.connect_ex(("127.0.0.1", 9))


def _escape(case: Case) -> None:
    print("\x1b[2J")


def _leak(case: Case) -> None:
    (case.out / "file.txt").write_text(os.environ["AWS_SECRET_ACCESS_KEY"])


def _import(case: Case) -> None:
    import canary_in_cwd  # noqa: F401


def _use_imported(case: Case) -> None:
    sys.modules["canary_imported"].Model()


def _fail(case: Case) -> None:
    raise KeyError("x")


def _hang(case: Case) -> None:
    time.sleep(5)


ALARMS: dict[str, tuple[Callable[[Case], None], str]] = {
    "write": (_write, "open outside"),
    "write through a link": (_write_through_link, "open outside"),
    "write below a descriptor": (_write_anchored, "open outside"),
    "delete": (lambda case: os.remove(case.victim / "thesis.txt"), "os.remove outside"),
    "delete a folder": (lambda case: os.rmdir(case.cwd / "empty"), "os.rmdir outside"),
    "rename": (lambda case: os.rename(case.outputs / "run", case.victim / "moved"), "os.rename outside"),
    "link": (lambda case: os.symlink("x", case.victim / "link"), "os.symlink outside"),
    "process": (_write_in_another_process, "subprocess.Popen"),
    "git option": (
        lambda case: subprocess.run(["git", "archive", "--output=x", "HEAD"], capture_output=True),
        "git with",
    ),
    "shell": (lambda case: os.system("true"), "os.system"),
    "connection": (_connect, "socket.connect"),
    "name of a host": (lambda case: socket.getaddrinfo("127.0.0.1", 9), "socket.getaddrinfo"),
    "escape sequence": (_escape, "control character"),
    "secret": (_leak, "secret in file.txt"),
    "import": (_import, "canary"),
    "imported class": (_use_imported, "canary: canary_imported.Model"),
    "traceback": (_fail, "traceback: KeyError"),
    "hang": (_hang, "hang"),
}


@pytest.mark.parametrize("effect", ALARMS)
def test_each_effect_raises_an_alarm(new_case: Callable[..., Case], effect: str) -> None:
    case = new_case()
    (case.cwd / "empty").mkdir()
    does, alarm = ALARMS[effect]

    def verb(argv: Any) -> None:
        does(case)

    faults = case.open(verb, seconds=0.5 if effect == "hang" else 10)
    assert any(alarm in fault for fault in faults), faults


def test_a_secret_is_the_one_of_the_environment() -> None:
    assert len(SECRET) > 40


def test_outputs_are_read_as_programs_read_them() -> None:
    assert check_html("<script>zzhostile</script>") and check_html("<img src=x onerror=zzhostile>")
    assert check_html('<a href="javascript:alert(1)">x</a>')
    assert not check_html("&lt;script&gt;zzhostile&lt;/script&gt;<p title='&lt;script&gt;'>x</p>")
    assert check_csv(f"a,{STRINGS['formula']}\n") and not check_csv("a,-2.5,'=x,-,text\n")
    assert check_markdown("[x](javascript:alert(1))") and check_markdown("<script>x")
    assert not check_markdown("`<script>` \\[x\\]\\(javascript:x\\)")
