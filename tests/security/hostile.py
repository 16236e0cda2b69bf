"""Hostile contents: strings, values of other types, and replacements for files and folders."""

import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = "zzhostile"
"""Part of every hostile string, so that a test finds it in the arguments of a process."""

SECRET = "canary-secret-" + "7f3a9c" * 5
"""The value of environment variables that must appear in no output and in no file."""

STRINGS = {
    "escape": f"{MARK}\x1b]0;title\x07\x1b[2J",
    "c1": f"{MARK}\x9d52;c;cHduZWQ=\x9c\r\x08",
    "bidirectional": f"{MARK}\u202egnp.exe\u2066",
    "surrogate": f"{MARK}\ud800",
    "formula": f"=HYPERLINK({MARK})",
    "formula_after_space": f"@SUM({MARK})",
    "script": f"</script><script>{MARK}</script><img src=x onerror={MARK}>",
    "attribute": f"\"' onmouseover={MARK} x='",
    "markdown": f"[{MARK}](javascript:alert(1)) ![x](https://attacker.invalid/t.png) | `",
    "traversal": f"../../../victim/{MARK}",
    "absolute": "{victim}/zzhostile",
    "option": f"--output={MARK}",
    "upload_pack": f"--upload-pack=touch {MARK}",
    "environment": "${oc.env:AWS_SECRET_ACCESS_KEY}",
    "interpolation": "${nowhere.at.all}",
    "null": f"{MARK}\x00.png",
    "braces": f"{MARK} {{x}} %s [link=https://attacker.invalid]rich[/link] [/]",
    "mathtext": f"${MARK}^{{$",
    "long": MARK + "x" * 100_000,
    "newlines": f"{MARK}\n\nerror: pretended\u2028\x85",
    "target": "canary_in_cwd.Model",
    "url": "http://127.0.0.1:9/zzhostile",
}

VALUES: dict[str, Any] = {
    "null": None,
    "zero": 0,
    "negative": -1,
    "huge": 10**400,
    "infinity": float("inf"),
    "nan": float("nan"),
    "empty_list": [],
    "empty_dict": {},
    "empty_text": "",
    "true": True,
    "nested": {"a": [{"b": [1, None, {"c": "d"}]}]},
    "list_of_lists": [[[]], [0], ["x"]],
    "fraction": 0.5,
    "text": "word",
}


def string(name: str, victim: Path) -> str:
    """Return a hostile string, in which the placeholder of the victim folder is replaced by its path."""
    return STRINGS[name].replace("{victim}", str(victim))


# ---- in place of a file ------------------------------------------------------------------------------------------


def _link(path: Path, victim: Path) -> None:
    path.symlink_to(victim / "thesis.txt")


def _link_to_same_kind(path: Path, victim: Path) -> None:
    """Link to a file outside with the contents of the record, so that only the link can be refused."""
    other = victim / f"same-{path.name}"
    other.write_bytes(Path(str(path) + ".before").read_bytes())
    path.symlink_to(other)


def _dangling(path: Path, victim: Path) -> None:
    path.symlink_to(victim / "made-by-the-attack")


def _loop(path: Path, victim: Path) -> None:
    path.symlink_to(path.name)


def _device(path: Path, victim: Path) -> None:
    path.symlink_to("/dev/zero")


def _pipe(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path, victim: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the address of a socket is at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def _directory(path: Path, victim: Path) -> None:
    (path / "below").mkdir(parents=True)


def _sparse(path: Path, victim: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**30)


def _bytes(contents: bytes) -> Callable[[Path, Path], None]:
    return lambda path, victim: path.write_bytes(contents) and None


def alias_bomb(levels: int = 12) -> str:
    """Return a few lines of YAML that describe 10**levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


IN_PLACE_OF_A_FILE: dict[str, Callable[[Path, Path], None]] = {
    "link": _link,
    "link_to_same_kind": _link_to_same_kind,
    "dangling_link": _dangling,
    "link_to_itself": _loop,
    "link_to_device": _device,
    "pipe": _pipe,
    "socket": _socket,
    "directory": _directory,
    "sparse_gigabyte": _sparse,
    "deep_lists": _bytes(b"[" * 100_000),
    "deep_dicts": _bytes(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "deep_yaml": _bytes(b"".join(b" " * n + b"a:\n" for n in range(1500))),
    "alias_bomb": _bytes(alias_bomb().encode()),
    "yaml_python_tag": _bytes(b"!!python/object/apply:os.system ['touch zzhostile']\n"),
    "invalid_utf8": _bytes(b'{"status": "\xff\xfe\xed\xa0\x80"}\n'),
    "nulls": _bytes(b"\0" * 4096),
    "empty": _bytes(b""),
    "list": _bytes(b"[1, 2]\n"),
    "number": _bytes(b"7\n"),
    "word": _bytes(b'"word"\n'),
    "nothing": _bytes(b"null\n"),
    "long_number": _bytes(b'{"value": ' + b"9" * 5000 + b"}\n"),
    "duplicate_keys": _bytes(b'{"status": "failed", "status": 1}\n'),
    "byte_order_mark": _bytes(b"\xef\xbb\xbf{}\n"),
}
"""For each kind, what puts it at a path where nothing is any more. The record itself is at the path with ``.before``."""


def put(kind: str, path: Path, victim: Path) -> None:
    """Replace a file."""
    before = Path(f"{path}.before")
    path.rename(before)
    IN_PLACE_OF_A_FILE[kind](path, victim)
    before.unlink()


# ---- changed bytes -------------------------------------------------------------------------------------------------


def mutated(contents: bytes, random: random.Random) -> bytes:
    """Return contents with some bytes changed, removed, repeated or added."""
    data = bytearray(contents)
    tokens = [
        b"null",
        b"-1",
        b"1e999",
        b"[]",
        b"{}",
        b'""',
        b"\x1b[2J",
        b"\xff",
        b"\n",
        b"&a *a",
        b"NaN",
        b'{"a":' * 80,
    ]
    for _ in range(random.choice((1, 1, 2, 5, 30))):
        place = random.randrange(len(data) + 1)
        match random.randrange(7):
            case 0 if place < len(data):
                data[place] ^= 1 << random.randrange(8)
            case 1:
                data[place:place] = bytes(random.randrange(256) for _ in range(random.choice((1, 4, 50))))
            case 2:
                del data[place : place + random.choice((1, 3, 40, 1000))]
            case 3:
                data[place:place] = data[place : place + random.choice((5, 100))] * random.choice((2, 9))
            case 4:
                del data[place:]
            case 5:
                data[place:place] = random.choice(tokens)
            case 6:
                end = place + random.choice((1, 4, 10))
                data[place:end] = random.choice(tokens)
    return bytes(data)
