"""Checkpoints that are bombs, pickles that run code, and archives with two faces."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.security.harness import ROOT, SECRET, Case, read_record
from tests.security.verbs import CHECKPOINT, LAST, attack

VERBS_OF_CHECKPOINTS = ("evaluate", "evaluate_checkpoint", "predict", "export", "runs_export", "resume")


class _System:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def _saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def _members(contents: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(contents)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zipped(members: list[tuple[str, bytes]], kind: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, contents in members:
            archive.writestr(name, contents)
    return file.getvalue()


def with_pickle(old: bytes, data: bytes) -> bytes:
    """Return a checkpoint with another pickle in it."""
    members = _members(old)
    return _zipped([(name, data if name.endswith("data.pkl") else part) for name, part in members.items()])


def _evil(function: Any, *args: Any) -> Callable[[dict[str, Any], bytes], bytes]:
    return lambda checkpoint, old: with_pickle(old, pickle.dumps(_System(function, *args), protocol=2))


def _in_state(**entries: Any) -> Callable[[dict[str, Any], bytes], bytes]:
    return lambda checkpoint, old: _saved({**checkpoint, **{key: make() for key, make in entries.items()}})


def _compressed(checkpoint: dict[str, Any], old: bytes) -> bytes:
    zeros = torch.zeros(400_000_000, dtype=torch.uint8)
    return _zipped(list(_members(_saved({**checkpoint, "x": zeros})).items()), zipfile.ZIP_DEFLATED)


def _compressed_pickle(checkpoint: dict[str, Any], old: bytes) -> bytes:
    members = _members(old)
    text = b"\x80\x02X" + struct.pack("<I", 2**30) + b"x" * 2**30 + b"."
    return _zipped([(n, text if n.endswith("data.pkl") else p) for n, p in members.items()], zipfile.ZIP_DEFLATED)


def _laughs(levels: int = 28) -> list[Any]:
    value: list[Any] = ["x" * 64]
    for _ in range(levels):
        value = [value, value]
    return value


def _twice(checkpoint: dict[str, Any], old: bytes) -> bytes:
    members = list(_members(old).items())
    name = next(name for name, _ in members if name.endswith("data.pkl"))
    return _zipped([*members, (name, pickle.dumps(_System(os.system, "touch zzhostile"), protocol=2))])


def _deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(150):
        value = [value]
    return value


def _storage_size(checkpoint: dict[str, Any], old: bytes) -> bytes:
    """Let the pickle declare a storage of a petabyte."""
    members = _members(old)
    changed = {
        name: part.replace(b"K\x08", b"\x8a\x07\0\0\0\0\0\0\x04") if name.endswith("data.pkl") else part
        for name, part in members.items()
    }
    return _zipped(list(changed.items()))


def _names_that_leave(checkpoint: dict[str, Any], old: bytes) -> bytes:
    return _zipped([*_members(old).items(), ("../../../victim/zzhostile", b"x"), ("/zzhostile", b"x")])


def _of_layer(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, Any], bytes], bytes]:
    def made(checkpoint: dict[str, Any], old: bytes) -> bytes:
        state = {name: change(value) for name, value in checkpoint["state_dict"].items()}
        return _saved({**checkpoint, "state_dict": state})

    return made


def _config(**changes: Any) -> Callable[[dict[str, Any], bytes], bytes]:
    def made(checkpoint: dict[str, Any], old: bytes) -> bytes:
        gridlight = {**checkpoint["gridlight"]}
        config = gridlight["config"] = {**gridlight["config"]}
        for key, value in changes.items():
            group, _, name = key.partition("__")
            config[group] = {**config[group], name: value}
        return _saved({**checkpoint, "gridlight": gridlight})

    return made


def _spec(**changes: Any) -> Callable[[dict[str, Any], bytes], bytes]:
    return lambda checkpoint, old: _saved(
        {**checkpoint, "gridlight": {**checkpoint["gridlight"], "spec": {**checkpoint["gridlight"]["spec"], **changes}}}
    )


BAD: dict[str, Callable[[dict[str, Any], bytes], bytes]] = {
    "os.system": _evil(os.system, "touch zzhostile"),
    "eval": _evil(eval, "open('zzhostile', 'w')"),
    "exec": _evil(exec, "import canary_in_cwd"),
    "open": _evil(open, "zzhostile", "w"),
    "legacy pickle": lambda checkpoint, old: pickle.dumps(_System(os.system, "touch zzhostile")),
    "legacy torch": lambda checkpoint, old: _saved(checkpoint, _use_new_zipfile_serialization=False),
    "legacy torch, os.system": lambda checkpoint, old: _saved(
        _System(os.system, "touch zzhostile"), _use_new_zipfile_serialization=False
    ),
    "two pickles": _twice,
    "names that leave": _names_that_leave,
    "deep lists": _in_state(x=_deep),
    "torchscript": lambda checkpoint, old: _zipped(
        [*_members(old).items(), ("archive/constants.pkl", b"\x80\x02)."), ("archive/code/x.py", b"import os")]
    ),
    "tar": lambda checkpoint, old: b"pickle/" + b"\0" * 250 + b"ustar" + b"\0" * 1000,
    "truncated": lambda checkpoint, old: old[: len(old) // 2],
    "text": lambda checkpoint, old: b"version https://git-lfs.github.com/spec/v1\n",
    "list": lambda checkpoint, old: _saved([checkpoint]),
    "tensor": lambda checkpoint, old: _saved(torch.zeros(3)),
    "no weights": lambda checkpoint, old: _saved({**checkpoint, "state_dict": {}}),
    "weights of another type": lambda checkpoint, old: _saved({**checkpoint, "state_dict": {"x": "y", 3: None}}),
    "weights as text": lambda checkpoint, old: _saved({**checkpoint, "state_dict": "zzhostile"}),
    "nothing of ours": lambda checkpoint, old: _saved({**checkpoint, "gridlight": None}),
    "complex": _of_layer(lambda value: value.to(torch.complex64)),
    "sparse": _of_layer(lambda value: value.to_sparse()),
    "quantized": _of_layer(lambda value: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8)),
    "meta": _of_layer(lambda value: value.to("meta")),
    "empty": _of_layer(lambda value: value[:0]),
    "not contiguous": _of_layer(lambda value: value.new_zeros(1).expand(value.shape)),
    "stolen secret": _config(model__activation="${oc.env:AWS_SECRET_ACCESS_KEY}"),
    "wide spec": _spec(output_shape=[-1]),
    "spec of text": _spec(input_shape="zzhostile", class_names=None),
    "unknown task": _spec(task="zzhostile\x1b[2J"),
}
"""Small files: they end in one message."""

BOMBS: dict[str, Callable[[dict[str, Any], bytes], bytes]] = {
    "bytearray": lambda checkpoint, old: with_pickle(old, pickle.dumps(_System(bytearray, 6_000_000_000), protocol=2)),
    "expanded": _of_layer(lambda value: torch.zeros(1).expand(40_000, 40_000)),
    "expanded, beside": _in_state(x=lambda: [torch.zeros(1).expand(10**9)] * 4),
    "expanded state of an optimizer": lambda checkpoint, old: _saved(
        {
            **checkpoint,
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(1).expand(10**9, 2)}}, "param_groups": []}],
        }
    ),
    "compressed": _compressed,
    "compressed pickle": _compressed_pickle,
    "laughs": _in_state(x=_laughs, hyper_parameters=lambda: {"x": _laughs()}),
    "laughs in the config": lambda checkpoint, old: _saved(
        {
            **checkpoint,
            "gridlight": {
                **checkpoint["gridlight"],
                "config": {**checkpoint["gridlight"]["config"], "tags": _laughs()},
            },
        }
    ),
    "laughs in the preparation": lambda checkpoint, old: _saved(
        {**checkpoint, "gridlight": {**checkpoint["gridlight"], "preparation": {"scale": _laughs()}}}
    ),
    "huge storage": _storage_size,
    "wide model": _config(model__hidden_sizes=[100_000, 100_000]),
    "many layers": _config(model__hidden_sizes=[1] * 200_000),
    "wide input": _spec(input_shape=[1, 100_000, 100_000]),
    "many classes": _spec(output_shape=[2**33]),
    "large batches": _config(datamodule__batch_size=10**12),
}
"""Files that describe gigabytes."""


def put(case: Case, make: Callable[[dict[str, Any], bytes], bytes]) -> None:
    """Write a bad checkpoint in place of both."""
    contents = make(read_record(case.run / CHECKPOINT), (case.run / CHECKPOINT).read_bytes())
    for name in (CHECKPOINT, LAST):
        (case.run / name).write_bytes(contents)


@pytest.mark.parametrize(
    "verb",
    [
        pytest.param(verb, marks=() if verb in ("evaluate", "resume") else pytest.mark.slow)
        for verb in VERBS_OF_CHECKPOINTS
    ],
)
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_checkpoint_ends_in_a_message(new_case: Callable[..., Case], bad: str, verb: str) -> None:
    case = new_case()
    put(case, BAD[bad])
    assert attack(case, verb) == []


_MEASURED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (24 * 2**30,) * 2)
import src.{verb}
import src.training.build
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
code = 0
try:
    src.{verb}.main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
sys.exit(code)
"""


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(
            bomb,
            marks=() if bomb in ("bytearray", "expanded", "laughs in the config", "compressed") else pytest.mark.slow,
        )
        for bomb in BOMBS
    ],
)
@pytest.mark.parametrize("verb", [pytest.param("evaluate"), pytest.param("train", marks=pytest.mark.slow)])
def test_a_bomb_needs_no_more_memory_than_an_ordinary_file(new_case: Callable[..., Case], bomb: str, verb: str) -> None:
    case = new_case()
    put(case, BOMBS[bomb])
    argv = [str(case.run)] if verb == "evaluate" else [f"resume={case.run}", "trainer.max_epochs=2"]
    environment = os.environ | {"AWS_SECRET_ACCESS_KEY": SECRET, "OMP_NUM_THREADS": "1"}
    try:
        ended = subprocess.run(
            [sys.executable, "-c", _MEASURED.format(verb=verb), *argv],
            cwd=ROOT,
            env=environment,
            text=True,
            capture_output=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        pytest.fail("hang: it took more than 60 s")
    assert ended.returncode in (0, 1, 2), ended.stderr[-800:]
    assert "Traceback" not in ended.stderr, ended.stderr[-800:]
    peak = int(ended.stdout.rpartition("PEAK ")[2] or 0) * 1024
    assert peak < 500e6, f"{peak / 1e6:,.0f} MB for a file of {(case.run / CHECKPOINT).stat().st_size / 1e6:.1f} MB"


@pytest.mark.parametrize("name", ("weights", "config", "spec", "preparation"))
def test_a_description_beside_the_checkpoint_is_data(new_case: Callable[..., Case], name: str) -> None:
    """A file that Gridlight does not write is not opened: no ``.py`` beside a run is ever imported."""
    case = new_case()
    for folder in (case.run, case.outputs, case.run / "checkpoints"):
        for file in (f"{name}.py", "__init__.py", "conftest.py", "sitecustomize.py", f"{name}.pkl", f"{name}.pth"):
            (folder / file).write_text((case.cwd / "canary_in_cwd.py").read_text())
    (case.run / f"{name}.json").write_text(json.dumps({"_target_": "canary_in_cwd.Model"}))
    for verb in ("evaluate", "show"):
        assert attack(case, verb) == []


def test_an_ordinary_checkpoint_is_read(new_case: Callable[..., Case], ordinary: Path) -> None:
    case = new_case()
    put(case, lambda checkpoint, old: _saved(checkpoint))
    assert attack(case, "evaluate") == [] and case.code == 0
