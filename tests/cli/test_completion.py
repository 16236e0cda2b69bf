"""Completion: candidates, and the scripts in real shells."""

import os
import pty
import select
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from src import ROOT
from src.cli.completion import SCRIPTS, complete, print_completions
from src.config.groups import CONF, groups


def candidates(line: str) -> set[str]:
    tokens = line.split(" ")
    return {candidate for candidate in complete(tokens) if candidate.startswith(tokens[-1])}


@pytest.mark.parametrize("group", [group for group in groups([CONF]) if group != "hydra/sweeper"])
def test_options_are_completed(group: str) -> None:
    assert candidates(f"train {group}=") == {f"{group}={name}" for name in groups([CONF])[group]}
    assert f"{group}=" in candidates("train ")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tr", {"train"}),
        ("train opt", {"optimizer=", "optimizer."}),
        ("train optimizer.l", {"optimizer.lr="}),
        ("train model=lstm model.ce", {"model.cell="}),
        ("train model=lstm model.cell=", {"model.cell=torch", "model.cell=textbook"}),
        ("train trainer.accelerator=c", {"trainer.accelerator=cpu", "trainer.accelerator=cuda"}),
        ("train sweep.dry_run=", {"sweep.dry_run=true", "sweep.dry_run=false"}),
        ("train regularization=[dropout,l2,sw", {"regularization=[dropout,l2,swa"}),
        ("train -m model=mlp,ls", {"model=mlp,lstm"}),
        ("train -m +sweeps=learning_r", {"+sweeps=learning_rate"}),
        ("tune bud", {"budget="}),
        ("preview sch", {"schedule", "scheduler=", "scheduler."}),
        ("completion ", set(SCRIPTS)),
    ],
)
def test_candidates(line: str, expected: set[str]) -> None:
    assert candidates(line) == expected


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    run = tmp_path / "outputs" / "runs" / "2026-12-01" / "120000-mlp-digits-abc123"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (run / "checkpoints" / "best.ckpt").write_text("")
    monkeypatch.chdir(tmp_path)
    return run.relative_to(tmp_path)


@pytest.mark.parametrize("verb", ["evaluate", "predict", "export", "compare", "runs", "sync"])
def test_run_folders_are_completed(verb: str, outputs: Path) -> None:
    assert candidates(f"{verb} outp") == {"outputs/"}
    assert candidates(f"{verb} outputs/runs/") == {"outputs/runs/2026-12-01/"}
    assert candidates(f"{verb} outputs/runs/2026-12-01/12") == {str(outputs)}
    assert candidates(f"{verb} {outputs}/checkpoints/") == {f"{outputs}/checkpoints/best.ckpt"}
    assert candidates("train resume=outputs/runs/2026-12-01/") == {f"resume={outputs}"}


def test_names_with_special_characters_are_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a b", "x;$(touch y)", "escape\x1b[31m"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    print_completions(["zsh", "gridlight evaluate "])
    out = capsys.readouterr().out
    assert "'a b/'" in out and "'x;$(touch y)/'" in out and "\x1b" not in out


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], ""),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -u -D\n"),
    "fish": (["fish", "--no-config", "-i"], ""),
}


class Terminal:
    """A shell in a pseudoterminal."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            os.execvpe(command[0], command, environment)

    def type(self, text: str, until: str, seconds: float = 60) -> str:
        """Type a text, and return what is printed until a text appears."""
        os.write(self.terminal, text.encode())
        out, end = "", time.monotonic() + seconds
        while until not in out and time.monotonic() < end:
            if select.select([self.terminal], [], [], 0.2)[0]:
                out += os.read(self.terminal, 65536).decode(errors="replace")
                if "\x1b[c" in out:  # fish asks for the features of the terminal, and waits for them
                    os.write(self.terminal, b"\x1b[?1;2c")
        return out

    def close(self) -> None:
        os.close(self.terminal)
        os.waitpid(self.process, 0)


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path, outputs: Path) -> Iterator[Terminal]:
    command, setup = SHELLS[request.param]
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    script = tmp_path / "bin" / "gridlight"
    script.parent.mkdir()
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom src.cli.gridlight import main\nmain()\n"
    )
    script.chmod(0o755)
    environment = {"PATH": f"{script.parent}:{os.environ['PATH']}", "TERM": "xterm", "HOME": str(tmp_path), "PS1": "> "}
    terminal = Terminal(command, environment)
    load = (
        "gridlight completion fish | source"
        if request.param == "fish"
        else f'eval "$(gridlight completion {request.param})"'
    )
    terminal.type(f"{setup}{load}; echo loa''ded\n", "loaded")
    yield terminal
    terminal.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("gridlight tra", "in"),
        ("gridlight train model=transformer_b", "ase"),
        ("gridlight train trainer.accelerator=cp", "u"),
        ("gridlight train model=lstm model.hidden_s", "ize="),
        ("gridlight evaluate outputs/ru", "ns/2026-12-01"),
        ("gridlight train resume=outputs/runs/2026-12-01/12", "0000-mlp-digits-abc123"),
        ("gridlight train -m +sweeps=learning_r", "ate"),
    ],
)
def test_a_shell_completes(shell: Terminal, typed: str, completed: str) -> None:
    shell.type(typed, typed[-3:])
    printed = shell.type("\t", completed.partition("/")[0], seconds=20)
    assert completed.partition("/")[0] in printed, repr(printed)
