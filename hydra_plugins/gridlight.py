"""The launchers and sweepers, where Hydra looks for them; the work is in src/sweeping."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SearchSweeper(BasicSweeper):
    """Hands the words of a sweep to the launcher as they are: what points they make is for the group `search` to say, and
    a search that learns makes them while jobs run.
    """

    def sweep(self, arguments: list[str]) -> Any:
        assert self.config is not None and self.launcher is not None
        search = self.config.search
        ranges = [f"{key}={text}" for key, text in search.ranges.items()] if search.name != "grid" else []
        return [self.launcher.launch([[*self._parse_config(), *ranges, *arguments]], initial_job_idx=0)]


class LocalLauncher(Launcher):
    """Runs the jobs of a sweep in processes of this machine.

    Args:
        jobs: at a time; None: one a GPU, or one a usable core where there is none.
        devices_per_job: GPUs that each job sees.
        threads: of each job; None: the cores are shared out.
    """

    def __init__(self, jobs: int | None = None, devices_per_job: int = 1, threads: int | None = None) -> None:
        self.jobs, self.devices_per_job, self.threads = jobs, devices_per_job, threads

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from src.sweeping.launching import launch
        from src.sweeping.pool import local_pool, warm_up

        pool = local_pool(self.config, self.jobs, self.devices_per_job, self.threads)
        return launch(self.hydra_context.config_loader, self.config, job_overrides, pool, warm_up)
