"""A sweep folder from someone else is data: nothing outside of it is deleted, written or read, and no file hangs."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from optuna.storages.journal._storage import JournalOperation

from src.config.isolated_hydra import isolated_hydra
from src.core.errors import UserError
from src.run_store.run_folder import RunFolder
from src.sweeping.launchers.file_channel import MAX_EVENT_BYTES, FileChannel
from src.sweeping.launchers.submitit_slurm import SlurmExecutor
from src.sweeping.ledger import Ledger, _state_of, locked
from src.sweeping.messages import Assignment, Ended, Progress
from src.sweeping.pending_jobs import pending
from src.sweeping.search.objectives import Objective
from src.sweeping.search.optuna_study import FILE, open_or_create_study, stored_study
from src.sweeping.search.request import SearchRequest, reject_unknown_options
from src.sweeping.search.space import Interval, Space, Values
from src.sweeping.worker import WorkerControl, carry_out, open_started_run

LOSS = (Objective("val/loss", "min"),)
SPACE = (Space(("seed=0", Interval("optimizer.lr", 1e-4, 1e-1))),)


def config(seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "monitor": None,
        "model": {"name": "mlp", "_target_": "src.models.mlp.MLP"},
        "datamodule": {"name": "spirals"},
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1},
        "scheduler": {},
        "trainer": {"devices": 1, "max_epochs": 2},
        "callbacks": {},
        "logger": {},
    }


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Return a sweep of three jobs."""
    made = Ledger.create(tmp_path / "sweep", "test", ["python", "-m", "src.train"])
    for seed in range(3):
        made.add([f"seed={seed}"], [f"seed={seed}"], config(seed))
    made.save()
    return made.folder


def changed(sweep: Path, line: int, change: Callable[[dict[str, Any]], object]) -> None:
    file = sweep / "ledger.jsonl"
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    change(lines[line])
    file.write_text("".join(json.dumps(entry) + "\n" for entry in lines))


def fifo(place: Path, _: Path) -> None:
    os.mkfifo(place)


def link(place: Path, target: Path) -> None:
    place.symlink_to(target)


def folder(place: Path, _: Path) -> None:
    place.mkdir()


def sparse(place: Path, _: Path) -> None:
    with place.open("wb") as file:
        file.truncate(2**30)


def deep(place: Path, _: Path) -> None:
    place.write_text("[" * 100_000 + "\n")


KINDS = [fifo, link, folder, sparse, deep]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    file = tmp_path / "outside.txt"
    file.write_text("keep\n")
    return file


# ---- the ledger ----------------------------------------------------------------------------------------------------

FOLDERS = ["../../thesis", "/tmp/thesis", "..", ".", "", "a/b", "a\\b", ".lock", "output", "OUTPUT", "cluster", "plots"]
FOLDERS += ["ledger.jsonl", "states.jsonl", "thesis", "\x1b]0;x\x07", "a\nb", "${oc.env:HOME}", "x" * 300]
BAD = [*(("folder", value) for value in [*FOLDERS, None, 3, [], {}])]
BAD += [("number", value) for value in (0, -1, 3, 10**30, None, "x", [], 1.5)]
BAD += [("hash", value) for value in ("", "A" * 12, "0" * 13, "0" * 12, None, 3, {})]
BAD += [("overrides", value) for value in (None, 3, "seed=1", [3], [None], {})]
BAD += [("label", value) for value in (None, 3, "seed=1", [3])] + [("changes", value) for value in (None, [], "x", 3)]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_damaged_job_is_rejected_but_skipped_when_only_listed(sweep: Path, key: str, value: object) -> None:
    changed(sweep, 2, lambda job: job.update({key: value}))
    with pytest.raises(UserError, match="line 3"):
        Ledger.open(sweep)
    warnings: list[str] = []
    assert [job.number for job in Ledger.open(sweep, warnings.append).jobs] == [1, 3]
    assert len(warnings) == 1 and "line 3" in warnings[0]
    assert pending([sweep])[0] == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 99),
        ("version", None),
        ("name", 3),
        ("command", "rm"),
        ("command", [3]),
        ("base", []),
        ("code", 3),
        ("code", {}),
        ("search", []),
        ("search", {"settings": 3, "overrides": []}),
        ("search", {"settings": {}, "overrides": [3]}),
    ],
)
def test_a_damaged_first_line_is_rejected(sweep: Path, key: str, value: object) -> None:
    changed(sweep, 0, lambda head: head.update({key: value}))
    with pytest.raises(UserError):
        Ledger.open(sweep)
    assert pending([sweep]) == (0, False)


