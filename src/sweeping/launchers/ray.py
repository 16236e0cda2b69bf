"""Run the jobs of a sweep as Ray tasks, on a Ray cluster or on this machine."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from src import ROOT
from src.config.schema.launcher import RaySettings
from src.config.validate import check_section
from src.core.errors import UserError
from src.sweeping.launchers.cluster import RemoteExecutor
from src.sweeping.launchers.file_channel import FileChannel, run_with_file_channel
from src.sweeping.messages import Assignment

STATUS_POLL_SECONDS = 1.0
"""Seconds between two queries of Ray, whose state is in the memory of this process."""


def work_on_ray(assignment: Assignment, channels: Path, working_directory: Path) -> None:
    """Run one job in a worker of Ray.

    Args:
        assignment: the job, with the environment of its driver.
        channels: folder of the file channels.
        working_directory: working directory of the driver.
    """
    os.chdir(working_directory)
    assert assignment.environment is not None
    leased = {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ}
    assignment = replace(assignment, environment=assignment.environment | leased)
    run_with_file_channel(assignment, FileChannel(channels, assignment.folder.name))


class RayExecutor(RemoteExecutor):
    """Submits jobs to Ray. They end with this process, as Ray's tasks end with their driver; the same command resumes them.

    Args:
        folder: folder of the sweep.
        settings: settings of the launcher, checked.

    Raises:
        UserError: if there is no such cluster, or if none of its nodes has the resources for a job.
    """

    def __init__(self, folder: Path, settings: RaySettings) -> None:
        import ray

        self._ray = ray
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if settings.address is None:
            quiet["include_dashboard"] = False
        try:
            ray.init(settings.address, runtime_env={"env_vars": {"PYTHONPATH": path}}, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"hydra.launcher.address={settings.address}: cannot reach the Ray cluster: {reason}"
            ) from error
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._largest = {kind: max(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU")}
        for kind, key, requested in (
            ("CPU", "cpus_per_job", settings.cpus_per_job),
            ("GPU", "gpus_per_job", settings.gpus_per_job),
        ):
            if requested > self._largest[kind]:
                self.close()
                raise UserError(
                    f"hydra.launcher.{key}={requested:g}: the largest node of the Ray cluster has {self._largest[kind]:g} {kind}s"
                )
        total = ray.cluster_resources()
        at_a_time = total["CPU"] // settings.cpus_per_job
        if settings.gpus_per_job:
            at_a_time = min(at_a_time, total["GPU"] // settings.gpus_per_job)
        gpus = int(settings.gpus_per_job)
        super().__init__(folder, settings.jobs or int(at_a_time), settings.cpus_per_job, gpus, STATUS_POLL_SECONDS)
        self._share = settings.gpus_per_job
        self._tasks: dict[int, Any] = {}

    def submit(self, assignments: Sequence[Assignment]) -> None:
        work = self._ray.remote(max_calls=1, max_retries=0)(work_on_ray)  # one process per job
        for one in assignments:
            cores = min(self._cores * one.processes, self._largest["CPU"])
            assignment = replace(one, environment=dict(os.environ))
            task = work.options(num_cpus=cores, num_gpus=self._share, name=one.folder.name)
            self._tasks[one.number] = task.remote(assignment, self.folder, Path.cwd())

    def gone(self, jobs: Iterable[Assignment]) -> Mapping[int, str]:
        tasks = {self._tasks[job.number]: job.number for job in jobs}
        finished, _ = self._ray.wait(list(tasks), num_returns=len(tasks), timeout=0)
        return {tasks[task]: self._failure_reason(task) for task in finished}

    def cancel(self, jobs: Sequence[Assignment], waiting_only: bool) -> None:
        if not waiting_only:  # a job that starts with a control message to stop ends at once
            for job in jobs:
                self._ray.cancel(self._tasks[job.number], force=True)

    def close(self) -> None:
        self._ray.shutdown()

    def _failure_reason(self, task: Any) -> str:
        try:
            self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            return f"its Ray task ended: {type(error).__name__}: {str(error).strip()}"
        return "its Ray task ended without a message"


def ray(options: Mapping[str, Any]) -> Callable[[Path], RayExecutor]:
    """Return a function that creates the executor for the folder of a sweep.

    Args:
        options: the settings of the launcher.

    Raises:
        UserError: if a setting is unknown or out of its range, or if Ray is not installed.
    """
    settings = check_section(RaySettings, options, "hydra.launcher")
    try:
        import ray  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f'hydra/launcher=ray needs {error.name}: pip install -c constraints.txt -e ".[ray]"') from error
    return lambda folder: RayExecutor(folder, settings)
