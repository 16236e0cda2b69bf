"""Run jobs in worker processes on this machine, forked from a server that has imported everything they need."""

import os
import re
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from omegaconf import DictConfig

from src.config.schema.registry import SCHEMAS
from src.core.errors import UserError
from src.core.resources import usable_cores
from src.sweeping.launchers.fork_server import context, set_modules
from src.sweeping.messages import Assignment, Ended, Event
from src.sweeping.worker import TrainGroup, ending, work


def preload(master: DictConfig | None = None, modules: Sequence[str] = ()) -> None:
    """Let the fork server import the modules of the jobs in the background.

    Args:
        master: the config of the whole sweep: if it varies neither the model nor the data, no others are imported.
        modules: to import in addition to what every run needs.
    """
    set_modules([*modules, *((shared_modules(master) if master is not None else []) or every_module())])


def every_module() -> list[str]:
    """Return the modules of all models and datamodules."""
    return sorted({target.rpartition(".")[0] for group in ("model", "datamodule") for target in SCHEMAS[group]})


def shared_modules(master: DictConfig) -> list[str]:
    """Return the modules of model, data and callbacks that all jobs of a sweep share; an empty list if they are unknown.

    Args:
        master: the config of the whole sweep.
    """
    overrides = [*master.hydra.overrides.task]
    overrides += [f"{key}={values}" for key, values in (master.hydra.sweeper.params or {}).items()]
    for key, _, values in (override.lstrip("+").partition("=") for override in overrides):
        if key == "sweep.resume" or (key.partition(".")[::2] in _CHOICES and re.search(r"[,(]", values)):
            return []
    sections = [master.model, master.datamodule, *(master.callbacks or {}).values()]
    targets = [str(section.get("_target_")) for section in sections if isinstance(section, DictConfig)]
    return [target.rpartition(".")[0] for target in targets if target.startswith("src.")]


_CHOICES = [("experiment", ""), *((group, key) for group in ("model", "datamodule") for key in ("", "_target_"))]