@pytest.mark.parametrize("key", ["folder", "hash", "number"])
def test_two_jobs_share_nothing(sweep: Path, key: str) -> None:
    first = json.loads((sweep / "ledger.jsonl").read_text().splitlines()[1])
    changed(sweep, 2, lambda job: job.update({key: first[key]}))
    with pytest.raises(UserError):
        Ledger.open(sweep)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_not_a_ledger_is_rejected(
    sweep: Path, outside: Path, kind: Callable[[Path, Path], None]
) -> None:
    (sweep / "ledger.jsonl").unlink()
    kind(sweep / "ledger.jsonl", outside)
    assert Ledger.exists(sweep), "it is not written over"
    with pytest.raises(UserError):
        Ledger.open(sweep)
    assert pending([sweep]) == (0, False) and outside.read_text() == "keep\n"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 9},
        {"trainer": {"devices": 1, "max_epochs": 0}},
        {"trainer": {"devices": None, "max_epochs": 1}},
        {"trainer": 3},
        {"model": {}},
        {"model": {"name": "x", "_target_": "canary.Model"}},
        {"optimizer": None},
        {"datamodule": []},
        {"monitor": 3},
    ],
)
def test_a_config_that_was_changed_is_refused_before_anything_starts(sweep: Path, change: dict[str, Any]) -> None:
    Ledger.open(sweep).trusted()
    changed(sweep, 2, lambda job: job["changes"].update(change))
    with pytest.raises(UserError, match="job 2"):
        Ledger.open(sweep).trusted()


@pytest.mark.parametrize("name", ["output", "cluster", "plots", "job"])
def test_a_link_in_place_of_a_folder_is_refused(sweep: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "thesis").mkdir()
    name = Ledger.open(sweep).jobs[0].slug if name == "job" else name
    (sweep / name).symlink_to(tmp_path / "thesis")
    with pytest.raises(UserError, match=name):
        Ledger.open(sweep).trusted()
    assert len(Ledger.open(sweep).states()) == 3


# ---- states.jsonl --------------------------------------------------------------------------------------------------


def junk(place: Path, _: Path) -> None:
    place.write_bytes(b"\xff\x00junk")


