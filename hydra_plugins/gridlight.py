"""The launchers and sweepers, where Hydra looks for them; the work is in src/sweeping."""

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
    """Pass the overrides of a sweep to the launcher unexpanded: the group `search` decides which points they make.

    Args:
        params: overrides of the sweep by key, as Hydra's basic sweeper takes them.
        max_batch_size: accepted for the sake of Hydra's basic sweeper; the launchers schedule their jobs themselves.
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
        from src.sweeping.cross_validation import with_folds

        assert self.config is not None and self.launcher is not None
        search = self.config.search
        ranges = [f"{key}={text}" for key, text in search.ranges.items()] if search.name != "grid" else []
        params = [f"{key}={value}" for key, value in self.params.items()]
        words = with_folds([*params, *ranges, *arguments], self.config)
        return [self.launcher.launch([words], initial_job_idx=0)]


class SweepLauncher(Launcher):
    """What the launchers have in common: the sweep of `src.sweeping.sweep`, on an executor of their own.

    Attributes:
        outlived: whether jobs go on when the command that started them is killed, and are found again by the next.
    """

    outlived = False

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def executor(self) -> "Callable[[Path], Executor]":
        """Return what makes the executor of a sweep's folder, after a check of the settings."""
        raise NotImplementedError

    def warm_up(self) -> None:
        """Start what takes long and can go on while the points are composed."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from src.sweeping.sweep import launch

        loader, executor = self.hydra_context.config_loader, self.executor()
        return launch(loader, self.config, job_overrides, executor, self.warm_up, self.outlived)


class LocalLauncher(SweepLauncher):
    """Runs the jobs of a sweep in processes of this machine.

    Args:
        jobs: at a time; None: one a GPU, or one a usable core where there is none.
        devices_per_job: GPUs that each job sees.
        threads: of each job; None: the cores are shared out.
    """

    def __init__(self, jobs: int | None = None, devices_per_job: int = 1, threads: int | None = None) -> None:
        self.jobs, self.devices_per_job, self.threads = jobs, devices_per_job, threads

    def executor(self) -> "Callable[[Path], Executor]":
        from src.sweeping.launchers.local import local_pool

        return local_pool(self.config, self.jobs, self.devices_per_job, self.threads)

    def warm_up(self) -> None:
        from src.sweeping.launchers.local import warm_up

        warm_up(self.config)


class FusedLauncher(LocalLauncher):
    """Trains the jobs of a sweep that differ only in numbers as one; the others run as with `LocalLauncher`.

    Args:
        fuse: ``auto``, ``always`` or ``never``.
        members: most jobs that train as one.
        settings: of `LocalLauncher`.
    """

    def __init__(self, fuse: str = "auto", members: int = 64, **settings: Any) -> None:
        super().__init__(**settings)
        self.fuse, self.members = fuse, members

    def executor(self) -> "Callable[[Path], Executor]":
        from src.fused.launcher import fused_pool

        return fused_pool(self.config, self.fuse, self.members, self.jobs, self.devices_per_job, self.threads)

    def warm_up(self) -> None:
        from src.sweeping.launchers.local import warm_up

        warm_up(self.config, [] if self.fuse == "never" else ["src.fused.worker"])


class SubmititSlurmLauncher(SweepLauncher):
    """Runs the jobs of a sweep on a SLURM cluster; see conf/hydra/launcher/submitit_slurm.yaml."""

    outlived = True

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def executor(self) -> "Callable[[Path], Executor]":
        from src.sweeping.launchers.submitit_slurm import slurm

        return slurm(self.settings)


class RayLauncher(SweepLauncher):
    """Runs the jobs of a sweep with Ray; see conf/hydra/launcher/ray.yaml."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def executor(self) -> "Callable[[Path], Executor]":
        from src.sweeping.launchers.ray import ray

        return ray(self.settings)
