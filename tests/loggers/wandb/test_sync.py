"""python -m src.sync, with the real client and a local server that fails."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from src.cli.sync import sync
from src.core.errors import UserError
from src.core.wandb_account import Account
from src.loggers.factory import close_loggers
from src.loggers.wandb import connection, start
from src.loggers.wandb import session as session_module
from src.loggers.wandb.pending import find_pending, mark_sent, marker, run_id, sessions
from src.loggers.wandb.reader import read_project
from src.run_store.run_folder import RunFolder
from src.sync import main
from tests.conftest import ROOT
from tests.loggers.wandb.recording import KEY, begin, log, use
from tests.sweeping.commands import processes

pytest.importorskip("wandb")
pytestmark = pytest.mark.usefixtures("fresh_wandb")


def record(path: Path, first: int, count: int, **settings: Any) -> RunFolder:
    """Record a run, or its next part."""
    folder, loggers, _ = begin(path, **settings)
    log(loggers, [float(step) for step in range(first, first + count)], first)
    close_loggers(loggers, 0)
    folder.interrupt()
    return folder


def arrived(server: Any, folder: RunFolder) -> list[tuple[float, float]]:
    """Return the values of a run on the server: (step, value), in order."""
    run = server.runs[folder.record["wandb"]["id"]]
    return list(zip(run.values("trainer/global_step"), run.values("val/loss"), strict=True))


def recorded(folder: RunFolder) -> list[tuple[float, float]]:
    return [(row["step"], row["val/loss"]) for row in folder.metrics()]


@pytest.mark.slow
def test_offline_runs_are_uploaded_once(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    use(wandb_server, monkeypatch, key=False)
    runs = [record(tmp_path / "sweep" / name, 0, 3) for name in ("one", "two")]
    record(tmp_path / "sweep" / "one", 3, 2)
    monkeypatch.setenv("WANDB_API_KEY", KEY)

    assert sync([tmp_path], dry_run=True) and wandb_server.requests == 0
    assert "2 runs" in capsys.readouterr().out
    main([str(tmp_path)])
    shown = capsys.readouterr().out
    assert "2 of 2 runs uploaded: sweep/" in shown and "2 runs uploaded" in shown
    for folder in runs:
        assert arrived(wandb_server, folder) == recorded(folder)
        run = wandb_server.runs[folder.record["wandb"]["id"]]
        assert run.complete and run.exit_code == 0 and run.received == len(recorded(folder))
        assert RunFolder.open(folder.path).record["wandb"]["url"].endswith(f"/runs/{run.name}")
    assert len(recorded(runs[0])) == 5

    requests = wandb_server.requests
    assert sync([tmp_path]) and wandb_server.requests == requests, "nothing is sent twice"
    assert "nothing to upload" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_upload_continues(tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use(wandb_server, monkeypatch, key=False)
    folder = record(tmp_path / "run", 0, 20_000)
    record(tmp_path / "run", 20_000, 10)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    wandb_server.delay = 1.0

    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"} | {"MARKER": "upload"}
    argv = [sys.executable, "-m", "src.sync", str(tmp_path)]
    upload = subprocess.Popen(argv, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    while not any(run.received for run in wandb_server.runs.values()):
        assert upload.poll() is None
        time.sleep(0.01)
    for process in processes("upload"):  # the client's service would continue for a while
        os.kill(process, signal.SIGKILL)
    upload.wait()
    time.sleep(1)
    wandb_server.delay = 0.0
    assert not any(marker(session).exists() for session in sessions(folder.path)), "it was killed on the way"

    assert sync([tmp_path])
    assert arrived(wandb_server, folder) == recorded(folder) and len(recorded(folder)) == 20_010
    assert len(wandb_server.runs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["slow", "every third request fails"])
def test_a_run_is_uploaded_despite_server_errors(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    use(wandb_server, monkeypatch)
    if trouble == "slow":
        wandb_server.delay = 0.2
    else:
        wandb_server.fails = lambda number, path: number % 3 == 0
    folder = record(tmp_path / "run", 0, 50, finish_timeout=200)
    assert folder.record["wandb"]["mode"] == "online"
    assert arrived(wandb_server, folder) == recorded(folder)
    assert not list(find_pending([tmp_path])), "all of it is there"


@pytest.mark.slow
def test_a_dead_server_comes_back(tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies during an online run, which ends; the run is resumed offline, and again when the server is back."""
    use(wandb_server, monkeypatch)
    folder, loggers, logger = begin(tmp_path / "run", finish_timeout=2)
    log(loggers, [0.0, 1.0])
    time.sleep(1)
    wandb_server.die()
    log(loggers, [2.0, 3.0], first=2)
    close_loggers(loggers, 1)
    folder.interrupt()
    _forget(logger)

    record(tmp_path / "run", 4, 2)
    assert [session.parent.name.partition("-")[0] for session in sessions(folder.path)] == ["run", "offline"]
    with pytest.raises(UserError, match="cannot reach"):
        sync([tmp_path])

    wandb_server.revive()
    connection.failed_servers.clear()
    folder = record(tmp_path / "run", 6, 2)
    assert folder.record["wandb"]["mode"] == "online", "what was missing went first"
    assert arrived(wandb_server, folder) == recorded(folder) and len(recorded(folder)) == 8
    assert not list(find_pending([tmp_path]))