def test_tiny_lines_are_counted(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.sweeping.ledger.MAX_JOBS", 3)
    assert len(Ledger.open(sweep).jobs) == 3
    with pytest.raises(UserError, match="at most 3 jobs"):
        Ledger.open(sweep).add(["seed=9"], ["seed=9"], config(9))
    monkeypatch.setattr("src.sweeping.ledger.MAX_JOBS", 2)
    with pytest.raises(UserError, match="more than 3 lines"):
        Ledger.open(sweep)


def test_what_is_wrong_with_a_ledger_is_named_first(sweep: Path) -> None:
    changed(sweep, 2, lambda job: job.update(number=9))
    with pytest.raises(UserError) as caught:
        Ledger.open(sweep)
    first, second = str(caught.value).splitlines()
    assert first == f"{sweep / 'ledger.jsonl'}: this ledger is damaged" and "line 3" in second


def wrong_types(place: Path, _: Path) -> None:
    place.write_text('{"job":3,"written":"x","status":[]}\n{"job":"a","written":1,"status":"evil"}\n[]\n')


@pytest.mark.parametrize("kind", [*KINDS, junk, wrong_types])
def test_a_damaged_cache_of_states_is_replaced(sweep: Path, outside: Path, kind: Callable[[Path, Path], None]) -> None:
    made = Ledger.open(sweep)
    run = RunFolder.create(made.path(made.jobs[0]), config(0), [])
    run.update(monitor="val/loss", mode="min", value=0.5)
    run.finish({})
    kind(sweep / "states.jsonl", outside)
    for _ in range(2):
        states = Ledger.open(sweep).states()
        assert [state.status for state in states.values()] == ["finished", "pending", "pending"]
        assert states[1].value == 0.5
    assert outside.read_text() == "keep\n"
    cache = sweep / "states.jsonl"
    if kind is not folder:
        assert cache.is_file() and not cache.is_symlink() and len(cache.read_text().splitlines()) == 1


@pytest.mark.parametrize("key", ["status", "monitor", "mode", "value", "seconds", "error"])
@pytest.mark.parametrize("value", [None, [], {}, 3, "x", True, 1e400, "\x1b[2J"])
def test_a_record_of_any_types_has_a_state(sweep: Path, key: str, value: object) -> None:
    made = Ledger.open(sweep)
    place = made.path(made.jobs[0])
    RunFolder.create(place, config(0), []).finish({})
    record = json.loads((place / "run.json").read_text())
    (place / "run.json").write_text(json.dumps(record | {key: value}))
    state = Ledger.open(sweep).states()[1]
    assert state.status in ("finished", "unknown") and isinstance(state.metric, str) and state.mode in ("min", "max")
    assert state.seconds >= 0.0 and (state.value is None or abs(state.value) < 1e300)


# ---- what is removed, and the lock ---------------------------------------------------------------------------------


def test_only_the_beginning_of_a_run_is_removed(sweep: Path, tmp_path: Path) -> None:
    place = sweep / "job"
    place.mkdir()
    for name in ("config.yaml", ".config.yaml.partial", ".run.json.0a1b2c3d.partial"):
        (place / name).write_text("")
    assert open_started_run(place) is None and not place.exists()
    for name in ("thesis.tex", "config.yaml/thesis.tex", "checkpoints/best.ckpt"):
        (place / name).parent.mkdir(parents=True)
        (place / name).write_text("keep")
        with pytest.raises(UserError, match="not removed"):
            open_started_run(place)
        assert (place / name).read_text() == "keep"
        (place / name).rename(tmp_path / "moved")
        for below in sorted(place.rglob("*")):
            below.rmdir()
        place.rmdir()
    (tmp_path / "thesis").mkdir()
    place.symlink_to(tmp_path / "thesis")
    with pytest.raises(UserError, match="link"):
        open_started_run(place)
    assert (tmp_path / "thesis").is_dir()


@pytest.mark.parametrize("kind", [fifo, link, folder])
def test_a_lock_that_is_no_file_is_neither_followed_nor_emptied(
    sweep: Path, outside: Path, kind: Callable[[Path, Path], None]
) -> None:
    kind(sweep / ".lock", outside)
    assert pending([sweep]) == (3, False)
    with pytest.raises(UserError), locked(sweep):
        pass
    assert outside.read_text() == "keep\n" and os.path.lexists(sweep / ".lock")


# ---- mail ----------------------------------------------------------------------------------------------------------


def test_what_is_no_event_of_the_job_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    box = FileChannel(tmp_path / "cluster", "job", 3)
    box.clear()
    lines = [
        "junk",
        "[]",
        "3",
        '{"status":"finished"}',
        '{"number":4,"status":"finished","error":""}',
        '{"number":3,"status":"evil","error":""}',
        '{"number":"3","status":"finished","error":""}',
        '{"number":3,"status":"finished","error":[]}',
        '{"number":3,"epoch":"x","epochs":2,"metrics":{}}',
        '{"number":3,"epoch":1,"epochs":0,"metrics":{}}',
        '{"number":3,"epoch":1,"epochs":2,"metrics":{"a":[]}}',
        "[" * 100_000,
        '{"number":3,"status":"finished","error":"' + "x" * MAX_EVENT_BYTES + '"}',
    ]
    (tmp_path / "cluster" / "job.events").write_text("\n".join(lines) + "\n")
    box.post(Progress(3, 0, 2, {"val/loss": 0.5}))
    box.post(Ended(3, "failed", "x"))
    assert box.collect() == [Progress(3, 0, 2, {"val/loss": 0.5}), Ended(3, "failed", "x")]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["job.events", "job.order"])
