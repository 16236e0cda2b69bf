"""Every `_target_` of a recorded config names a canary, in four places; a config decides on nothing outside."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.security.harness import ROOT, SECRET, Case, chosen, every, read_record, report, write_record
from tests.security.verbs import CHECKPOINT, LAST, VERBS, attack

WHOLE = [pytest.param(None, marks=pytest.mark.slow, id="whole"), pytest.param(1, id="sample")]

CANARIES = {
    "cwd": "canary_in_cwd.Model",
    "package in cwd": "canary_package.module.Model",
    "below outputs": "outputs.canary_below.Model",
    "on sys.path": "canary_on_path.Model",
    "imported": "canary_imported.Model",
    "function": "canary_imported.function",
    "os": "os.system",
    "posix": "posix.system",
    "shipped module": "src.models.mlp.os.system",
    "shipped function": "src.runs.main",
    "library": "torch.load",
    "getattr": "builtins.eval",
    "hydra": "hydra._internal.instantiate._instantiate2.instantiate",
    "space": " src.models.mlp.MLP",
    "empty part": "src.models..mlp.MLP",
}

CANARY_ENTRY = {"_target_": None, "path": "x", "command": "touch zzhostile", "_args_": ["touch zzhostile"]}


def positions(config: dict[str, Any]) -> dict[str, Callable[[dict[str, Any], str], None]]:
    """Return functions that put a target into a config, by the name of its place."""

    def group(name: str) -> Callable[[dict[str, Any], str], None]:
        return lambda config, target: config[name].update(_target_=target)

    def entry(group: str, name: str) -> Callable[[dict[str, Any], str], None]:
        return lambda config, target: config[group].update({name: CANARY_ENTRY | {"_target_": target}})

    def nested(group: str, key: str) -> Callable[[dict[str, Any], str], None]:
        return lambda config, target: config[group].update({key: CANARY_ENTRY | {"_target_": target}})

    def inside(group: str) -> Callable[[dict[str, Any], str], None]:
        def put(config: dict[str, Any], target: str) -> None:
            config[group]["extra"] = [{"a": {"b": [CANARY_ENTRY | {"_target_": target}]}}]

        return put

    groups = ("model", "datamodule", "optimizer", "scheduler")
    found = {name: group(name) for name in groups}
    found |= {f"{name}.extra[]": inside(name) for name in (*groups, "trainer", "regularization", "paths", "callbacks")}
    found |= {f"{group}.x": entry(group, "x") for group in ("callbacks", "logger")}
    found |= {f"callbacks.{name}": entry("callbacks", name) for name in config["callbacks"]}
    found |= {
        f"{group}.{key}": nested(group, key)
        for group in (*groups, "trainer", "sweep", "cross_validation")
        for key in list(config[group])
        if key not in ("_target_", "name")
    }
    found |= {
        f"new group {name}": (
            lambda config, target, name=name: config.update({name: CANARY_ENTRY | {"_target_": target}})
        )
        for name in ("task", "transforms", "strategy", "_target_")
    }
    return found


PLACES = ("checkpoint", "config", "both")
VERBS_THAT_BUILD = ("evaluate", "predict", "export", "runs_export", "rerun", "resume", "show", "compare")


def change_config(case: Case, place: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the config of the run in config.yaml, in the checkpoints, or in both."""
    for name in () if place == "config" else (CHECKPOINT, LAST):
        checkpoint = read_record(case.run / name)
        change(checkpoint["gridlight"]["config"])
        write_record(case.run / name, checkpoint)
    if place != "checkpoint":
        config = read_record(case.run / "config.yaml")
        change(config)
        write_record(case.run / "config.yaml", config)


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("verb", VERBS_THAT_BUILD)
def test_a_recorded_target_is_not_imported(
    new_case: Callable[..., Case], ordinary: Path, request: pytest.FixtureRequest, verb: str, whole: int | None
) -> None:
    config = read_record(ordinary / "run" / "config.yaml")
    puts = positions(config)
    cases = [(place, where, canary) for place in PLACES for where in puts for canary in CANARIES]
    if whole is None:  # every place with every position, and the canaries take turns twice
        names = list(CANARIES)
        pairs = [
            (where, canary)
            for number, where in enumerate(puts)
            for canary in (names[number % 15], names[(number + 7) % 15])
        ]
        cases = [("both", where, canary) for where, canary in pairs]
        cases += [(place, "model", canary) for place in PLACES for canary in CANARIES]
    else:
        cases = [("both", "model", canary) for canary in list(CANARIES)[:6]] + every(cases, 4)
    failures = {}
    for place, where, canary in cases:
        name = f"{place}:{where}={canary}"
        if not chosen(name):
            continue
        case = new_case()
        (case.cwd / "outputs").mkdir()
        (case.cwd / "outputs" / "canary_below.py").write_text((case.cwd / "canary_in_cwd.py").read_text())
        change_config(case, place, lambda config, where=where, canary=canary: puts[where](config, CANARIES[canary]))
        faults = attack(case, verb)
        if (
            where == "model"
            and verb not in ("show", "compare")
            and place == "both"
            and canary != "space"
            and case.code == 0
        ):
            faults.append("it was built as if nothing had happened")
        failures[name] = faults
    report(failures, request.node.nodeid)