def _forget(logger: Any) -> None:
    """End the client's process, as if this process had ended."""
    import wandb

    wandb.teardown()


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 0.5])
def test_missing_records_of_a_killed_run_are_taken_from_its_folder(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, left: float
) -> None:
    """All or half of its W&B file is missing, and the last record is incomplete."""
    use(wandb_server, monkeypatch, key=False)
    folder = record(tmp_path / "run", 0, 50)
    (session,) = sessions(folder.path)
    session.write_bytes(session.read_bytes()[: max(20, int(left * session.stat().st_size))])
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert sync([tmp_path]) and marker(session).exists()
    assert arrived(wandb_server, folder) == recorded(folder) and len(recorded(folder)) == 50
    run = wandb_server.runs[folder.record["wandb"]["id"]]
    assert run.received == 50, "a row that had arrived is not sent again"
    times = [row["_timestamp"] for _, row in sorted(run.history.items())]
    assert times == pytest.approx([row["time"] for row in folder.metrics()], abs=0.5), "of when it was logged"
    assert run.project == "tests" and run.summary["status"] == "interrupted" and run.exit_code == 1
    capsys.readouterr()
    assert sync([tmp_path]) and "nothing to upload" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_was_killed_twice_is_uploaded_completely(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first part ends within a record, the second repeats a step, and the third is online."""
    use(wandb_server, monkeypatch, key=False)
    folder = record(tmp_path / "run", 0, 30)
    (session,) = sessions(folder.path)
    session.write_bytes(session.read_bytes()[:3000])
    folder.update(wandb=folder.record["wandb"] | {"complete": False})
    record(tmp_path / "run", 25, 10)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    record(tmp_path / "run", 35, 5, finish_timeout=300)
    assert not list(find_pending([tmp_path]))
    (run,) = read_project("local/tests")
    assert [(row["step"], row["val/loss"]) for row in run.rows] == recorded(folder) and len(recorded(folder)) == 40


@pytest.mark.slow
def test_two_syncs_at_once_share_the_work(tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use(wandb_server, monkeypatch, key=False)
    runs = [record(tmp_path / f"run{number}", 0, 3) for number in range(3)]
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    with runs[0].locked():
        argv = [sys.executable, "-m", "src.sync", str(tmp_path)]
        both = [
            subprocess.Popen(
                argv, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            for _ in range(2)
        ]
        outputs = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert all(f"left alone, another process works on it: {runs[0].path}" in text for text in outputs), outputs
    for folder in runs[1:]:
        assert arrived(wandb_server, folder) == recorded(folder)
        assert wandb_server.runs[folder.record["wandb"]["id"]].received == 3, "once"
    assert runs[0].record["wandb"]["id"] not in wandb_server.runs


def test_failed_uploads_are_reported(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    use(wandb_server, monkeypatch, key=False)
    folder, loggers, _ = begin(tmp_path / "run")
    log(loggers, [1.0])
    assert sync([tmp_path]) and "still running: run" in capsys.readouterr().out
    close_loggers(loggers, 0)
    folder.interrupt()
    with pytest.raises(UserError, match="no key is configured"):
        sync([tmp_path])
    with pytest.raises(UserError, match="there is no such folder"):
        sync([tmp_path / "nothing"])
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    wandb_server.die()
    with pytest.raises(UserError, match=r"cannot reach .*127\.0\.0\.1:\d+: .*refused"):
        sync([tmp_path])


def _secret_in_a_file(session: Path, secret: Path) -> None:
    from tests.compat.test_wandb_session import file_record

    _append(session, file_record(os.path.relpath(secret, session.parent / "files")))


def _secret_in_an_artifact(session: Path, secret: Path) -> None:
    from tests.compat.test_wandb_session import entry

    _append(session, entry(local_path=str(secret), size=6))


def _secret_by_a_link(session: Path, secret: Path) -> None:
    from tests.compat.test_wandb_session import file_record

    (session.parent / "files" / "notes.txt").symlink_to(secret)
    _append(session, file_record("notes.txt"))


def _another_account(session: Path, secret: Path, **account: str) -> None:
    from tests.compat.test_wandb_session import run_record

    _append(session, run_record(run_id=run_id(session), **account))


def _another_project_in_config(session: Path, secret: Path) -> None:
    """In the part that is backfilled from the run folder."""
    folder = RunFolder.open(session.parents[2])
    folder.set_config(folder.config() | {"logger": {"wandb": {"project": "attacker"}}})
    folder.update(wandb=folder.record["wandb"] | {"complete": False})
    mark_sent(session)


def _another_id(session: Path, secret: Path, name: str = "../../other") -> None:
    RunFolder.open(session.parents[2]).update(wandb={"id": name, "complete": False})


def _links_in_place_of_what_the_client_writes(session: Path, secret: Path) -> None:
    for name in ("files/config.yaml", "files/output.log", "files/wandb-summary.json", f"{session.name}.synced"):
        (session.parent / name).unlink(missing_ok=True)
        (session.parent / name).symlink_to(secret.with_name("made"))


def _no_record_of_a_run(session: Path, secret: Path) -> None:
    from tests.compat.test_wandb_session import history, write_session

    log = write_session(secret.with_name("other"), [history()], run_id(session))
    session.write_bytes(log.read_bytes())


def _postscript_as_a_plot(session: Path, secret: Path) -> None:
    folder = RunFolder.open(session.parents[2])
    (folder.path / "plots").mkdir()
    (folder.path / "plots" / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%SECRET\n")
    folder.update(wandb=folder.record["wandb"] | {"complete": False})


def _append(session: Path, record: Any) -> None:
    from tests.compat.test_wandb_session import chunks

    written = session.read_bytes()
    session.write_bytes(written + chunks(record.SerializeToString(), len(written)))


@pytest.mark.parametrize(
    "attack",
    [
        _secret_in_a_file,
        partial(_another_account, entity="attacker"),
        partial(_another_account, project="attacker"),
        _another_project_in_config,
        _another_id,
        partial(_another_id, name="other"),
    ],
)
def test_a_session_that_reaches_beyond_its_run_is_left_alone(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, attack: Any
) -> None:
    _, ordinary, secret = _attacked(tmp_path, wandb_server, monkeypatch, attack)
    assert not sync([tmp_path])
    error = capsys.readouterr().err
    assert "not uploaded" in error and "hostile" in error
    assert arrived(wandb_server, ordinary) == recorded(ordinary)
    assert set(wandb_server.runs) == {ordinary.record["wandb"]["id"]}
    _nothing_left(wandb_server, secret)


@pytest.mark.parametrize(
    "attack",
    [
        _secret_in_an_artifact,
        _secret_by_a_link,
        _links_in_place_of_what_the_client_writes,
        _no_record_of_a_run,
        _postscript_as_a_plot,
    ],
)
def test_files_outside_of_the_run_are_left_out(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch, attack: Any
) -> None:
    hostile, ordinary, secret = _attacked(tmp_path, wandb_server, monkeypatch, attack)
    assert sync([tmp_path]) and not list(find_pending([tmp_path]))
    for folder in (hostile, ordinary):
        assert arrived(wandb_server, folder) == recorded(folder)
    assert "plots/a" not in wandb_server.runs[hostile.record["wandb"]["id"]].summary
    _nothing_left(wandb_server, secret)


def _attacked(tmp_path: Path, server: Any, monkeypatch: Any, attack: Any) -> tuple[RunFolder, RunFolder, Path]:
    use(server, monkeypatch, key=False)
    hostile, ordinary = (record(tmp_path / "sweep" / name, 0, 3) for name in ("hostile", "ordinary"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    secret = tmp_path / "secret"
    secret.write_text("SECRET")
    attack(sessions(hostile.path)[0], secret)
    return hostile, ordinary, secret


def _nothing_left(server: Any, secret: Path) -> None:
    bodies = [body for run in server.runs.values() for body in run.files.values()]
    bodies += [body for artifact in server.artifacts.values() for body in artifact["files"].values()]
    assert not any(b"SECRET" in body for body in bodies)
    assert not secret.with_name("made").exists() and secret.read_text() == "SECRET"


@pytest.mark.parametrize(
    "name", ["x at {url}", "incomplete record", "View run at {url}", '"{session}": transactionlog: EOF']
)
def test_the_name_of_a_run_forges_nothing(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of another run, whose address is recorded, or whose session is marked."""
    use(wandb_server, monkeypatch, key=False)
    folder = record(tmp_path / "one", 0, 3)
    url = f"http://evil.example/runs/{folder.record['wandb']['id']}"
    record(tmp_path / "two", 0, 3, name=name.format(url=url, session=sessions(folder.path)[0].parent.name))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert sync([tmp_path])
    assert RunFolder.open(folder.path).record["wandb"]["url"].startswith(wandb_server.url)
    assert arrived(wandb_server, folder) == recorded(folder)


def test_a_project_of_the_command_line_is_named_in_the_hint(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    use(wandb_server, monkeypatch, key=False)
    folder, loggers, logger = begin(tmp_path / "run", project="a b")
    log(loggers, [1.0])
    close_loggers(loggers, 0)
    folder.interrupt()
    assert logger.sync_hint() == "WANDB_PROJECT='a b' python -m src.sync run"
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert not sync([tmp_path]) and "set WANDB_PROJECT='a b'" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_PROJECT", "a b")
    assert sync([tmp_path]) and arrived(wandb_server, folder) == recorded(folder)


@pytest.mark.parametrize("inside", [".", "one", "one/checkpoints"])
@pytest.mark.parametrize("name", ["wandb", ".wandb"])
def test_settings_of_a_folder_that_is_opened_are_refused(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch, inside: str, name: str
) -> None:
    import wandb

    attacker = type(wandb_server)()
    use(wandb_server, monkeypatch, key=False)
    folder = record(tmp_path / "one", 0, 3)
    wandb.teardown()
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    here = tmp_path / inside
    (here / name).mkdir(parents=True, exist_ok=True)
    (here / name / "settings").write_text(f"[default]\nbase_url = {attacker.url}\n")
    monkeypatch.chdir(here)
    try:
        with pytest.raises(UserError, match="working directory"):
            sync([tmp_path])
        if inside != ".":
            with pytest.raises(UserError, match="working directory"):
                read_project("local/tests")
            assert start.start({}, folder, {}) is None
        assert attacker.requests == 0 and wandb_server.requests == 0
    finally:
        start._used_ids.clear()
        attacker.die()


def test_settings_of_a_run_folder_have_no_effect(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacker = type(wandb_server)()
    try:
        use(wandb_server, monkeypatch, key=False)
        folder = record(tmp_path / "run", 0, 3)
        for place in ("wandb", ".wandb"):
            (folder.path / place).mkdir(exist_ok=True)
            settings = f"[default]\nbase_url = {attacker.url}\napi_key = {'a' * 40}\nentity = attacker\n"
            (folder.path / place / "settings").write_text(settings)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        record(folder.path, 3, 2)
        assert attacker.requests == 0 and arrived(wandb_server, folder) == recorded(folder)
        assert sync([tmp_path]) and attacker.requests == 0
    finally:
        attacker.die()


@pytest.mark.parametrize("name", ["wandb", "wandb/latest-run"])
def test_a_run_is_not_recorded_through_a_link(tmp_path: Path, wandb_server: Any, monkeypatch: Any, name: str) -> None:
    use(wandb_server, monkeypatch)
    folder, loggers, _ = begin(tmp_path / "run", project="tests")
    close_loggers(loggers, 0)
    outside = tmp_path / "outside"
    outside.mkdir()
    import shutil

    shutil.rmtree(folder.path / "wandb")
    (folder.path / name).parent.mkdir(exist_ok=True)
    (folder.path / name).symlink_to(outside)
    requests = wandb_server.requests
    assert start.start({"project": "tests"}, folder, {}) is None
    assert wandb_server.requests == requests and not list(outside.iterdir())


@pytest.mark.parametrize(
    "recorded_entry",
    [
        {"entity": "attacker"},
        {"project": "attacker"},
        {"project": ["x"]},
        {"finish_timeout": "long"},
        {"log_model": {"a": 1}},
    ],
)
def test_a_recorded_entry_that_is_not_the_users_is_refused(recorded_entry: Any) -> None:
    account = Account({"mine"}, {"ours"})
    with pytest.raises(UserError):
        session_module._recorded_settings(recorded_entry, account)
    own = session_module._recorded_settings({"entity": "mine", "settings": {"base_url": "x"}}, account)
    assert own["entity"] == "mine" and "settings" not in own


@pytest.mark.parametrize("place", ["run", "."])
def test_git_takes_no_settings_from_a_folder_that_is_opened(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    use(wandb_server, monkeypatch)
    folder = record(tmp_path / "sweep" / "run", 0, 2)
    repository = tmp_path / "sweep" / place
    canary = tmp_path / "canary"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {canary}\n")
    program.chmod(0o755)
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    for key in ("core.fsmonitor", "diff.external"):
        subprocess.run([*git, "config", key, str(program)], check=True)
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path / "own")
    record(folder.path, 2, 2)
    assert arrived(wandb_server, folder) == recorded(folder)
    assert not canary.exists()