def test_a_file_channel_does_not_follow_links(
    tmp_path: Path, outside: Path, name: str, kind: Callable[[Path, Path], None]
) -> None:
    box = FileChannel(tmp_path / "cluster", "job", 3)
    box.clear()
    kind(tmp_path / "cluster" / name, outside)
    assert box.collect() == [] and box.control_message() is None
    if kind is not folder:
        box.send_control("stop")
        assert name != "job.order" or box.control_message() == "stop"
        box.clear()
    else:
        with pytest.raises(UserError, match="this is a folder"):
            box.clear()
    assert outside.read_text() == "keep\n"


@pytest.mark.parametrize("order", ["", "kill", "stop\n", "\xff", "stop" * 100])
def test_an_order_is_one_of_three(tmp_path: Path, order: str) -> None:
    box = FileChannel(tmp_path / "cluster", "job", 3)
    box.clear()
    (tmp_path / "cluster" / "job.order").write_text(order)
    assert box.control_message() is None


@pytest.mark.parametrize("content", ["junk", "{}", "[3]", '["../x"]', '["a/b"]', "null"])
def test_a_submission_that_was_changed_is_ignored(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess

    from src.sweeping.launchers import submitit_slurm

    cluster = tmp_path / "sweep" / "cluster"
    cluster.mkdir(parents=True)
    (cluster / "sweep-00000001.array").write_text(content)
    (cluster / "sweep-00000002.array").write_text('["job"]')
    (cluster / "thesis-00000003.array").write_text('["other"]')
    (cluster / "sweep-00000004.array").symlink_to(cluster / "sweep-00000002.array")
    shown = "\n".join(
        [
            "5|RUNNING|sweep-00000001",
            "6_7|RUNNING|sweep-00000002",
            "--help|RUNNING|sweep-00000002",
            "7|RUNNING|sweep-00000002",
            "8|RUNNING|thesis-00000003",
            "9|RUNNING|sweep-00000004",
        ]
    )
    done = subprocess.CompletedProcess([], 0, shown, "")
    monkeypatch.setattr(submitit_slurm.subprocess, "run", lambda *_, **__: done)
    executor = object.__new__(SlurmExecutor)
    executor.folder = cluster
    assert executor._refresh_queue() and {slug: job.id for slug, job in executor._queue.items()} == {"job": "7"}


# ---- searches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, junk])
def test_a_study_that_is_not_a_regular_file_is_rejected(
    tmp_path: Path, outside: Path, kind: Callable[[Path, Path], None]
) -> None:
    kind(tmp_path / FILE, outside)
    if kind is not junk:  # which has no whole line
        with pytest.raises(UserError):
            open_or_create_study(tmp_path, SPACE, LOSS)
    assert outside.read_text() == "keep\n"


def test_the_lines_of_a_study_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_or_create_study(tmp_path, SPACE, LOSS)
    monkeypatch.setattr("src.sweeping.search.optuna_study.MAX_JOURNAL_LINES", 0)
    with pytest.raises(UserError, match="more than 0 lines"):
        open_or_create_study(tmp_path, SPACE, LOSS)


ENTRIES = ["[]", "3", "{}", '{"op_code":99}', '{"op_code":0}', '{"op_code":0,"study_name":3,"directions":"x"}']
ENTRIES += [
    '{"op_code":"x","worker_id":[]}',
    '{"op_code":5,"trial_id":{}}',
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_damage_of_a_study_is_one_error_that_names_it(tmp_path: Path, entry: str) -> None:
    open_or_create_study(tmp_path, SPACE, LOSS)
    with (tmp_path / FILE).open("a") as file:
        file.write(entry + "\n")
    with pytest.raises(UserError, match=FILE):
        open_or_create_study(tmp_path, SPACE, LOSS)


def test_a_file_of_countless_studies_is_refused_at_once(tmp_path: Path) -> None:
    entry = {"op_code": int(JournalOperation.CREATE_STUDY), "worker_id": "x", "directions": [1]}
    lines = (json.dumps({**entry, "study_name": str(number)}) + "\n" for number in range(100_000))
    (tmp_path / FILE).write_text("".join(lines))
    with pytest.raises(UserError, match="more than 1000 studies"):
        stored_study(tmp_path, SPACE, LOSS)


def test_a_trial_holds_what_trials_hold(tmp_path: Path) -> None:
    study = open_or_create_study(tmp_path, SPACE, LOSS)
    trial = study.ask({"optimizer.lr": SPACE[0].axes[0].distribution()})
    trial.set_user_attr("job", ["x"])
    with pytest.raises(UserError, match=FILE):
        stored_study(tmp_path, SPACE, LOSS)


def test_many_changes_of_one_trial_are_refused_at_once(tmp_path: Path) -> None:
    open_or_create_study(tmp_path, SPACE, LOSS).ask()
    line = '{"op_code": 7, "worker_id": "w", "trial_id": 0, "step": %d, "intermediate_value": 1.0}\n'
    with (tmp_path / FILE).open("a") as file:
        file.writelines(line % step for step in range(60_000))
    with pytest.raises(UserError, match="too many changes"):
        stored_study(tmp_path, SPACE, LOSS)


@pytest.mark.parametrize("values", ["[1.0]", "null", "[1.0, 2.0, 3.0]"])
def test_a_complete_trial_has_a_value_for_each_objective(tmp_path: Path, values: str) -> None:
    objectives = (*LOSS, Objective("parameters", "min"))
    open_or_create_study(tmp_path, SPACE, objectives).ask()
    with (tmp_path / FILE).open("a") as file:
        file.write(
            '{"op_code": 6, "worker_id": "w", "trial_id": 0, "state": 1, "datetime_complete": "2026-12-01T12:00:00", '
            f'"values": {values}}}\n'
        )
    with pytest.raises(UserError, match="this study is damaged"):
        stored_study(tmp_path, SPACE, objectives)


@pytest.mark.parametrize("text", ["range(nan,1)", "range(0,1,nan)", "range(inf,inf)"])
def test_a_recorded_range_without_numbers_is_refused(sweep: Path, text: str) -> None:
    search = {"settings": {"name": "optuna"}, "overrides": [[f"optimizer.lr={text}"]]}
    changed(sweep, 0, lambda head: head.update(search=search))
    with isolated_hydra(), pytest.raises(UserError):
        SearchRequest.from_ledger(Ledger.open(sweep), GlobalHydra.instance().config_loader())


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "z", 1.5, None, True, [], float("nan"), float("inf")])
def test_a_value_of_a_study_is_one_of_the_search(value: object) -> None:
    for axis in (Values("model", ("mlp", "cnn")), Values("x", ("1", "2"), (1, 1, 1)), Interval("lr", 0.1, 0.2)):
        if isinstance(axis, Interval) and value == 1.5:
            continue
        with pytest.raises(UserError):
            axis.format_value(value)


