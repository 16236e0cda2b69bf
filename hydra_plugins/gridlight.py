"""Hydra plugins: the launchers and the sweeper. They delegate to src/sweeping and src/fused."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from src.sweeping.launchers.base import Executor


class SearchSweeper(Sweeper):
    """Pass the overrides of a sweep to the launcher without expanding them; the group `search` chooses the points.

    Args:
        params: overrides of the sweep by key, as for Hydra's basic sweeper.
        max_batch_size: accepted for compatibility with Hydra's basic sweeper, and ignored.
    """

    def __init__(self, params: dict[str, str] | None = None, max_batch_size: int | None = None) -> None:
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from src.sweeping.search.cross_validation import expand_folds

        assert self.config is not None and self.launcher is not None
        search = self.config.search
        ranges = [f"{key}={text}" for key, text in search.ranges.items()] if search.name != "grid" else []
        params = [f"{key}={value}" for key, value in self.params.items()]
        overrides = expand_folds([*params, *ranges, *arguments], self.config)
        return [self.launcher.launch([overrides], initial_job_idx=0)]


class SweepLauncher(Launcher):
    """Base class of the launchers, which differ in their executors.

    Attributes:
        detached: whether jobs continue if the command that started them is killed. The same command finds them again.
    """

    detached = False

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def executor(self) -> "Callable[[Path], Executor]":
        """Check the settings, and return a function that creates the executor for a sweep folder."""
        raise NotImplementedError

    def preload(self) -> None:
        """Start slow work that can run while the points are composed."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from src.sweeping.sweep import launch

        loader, executor = self.hydra_context.config_loader, self.executor()
        return launch(loader, self.config, job_overrides, executor, self.preload, self.detached)


class LocalLauncher(SweepLauncher):
    """Run the jobs of a sweep in processes on this machine.

    Args:
        jobs: number of jobs at a time. None: one per GPU, or one per usable core if there is no GPU.
        devices_per_job: number of GPUs visible to each job.
        threads: number of threads of each job. None: the usable cores are divided among the jobs.
    """

    def __init__(self, jobs: int | None = None, devices_per_job: int = 1, threads: int | None = None) -> None:
        self.jobs, self.devices_per_job, self.threads = jobs, devices_per_job, threads

    def executor(self) -> "Callable[[Path], Executor]":
        from src.sweeping.launchers.local import local_pool

        return local_pool(self.config, self.jobs, self.devices_per_job, self.threads)

    def preload(self) -> None:
        from src.sweeping.launchers.local import preload

        preload(self.config)


class FusedLauncher(LocalLauncher):
    """Train the jobs of a sweep that differ only in numbers as one stacked model, and run the others like `LocalLauncher`.

    Args:
        fuse: ``auto``, ``always`` or ``never``.
        members: maximum number of jobs that are trained as one model.
        settings: arguments of `LocalLauncher`.
    """

    def __init__(self, fuse: str = "auto", members: int = 64, **settings: Any) -> None:
        super().__init__(**settings)
        self.fuse, self.members = fuse, members

    def executor(self) -> "Callable[[Path], Executor]":
        from src.fused.launcher import fused_pool

        return fused_pool(self.config, self.fuse, self.members, self.jobs, self.devices_per_job, self.threads)

    def preload(self) -> None:
        from src.sweeping.launchers.local import preload

        preload(self.config, [] if self.fuse == "never" else ["src.fused.worker"])


class SubmititSlurmLauncher(SweepLauncher):
    """Run the jobs of a sweep on a SLURM cluster; see conf/hydra/launcher/submitit_slurm.yaml."""

    detached = True

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def executor(self) -> "Callable[[Path], Executor]":
        from src.sweeping.launchers.submitit_slurm import slurm

        return slurm(self.settings, Path(self.config.paths.outputs))


class RayLauncher(SweepLauncher):
    """Run the jobs of a sweep with Ray; see conf/hydra/launcher/ray.yaml."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def executor(self) -> "Callable[[Path], Executor]":
        from src.sweeping.launchers.ray import ray

        return ray(self.settings)