@pytest.mark.parametrize("verb", ("evaluate", "rerun", "resume"))
def test_the_message_names_the_module_and_the_override_to_add(new_case: Callable[..., Case], verb: str) -> None:
    case = new_case()
    change_config(case, "both", lambda config: config["model"].update(_target_="canary_in_cwd.Model"))
    assert attack(case, verb) == []
    assert case.code == 2
    assert "--trust canary_in_cwd" in case.stderr


# ---- what else a config decides ------------------------------------------------------------------------------------


def _update(group: str, **values: Any) -> Callable[[dict[str, Any], Case], None]:
    def change(config: dict[str, Any], case: Case) -> None:
        config[group].update({key: str(value).replace("VICTIM", str(case.victim)) for key, value in values.items()})

    return change


def _callback(name: str, target: str, **values: Any) -> Callable[[dict[str, Any], Case], None]:
    def change(config: dict[str, Any], case: Case) -> None:
        entry = config["callbacks"].setdefault(name, {})
        entry.update({"_target_": target} if target else {})
        entry.update({key: str(value).replace("VICTIM", str(case.victim)) for key, value in values.items()})

    return change


def _logger(target: str, **values: Any) -> Callable[[dict[str, Any], Case], None]:
    def change(config: dict[str, Any], case: Case) -> None:
        entries = {k: v.replace("VICTIM", str(case.victim)) if isinstance(v, str) else v for k, v in values.items()}
        config["logger"] = {"x": {"_target_": target, **entries}}

    return change


def _top(**values: Any) -> Callable[[dict[str, Any], Case], None]:
    def change(config: dict[str, Any], case: Case) -> None:
        config.update({key: str(value).replace("VICTIM", str(case.victim)) for key, value in values.items()})

    return change