REFUSED = ["hydra.searchpath=[file:///tmp]", "+hydra.run.dir=/tmp", "hydra/launcher=local", "--config-dir=/tmp"]
REFUSED += ["notes=${oc.env:HOME}", "+x=${oc.env:HOME}", "model._target_=evil.Model", "model={_target_:evil.Model}"]
REFUSED += ["resume=/tmp/x", "sweep.name=x", "search=optuna", "defaults=[]", "sweep={name:x}", "model@hydra=mlp"]
REFUSED += ["model=../../evil", "model='../../evil'", "model=mlp,../../evil", "model=/tmp/evil", "model/../x=evil"]
REFUSED += [
    "callbacks=[default,../evil]",
    "experiment=../../evil",
    "model",
    "=",
    "",
    "(" * 5000,
    "seed=" + "1" * 70_000,
    "notes=" + "[" * 15_000,
    "notes=" + "[" * 30 + "]" * 30,
]


@pytest.mark.parametrize("override", REFUSED)
def test_recorded_overrides_choose_no_code_and_no_folder(sweep: Path, override: str) -> None:
    search = {"settings": {"name": "random"}, "overrides": [["seed=0", override]]}
    changed(sweep, 0, lambda head: head.update(search=search))
    with pytest.raises(UserError):
        ledger = Ledger.open(sweep).trusted()
        with isolated_hydra():
            from hydra.core.global_hydra import GlobalHydra

            reject_unknown_options(["seed=0", override], GlobalHydra.instance().config_loader(), ledger.folder)