def visible_gpus() -> tuple[str, ...]:
    """Return the ids of the CUDA devices without initializing CUDA, which must happen in the worker processes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip() not in ("", "-1"))
    nodes = [path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()]
    return tuple(str(number) for number in range(len(nodes)))


@dataclass
class _Worker:
    assignment: Assignment
    process: ForkServerProcess
    channel: Connection
    devices: tuple[str, ...]
    ended: Ended | None = None


class LocalPool:
    """Runs up to `jobs` jobs at a time.

    Args:
        jobs: number of slots. A job takes as many as it has processes, at most all.
        devices: ids of the CUDA devices to assign; if empty, the jobs choose.
        devices_per_job: number of devices that each job sees.
        threads: threads of torch in each job; None divides the cores evenly.
    """

    train_group: TrainGroup | None = None
    """Trains a job that has members, in the process of the job."""

    def __init__(
        self,
        jobs: int,
        devices: Sequence[str] = (),
        devices_per_job: int = 1,
        threads: int | None = None,
    ) -> None:
        self._slots = jobs
        self._free = list(devices)
        self._leases = bool(devices)
        self._devices_per_job = devices_per_job
        self._total_devices = len(set(devices))
        self._threads = threads or max(usable_cores() // jobs, 1)
        self._workers: list[_Worker] = []
        preload()

    # ---- Executor ------------------------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        return self._slots

    def room(self, assignment: Assignment) -> bool:
        if self._leases:
            return len(set(self._free)) >= self._needs(assignment)
        taken = sum(min(worker.assignment.processes, self._slots) for worker in self._workers)
        return taken + min(assignment.processes, self._slots) <= self._slots

    def start(self, assignment: Assignment) -> None:
        devices = self._lease(self._needs(assignment)) if self._leases else ()
        if assignment.config["trainer"]["devices"] == "auto":  # all that it sees
            assignment = replace(assignment, processes=max(len(devices), 1))
        assignment = replace(assignment, threads=self._threads, devices=devices or None, environment=dict(os.environ))
        channel, worker_channel = Pipe()
        process = self._start_process(assignment, worker_channel)
        worker_channel.close()
        self._workers.append(_Worker(assignment, process, channel, devices))

    def _start_process(self, assignment: Assignment, channel: Connection) -> ForkServerProcess:
        """Fork a worker. If the fork server is killed meanwhile, `Process.start` starts a new one at the second attempt."""
        for attempt in (1, 2):
            process = context.Process(
                target=work, args=(assignment, channel, self.train_group), name=f"job {assignment.number}"
            )
            try:
                process.start()
                break
            except (EOFError, ConnectionError):
                if attempt == 2:
                    raise
        return process

    def wait(self, timeout: float) -> list[Event]:
        handles: list[int | Connection] = [worker.process.sentinel for worker in self._workers]
        handles += [worker.channel for worker in self._workers if not worker.channel.closed]
        ready = set(wait(handles, timeout))
        events: list[Event] = []
        for worker in list(self._workers):
            has_exited = worker.process.sentinel in ready
            if has_exited or worker.channel in ready:
                events += self._receive(worker)
            if has_exited:
                events.append(self._clean_up(worker))
        return events

    def stop(self, message: str, number: int | None = None) -> None:
        for worker in self._workers:
            if number in (None, worker.assignment.number):
                with suppress(OSError, ValueError):
                    worker.channel.send(message)

    def kill(self) -> None:
        for worker in self._workers:
            worker.process.kill()  # it may not have its own process group yet
            _kill_group(worker.process)

    def close(self) -> None:
        self.kill()
        for worker in list(self._workers):
            worker.process.join()
            self._clean_up(worker)

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _needs(self, assignment: Assignment) -> int:
        return min(max(self._devices_per_job, assignment.processes), self._total_devices)

    def _lease(self, count: int) -> tuple[str, ...]:
        """Remove distinct devices from the free ones; a device that several jobs share is listed several times."""
        devices = tuple(dict.fromkeys(self._free))[:count]
        for device in devices:
            self._free.remove(device)
        return devices

    def _receive(self, worker: _Worker) -> list[Event]:
        events: list[Event] = []
        try:
            while not worker.channel.closed and worker.channel.poll():
                event = worker.channel.recv()
                if isinstance(event, Ended) and event.number == worker.assignment.number:
                    worker.ended = event  # returned once its process has exited and its slot is free
                else:
                    events.append(event)
        except (EOFError, OSError):
            worker.channel.close()
        return events

    def _clean_up(self, worker: _Worker) -> Ended:
        """Clean up after a process that has exited, and return how its job ended."""
        process = worker.process
        process.join()
        _kill_group(process)  # processes that it has left behind
        code = process.exitcode or 0
        self._workers.remove(worker)
        self._free += worker.devices
        worker.channel.close()
        process.close()
        return worker.ended or Ended(worker.assignment.number, "failed", f"its process ended with {ending(code)}")


def _kill_group(process: ForkServerProcess) -> None:
    assert process.pid is not None
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def local_pool(
    master: DictConfig,
    jobs: int | None,
    devices_per_job: int,
    threads: int | None,
    make: Callable[[int, Sequence[str], int, int | None], LocalPool] = LocalPool,
) -> Callable[[Path], LocalPool]:
    """Return a function that creates the pool of the launcher's settings for the folder of a sweep.

    Args:
        master: the config of the whole sweep.
        jobs, devices_per_job, threads: see conf/hydra/launcher/local.yaml.
        make: the pool's class, or a function that creates it.

    Raises:
        UserError: if a setting is out of its range.
    """
    for name, value in (("jobs", jobs), ("devices_per_job", devices_per_job), ("threads", threads)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"hydra.launcher.{name}={value}: must be a whole number of 1 or more")
    gpus = visible_gpus() if master.trainer.accelerator in ("auto", "gpu", "cuda") else ()
    if gpus and devices_per_job > len(gpus):
        raise UserError(f"hydra.launcher.devices_per_job={devices_per_job}: there are {len(gpus)} GPUs")
    at_a_time = jobs or (len(gpus) // devices_per_job if gpus else usable_cores())
    if gpus and at_a_time * devices_per_job > len(gpus):  # several jobs share a GPU
        gpus = tuple(gpus[number % len(gpus)] for number in range(at_a_time * devices_per_job))
    return lambda _: make(at_a_time, gpus, devices_per_job, threads)
