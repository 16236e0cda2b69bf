"""Sweeps that are killed, starved or stopped: nothing is lost, nothing runs twice, nothing is left behind."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median_high
from typing import Any

import pytest

from src import ROOT
from src.diagnostics.resume_check import compare
from src.run_store.run_folder import RunFolder
from src.sweeping.launchers.fork_server import MODULES_VARIABLE
from src.sweeping.launchers.local import every_module
from src.sweeping.ledger import Ledger
from tests.sweeping.commands import processes, records, running, start, wait_for

MakeOverrides = Callable[..., list[str]]

pytestmark = pytest.mark.slow


def killed_until_done(overrides: list[str], folder: Path, kills: int, seed: int, longest: float) -> int:
    """Kill a sweep with all its processes at random moments, re-issue it each time, and let it end at last.

    Returns:
        How many of the kills met a sweep that was not over yet.
    """
    dice, met = random.Random(seed), 0
    finished: dict[str, dict[str, Any]] = {}
    for _ in range(kills):
        sweep = start(overrides)
        time.sleep(dice.uniform(0.5, longest))
        met += sweep.poll() is None
        with suppress(ProcessLookupError):
            os.killpg(sweep.pid, signal.SIGKILL)
        sweep.communicate()
        now = {name: record for name, record in records(folder).items() if record["status"] == "finished"}
        assert {name: now[name] for name in finished} == finished, "a finished job ran again"
        finished = now
    sweep = start(overrides)
    output, _ = sweep.communicate(timeout=600)
    assert sweep.returncode == 0, output
    after = records(folder)
    assert {name: after[name] for name in finished} == finished, "a finished job ran again"
    return met


@pytest.mark.parametrize(("jobs", "kills", "epochs"), [(6, 4, 12), (24, 10, 12)])
def test_a_sweep_that_is_killed_again_and_again(
    fast: MakeOverrides, tmp_path: Path, jobs: int, kills: int, epochs: int
) -> None:
    rates = ",".join(str(round(1e-3 * (number + 1), 4)) for number in range(jobs))
    common = [
        "-m",
        *fast("regularization=[dropout,mixup]", "scheduler=cosine"),
        f"optimizer.lr={rates}",
        f"trainer.max_epochs={epochs}",
        "trainer.limit_train_batches=12",
        "callbacks.checkpoints.every_n_steps=5",
    ]
    folders = [tmp_path / "outputs" / "sweeps" / name for name in ("undisturbed", "killed")]
    whole = start([*common, "sweep.name=undisturbed"])
    began = time.monotonic()
    output, _ = whole.communicate(timeout=600)
    assert whole.returncode == 0, output
    longest = 0.6 * (time.monotonic() - began)
    met = killed_until_done([*common, "sweep.name=killed"], folders[1], kills, seed=1, longest=longest)
    assert met > 0
    ledgers = [Ledger.open(folder) for folder in folders]
    assert [job.digest for job in ledgers[0].jobs] == [job.digest for job in ledgers[1].jobs]
    assert len(ledgers[1].jobs) == jobs == len(records(folders[1]))
    for job in ledgers[0].jobs:
        different = [finding for finding in compare(*(folder / job.slug for folder in folders)) if not finding.equal]
        assert different == [], str(job)


LONG = ["trainer.max_epochs=100000", "regularization=none", "trainer.limit_train_batches=4", "callbacks=default"]


def sweep_overrides(fast: MakeOverrides, name: str) -> list[str]:
    overrides = [
        override for override in fast() if not override.startswith(("trainer.max_epochs", "trainer.limit_train"))
    ]
    return ["-m", *overrides, *LONG, "seed=0,1,2", f"sweep.name={name}", "hydra.launcher.jobs=2"]


def test_a_killed_worker_costs_its_job_alone(fast: MakeOverrides, tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "sweeps" / "worker"
    sweep = start(sweep_overrides(fast, "worker"), MARKER="worker")
    first = wait_for(running(folder, 2))
    os.kill(first[0]["pid"], signal.SIGKILL)
    failed = wait_for(lambda: [record for record in records(folder).values() if record["status"] == "failed"])
    assert len(failed) == 1 and "SIGKILL" in failed[0]["error"]
    wait_for(running(folder, 2))  # the third took its place

    os.kill(sweep.pid, signal.SIGINT)
    output, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 130
    assert "SIGKILL" in output and "sweep.resume=" in output
    stopped = [record for record in records(folder).values() if record["status"] == "interrupted"]
    assert len(stopped) == 2, "Ctrl-C lets running jobs save a checkpoint"
    wait_for(lambda: not processes("worker"), 10)


@pytest.mark.parametrize("group", [False, True])
def test_workers_end_with_their_driver(fast: MakeOverrides, tmp_path: Path, group: bool) -> None:
    marker = f"driver-{group}"
    folder = tmp_path / "outputs" / "sweeps" / marker
    sweep = start(sweep_overrides(fast, marker), MARKER=marker)
    wait_for(running(folder, 2))
    assert len(processes(marker)) >= 4
    (os.killpg if group else os.kill)(sweep.pid, signal.SIGKILL)
    sweep.communicate()
    wait_for(lambda: not processes(marker), 10)
    wait_for(lambda: not any(RunFolder.open(path.parent).alive for path in folder.glob("*/run.json")), 5)


def test_ctrl_c_twice_ends_at_once(fast: MakeOverrides, tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "sweeps" / "twice"
    sweep = start(sweep_overrides(fast, "twice"), MARKER="twice")
    for record in wait_for(running(folder, 2)):
        os.kill(record["pid"], signal.SIGSTOP)  # they cannot obey
    for _ in range(2):
        os.kill(sweep.pid, signal.SIGINT)
        time.sleep(0.5)
    output, _ = sweep.communicate(timeout=30)
    assert sweep.returncode == 130, output
    assert {record["status"] for record in records(folder).values()} == {"interrupted"}
    wait_for(lambda: not processes("twice"), 10)


@pytest.mark.parametrize("override", ["model=[mlp,cnn]", "optimizer.lr=1e-3,x", "modl=mlp"])
def test_a_fork_server_that_was_not_needed_ends(override: str) -> None:
    """Also where it is still at its first imports when the command is gone."""
    sweep = start(["-m", override], MARKER="unneeded")
    output, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 2 and output.startswith("error: "), output
    wait_for(lambda: not processes("unneeded"), 10)


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda signal_: signal_.name)
def test_a_sweep_that_dies_in_its_first_second_leaves_no_process(signal_: signal.Signals, fast: MakeOverrides) -> None:
    for moment in (0.1, 0.15, 0.2, 0.3, 0.6):
        sweep = start(["-m", *fast(), "seed=1,2", "sweep.name=young"], MARKER="young")
        time.sleep(moment)
        sweep.send_signal(signal_)
        sweep.wait(60)
        wait_for(lambda: not processes("young"), 10)


def test_a_killed_fork_server_is_started_anew(fast: MakeOverrides, tmp_path: Path) -> None:
    sweep = start(["-m", *fast("hydra.launcher.jobs=1"), "seed=range(8)", "sweep.name=forked"], MARKER="forked")
    folder = tmp_path / "outputs" / "sweeps" / "forked"
    wait_for(running(folder, 1), 60)
    server = next(
        process for process in processes("forked") if b"forkserver" in Path(f"/proc/{process}/cmdline").read_bytes()
    )
    os.kill(server, signal.SIGKILL)
    output, _ = sweep.communicate(timeout=120)
    assert "8 of 8 jobs finished" in output or "7 of 8 jobs finished" in output, output


@pytest.mark.parametrize("launcher", ["local", "fused"])
def test_a_sweep_leaves_no_temporary_files(launcher: str, fast: MakeOverrides, tmp_path: Path) -> None:
    temporary = tmp_path / "t"
    temporary.mkdir()
    overrides = [
        "-m",
        *fast("logger=wandb", f"hydra/launcher={launcher}"),
        "optimizer.lr=1e-3,1e-2",
        "sweep.name=clean",
    ]
    output, _ = start(overrides, TMPDIR=str(temporary), WANDB_MODE="offline").communicate(timeout=120)
    assert "2 of 2 jobs finished" in output, output
    assert not list(temporary.iterdir())


def test_two_hundred_jobs_leak_nothing(fast: MakeOverrides, tmp_path: Path) -> None:
    seeds = ",".join(map(str, range(200)))
    sweep = start(["-m", *fast(), f"seed={seeds}", "sweep.name=many"], MARKER="many")
    folder, driver = tmp_path / "outputs" / "sweeps" / "many", Path(f"/proc/{sweep.pid}")
    seen: dict[int, tuple[int, int, int]] = {}
    while sweep.poll() is None:
        ended = sum(1 for _ in folder.glob("*/run.json"))
        try:
            memory = int((driver / "statm").read_text().split()[1]) * 4
            seen[ended] = memory, len(list((driver / "fd").iterdir())), len(processes("many"))
        except (OSError, IndexError):
            break
        time.sleep(0.5)
    output, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 0 and "200 of 200 jobs finished" in output
    early = [values for ended, values in seen.items() if 10 <= ended <= 60]
    late = [values for ended, values in seen.items() if 140 <= ended <= 195]
    assert early and late
    (memory, handles, alive), (memory_late, handles_late, alive_late) = (
        tuple(median_high(column) for column in zip(*part, strict=True)) for part in (early, late)
    )  # a process that is just being started takes some handles more
    assert memory_late < memory + 2_000, f"the driver grew from {memory} to {memory_late} KiB"
    assert handles_late <= handles + 2 and alive_late <= alive + 2
    wait_for(lambda: not processes("many"), 10)


# ---- several processes a job ---------------------------------------------------------------------------------------


def ddp_overrides(fast: MakeOverrides, name: str, *more: str) -> list[str]:
    overrides = fast("trainer=cpu", "trainer.devices=2", "trainer.strategy=ddp", "datamodule.batch_size=16")
    return ["-m", *overrides, f"sweep.name={name}", "optimizer.lr=0.01,0.02", *more]


def test_every_rank_has_the_config_of_its_job(fast: MakeOverrides, tmp_path: Path) -> None:
    """Rank 1 with another learning rate would give other weights than the average of both ranks' gradients does."""
    callback = tmp_path / "probe.py"
    callback.write_text(
        "import os\n"
        "from lightning.pytorch.callbacks import Callback\n"
        "class Probe(Callback):\n"
        "    def on_train_start(self, trainer, pl_module):\n"
        "        path = os.environ['GRIDLIGHT_RUN_FOLDER'] + f'/rank{trainer.global_rank}.txt'\n"
        "        config = pl_module.training_config\n"
        "        open(path, 'w').write(f'{config.optimizer.lr} {trainer.world_size} {os.environ[\"MASTER_PORT\"]}')\n"
    )
    overrides = ddp_overrides(fast, "ddp", "+callbacks.probe._target_=probe.Probe")
    sweep = start(overrides, PYTHONPATH=str(tmp_path), MARKER="ddp")
    output, _ = sweep.communicate(timeout=900)
    assert sweep.returncode == 0, output
    folder = tmp_path / "outputs" / "sweeps" / "ddp"
    run_of_job = {path.parent.name.split("_")[0]: path.parent for path in folder.glob("*/rank0.txt")}
    assert set(run_of_job) == {"lr-0.01", "lr-0.02"}
    ports = set()
    for name, run in run_of_job.items():
        ranks = [(run / f"rank{rank}.txt").read_text().split() for rank in range(2)]
        assert ranks[0] == ranks[1] and ranks[0][0] == name.removeprefix("lr-") and ranks[0][1] == "2"
        ports.add(ranks[0][2])
        assert RunFolder.open(run).record["status"] == "finished"
    assert len(ports) == 2, "each job has a port of its own"
    wait_for(lambda: not processes("ddp"), 10)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_dead_rank_fails_its_job_within_a_minute(fast: MakeOverrides, tmp_path: Path, rank: int) -> None:
    marker = f"rank{rank}"
    overrides = [
        override
        for override in ddp_overrides(fast, marker)
        if not override.startswith(("trainer.max_e", "trainer.limit_t"))
    ]
    sweep = start([*overrides, *LONG, "sweep.retry_failed=false"], MARKER=marker)
    folder = tmp_path / "outputs" / "sweeps" / marker
    (first,) = wait_for(running(folder, 1))[:1]
    others = [pid for pid in processes(marker) if b"LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_bytes()]
    assert len(others) == 1
    ranks = [first["pid"], *others]
    os.kill(ranks[rank], signal.SIGKILL)
    died = time.monotonic()
    wait_for(lambda: any(record["status"] == "failed" for record in records(folder).values()), 60)
    assert time.monotonic() - died < 60
    wait_for(lambda: not set(ranks) & set(processes(marker)), 30)  # nothing of the job is left
    wait_for(running(folder, 1))  # the other job continues with its own ranks
    os.kill(sweep.pid, signal.SIGINT)
    time.sleep(1)
    os.kill(sweep.pid, signal.SIGINT)
    sweep.communicate(timeout=60)
    wait_for(lambda: not processes(marker), 10)


def test_the_server_has_one_thread_and_no_gpu(tmp_path: Path) -> None:
    """What is forked must not have started threads, nor CUDA."""
    program = (
        "import src.sweeping.launchers.preload, os, torch; "
        "print(len(os.listdir('/proc/self/task')), torch.cuda.is_initialized())"
    )
    (tmp_path / "modules").write_text(" ".join(every_module()))
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", MODULES_VARIABLE: f"{os.getpid()}:{tmp_path / 'modules'}"}
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["1", "False"], done.stdout + done.stderr


def test_each_job_is_leased_a_device_of_its_own(fast: MakeOverrides, tmp_path: Path) -> None:
    """The devices are only names here; what counts is who is given which."""
    (tmp_path / "lease.py").write_text(
        "import os, time\n"
        "from lightning.pytorch.callbacks import Callback\n"
        "class Lease(Callback):\n"
        "    def on_train_start(self, trainer, pl_module):\n"
        "        begun = time.time(); time.sleep(1)\n"
        "        path = os.environ['GRIDLIGHT_RUN_FOLDER'] + '/lease.txt'\n"
        "        open(path, 'w').write(f'{os.environ[\"CUDA_VISIBLE_DEVICES\"]} {begun} {time.time()}')\n"
    )
    overrides = [override for override in fast("trainer=auto") if not override.startswith("trainer=")]
    overrides = ["-m", *overrides, "seed=0,1,2,3", "sweep.name=leases", "+callbacks.lease._target_=lease.Lease"]
    sweep = start(overrides, PYTHONPATH=str(tmp_path), CUDA_VISIBLE_DEVICES="5,6", MARKER="leases")
    output, _ = sweep.communicate(timeout=900)
    assert sweep.returncode == 0, output
    leases = [path.read_text().split() for path in tmp_path.glob("outputs/sweeps/leases/*/lease.txt")]
    assert len(leases) == 4 and {device for device, _, _ in leases} == {"5", "6"}
    times = sorted((float(begun), float(ended), device) for device, begun, ended in leases)
    for (_, ended, device), (begun, _, next_device) in pairwise(times):
        assert begun > ended or device != next_device, "two jobs held one device at a time"