def test_recorded_overrides_of_the_users_own_options_are_read() -> None:
    from hydra.core.global_hydra import GlobalHydra

    with isolated_hydra():
        loader = GlobalHydra.instance().config_loader()
        overrides = ["model=mlp,cnn", "optimizer.lr=tag(log,interval(1e-4,1e-1))", "seed=range(3)", "logger=none"]
        reject_unknown_options(
            [*overrides, "model=glob(*)", "trainer.max_epochs=3", "+model.x=[1,2]"], loader, "ledger"
        )


@pytest.mark.parametrize(
    "settings", [{}, {"name": "evil"}, {"name": []}, {"name": "optuna"}, {"name": "random", "x": 1}]
)
def test_the_settings_of_a_recorded_search_are_checked(sweep: Path, settings: dict[str, Any]) -> None:
    changed(sweep, 0, lambda head: head.update(search={"settings": settings, "overrides": [["seed=0,1"]]}))
    with pytest.raises(UserError):
        SearchRequest.from_ledger(Ledger.open(sweep), None)


def test_a_single_surrogate_is_written_as_it_was_read(sweep: Path) -> None:
    changed(sweep, 2, lambda job: job["changes"].update(notes="\ud800"))
    ledger = Ledger.open(sweep)
    ledger.save()
    assert Ledger.open(sweep).config(ledger.jobs[1])["notes"] == "\ud800"
    place = ledger.path(ledger.jobs[0])
    RunFolder.create(place, config(0), []).finish({})
    record = json.loads((place / "run.json").read_text())
    (place / "run.json").write_text(json.dumps(record | {"error": "\ud800"}))
    for _ in range(2):
        assert Ledger.open(sweep).states()[1].error == "\ud800"


def test_a_worker_prints_and_tells_an_error_of_any_text(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of an error may come from a frozen config; a worker prints into a file of UTF-8."""
    text = "\x1b]0;title\x07 \ud800"

    def fail(*_: object) -> Ended:
        raise UserError(text)

    monkeypatch.setattr("src.sweeping.worker._run_here", fail)
    ended = carry_out(Assignment(1, {}, tmp_path / "job", ("x",)), WorkerControl(lambda event: None))
    assert ended.status == "failed" and text in ended.error
    printed = capfd.readouterr().err
    assert "\x1b" not in printed and "\\u001b]0;title\\u0007 \\ud800" in printed


@pytest.mark.parametrize("value", [1e308, -1e308, float("inf"), float("nan"), 10**400, True, "1"])
def test_a_value_that_no_plot_can_show_is_none(value: object) -> None:
    assert _state_of({"status": "finished", "value": value}).value is None