_LOGGERS = "lightning.pytorch.loggers"
DECISIONS: dict[str, Callable[[dict[str, Any], Case], None]] = {
    "paths.outputs": _update("paths", outputs="VICTIM/outputs"),
    "paths.outputs relative": _update("paths", outputs="../victim"),
    "paths.data": _update("paths", data="VICTIM/data"),
    "paths.new": _update("paths", plots="VICTIM/plots"),
    "checkpoints.dirpath": _callback("checkpoints", "", dirpath="VICTIM/checkpoints"),
    "model checkpoint": _callback("x", "lightning.pytorch.callbacks.ModelCheckpoint", dirpath="VICTIM/checkpoints"),
    "device stats": _callback("x", "lightning.pytorch.callbacks.OnExceptionCheckpoint", dirpath="VICTIM"),
    "csv logger": _logger(f"{_LOGGERS}.CSVLogger", save_dir="VICTIM", name="x"),
    "csv logger, name": _logger(f"{_LOGGERS}.CSVLogger", save_dir=".", name="../../victim"),
    "csv logger, version": _logger(f"{_LOGGERS}.CSVLogger", version="VICTIM/x", name="x"),
    "tensorboard": _logger(f"{_LOGGERS}.TensorBoardLogger", save_dir="VICTIM"),
    "wandb, save_dir": _logger(f"{_LOGGERS}.WandbLogger", project="p", save_dir="VICTIM", offline=True),
    "wandb, dir": _logger(f"{_LOGGERS}.WandbLogger", project="p", dir="VICTIM", offline=True),
    "wandb, settings": _logger(
        f"{_LOGGERS}.WandbLogger", project="p", settings={"wandb_dir": "VICTIM", "mode": "offline"}
    ),
    "wandb, code": _logger(
        f"{_LOGGERS}.WandbLogger", project="p", save_code=True, mode="offline", config_exclude_keys=["x"]
    ),
    "wandb, launch": _logger(
        f"{_LOGGERS}.WandbLogger", project="p", settings={"_service_wait": 1, "x_executable": "VICTIM/run"}
    ),
    "mlflow": _logger(f"{_LOGGERS}.MLFlowLogger", tracking_uri="http://127.0.0.1:9"),
    "resume": _top(resume="VICTIM"),
    "resume absolute": _top(resume="/etc"),
    "sweep.name": _update("sweep", name="../../victim/sweep"),
    "sweep.resume": _update("sweep", resume="VICTIM"),
    "profiler": _update("trainer", profiler="VICTIM/profile"),
    "strategy": _update("trainer", strategy="ddp_spawn"),
    "model.name": _update("model", name="../../../victim/x"),
    "datamodule.name": _update("datamodule", name="../../../victim/x"),
    "tags": _top(tags="${oc.env:AWS_SECRET_ACCESS_KEY}"),
    "notes": _top(notes="${oc.env:AWS_SECRET_ACCESS_KEY}"),
    "notes, environment of hydra": _top(notes="${hydra:job.name}"),
    "notes, decode": _top(notes="${oc.decode:${oc.env:AWS_SECRET_ACCESS_KEY}}"),
    "notes, create": _top(notes="${oc.create:{_target_:canary_in_cwd.Model}}"),
    "model, environment": _update("model", activation="${oc.env:AWS_SECRET_ACCESS_KEY}"),
    "paths, environment": _update("paths", data="${oc.env:AWS_SECRET_ACCESS_KEY}"),
    "paths, outputs, environment": _update("paths", outputs="${oc.env:HOME}/../victim"),
    "datamodule.path": lambda config, case: config.update(
        datamodule={
            "_target_": "src.datamodules.tabular.table.Table",
            "name": "table",
            "path": "/dev/zero",
            "target_column": "x",
        }
    ),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize(
    "verb",
    [pytest.param(verb, marks=() if verb in ("resume", "rerun") else pytest.mark.slow) for verb in VERBS_THAT_BUILD],
)
def test_a_recorded_config_decides_on_nothing_outside(
    new_case: Callable[..., Case], request: pytest.FixtureRequest, verb: str, decision: str, place: str
) -> None:
    if place != "both" and not request.config.getoption("-m").startswith("slow"):
        pytest.skip("one place is enough for the sample")
    case = new_case()
    change_config(case, place, lambda config: DECISIONS[decision](config, case))
    assert attack(case, verb) == []


# ---- nothing is sent -----------------------------------------------------------------------------------------------


@pytest.fixture
def attacker() -> Iterator[tuple[str, list[bytes]]]:
    """Return the address of a server and what arrived at it; a connection alone is noted, too."""
    arrived: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    client, _ = server.accept()
                except OSError:
                    continue
                with client:
                    client.settimeout(0.5)
                    try:
                        arrived.append(client.recv(65536))
                        client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    except OSError:
                        arrived.append(b"")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", arrived
        done.set()
        thread.join()


HOSTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "settings": lambda url: {"settings": {"base_url": url, "init_timeout": 3}},
    "settings, api_key": lambda url: {"settings": {"base_url": url, "api_key": "x" * 40, "init_timeout": 3}},
    "host": lambda url: {"host": url},
    "base_url": lambda url: {"base_url": url},
    "proxy": lambda url: {"settings": {"https_proxy": url, "http_proxy": url, "x_extra_http_headers": {"a": "b"}}},
    "entity": lambda url: {"entity": "attacker", "settings": {"base_url": f"{url}/", "mode": "online"}},
}


@pytest.mark.parametrize("verb", ("resume", "rerun"))
@pytest.mark.parametrize("key", [pytest.param(k, marks=() if k == "settings" else pytest.mark.slow) for k in HOSTS])
def test_a_recorded_logger_sends_nothing_elsewhere(
    new_case: Callable[..., Case], attacker: tuple[str, list[bytes]], verb: str, key: str
) -> None:
    """In a process of its own: W&B sends from a service, which no hook of this process sees."""
    url, arrived = attacker
    case = new_case()
    entry = {"_target_": "lightning.pytorch.loggers.WandbLogger", "project": "p", **HOSTS[key](url)}
    change_config(case, "both", lambda config: config.update(logger={"x": entry}))
    argv = {
        "resume": ["src.train", f"resume={case.run}", "trainer.max_epochs=2"],
        "rerun": ["src.runs", "--outputs", str(case.outputs), "rerun", str(case.run), "trainer.max_epochs=1"],
    }[verb]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"HOME": str(case.out), "WANDB_API_KEY": SECRET[:40], "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", *argv], cwd=ROOT, env=environment, text=True, capture_output=True, timeout=120
    )
    assert not arrived, arrived[0][:200]
    assert ended.returncode == 2, ended.stderr[-500:]
    assert "Traceback" not in ended.stderr and SECRET[:40] not in ended.stdout + ended.stderr


def test_every_verb_is_in_the_table() -> None:
    assert set(VERBS_THAT_BUILD) <= set(VERBS)
