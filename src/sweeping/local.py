"""The jobs of a sweep on this machine, one after the other: each in its own folder, which follows from its config."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict

from src.config.check import check
from src.config.schema import Config
from src.errors import JobsFailed, UserError
from src.sweeping.naming import job_name, sweep_name, varied
from src.tracking.ranking import print_ranking
from src.tracking.run_folder import RunFolder, config_hash


def launch(loader: Any, master: DictConfig, job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
    """Check every job of a sweep, then run them; jobs that are finished already are not run again.

    Args:
        loader: Hydra's config loader.
        master: the config of the whole sweep.
        job_overrides: the words of each job.

    Raises:
        UserError: if any job's config is wrong; nothing was started then.
    """
    if master.resume is not None:
        raise UserError("resume goes on with one run, without -m; the same sweep given again goes on by itself")
    different = varied(job_overrides)
    name = master.sweep.name or sweep_name(master, job_overrides)
    jobs = [_Job(loader, master, words, label, name) for words, label in zip(job_overrides, different, strict=True)]
    print(f"sweep {name}: {len(jobs)} jobs in {jobs[0].folder.parent}")
    entries: list[_Entry] = []
    returns = []
    for number, job in enumerate(jobs, 1):
        label = " ".join(job.label) or "the only point"
        print(f"[{number}/{len(jobs)}] {label}", flush=True)
        try:
            entry, error = job.run(), None
        except KeyboardInterrupt:
            _print_rankings(entries, len(jobs))
            raise
        except Exception as raised:
            entry, error = job.entry(), raised
            print(f"  failed: {type(raised).__name__}: {raised}\n  traceback in {job.folder / 'run.json'}", flush=True)
        entries.append(entry)
        result = JobReturn(overrides=list(job.words), cfg=None, status=JobStatus.COMPLETED)
        result.return_value = entry.value
        returns.append((result, error))
    _print_rankings(entries, len(jobs))
    failed = [error for _, error in returns if error is not None]
    if failed:
        raise JobsFailed(f"{len(failed)} of {len(jobs)} jobs failed") from failed[0]
    return [result for result, _ in returns]


@dataclass(frozen=True)
class _Entry:
    """What a ranking shows of a job."""

    overrides: Sequence[str]
    folder: Path
    status: str
    metric: str
    mode: str
    value: float | None
    seconds: float


def _print_rankings(entries: Sequence[_Entry], jobs: int) -> None:
    """Print one table for each metric, since losses of different tasks do not compare, and how many jobs are done."""
    measured = [entry for entry in entries if entry.value is not None]
    for metric in dict.fromkeys(entry.metric for entry in measured):
        same = [entry for entry in measured if entry.metric == metric]
        print_ranking(same, same[0].mode)
    finished = sum(entry.status == "finished" for entry in entries)
    rest = "" if len(entries) == jobs else f", {jobs - len(entries)} not started; the same command goes on"
    print(f"{finished} of {jobs} jobs finished{rest}")


class _Job:
    """One point of a sweep."""

    def __init__(self, loader: Any, master: DictConfig, words: Sequence[str], label: list[str], sweep: str) -> None:
        self.words = words
        self.label = label
        cfg = loader.load_sweep_config(master, list(words))
        with open_dict(cfg):
            OmegaConf.update(cfg, "sweep.name", sweep)
        try:
            self.config: Config = check(cfg)
        except UserError as error:
            raise UserError(f"job {' '.join(label)}:\n{error}") from error
        slug = job_name(label, config_hash(self.config.plain()))
        self.folder: Path = self.config.paths.outputs / "sweeps" / sweep / slug

    def run(self) -> _Entry:
        from src.experiment import resume, run

        if (self.folder / "run.json").exists():
            record = RunFolder.open(self.folder)
            status = record.record.get("status")
            if status == "finished":
                print("  finished before", flush=True)
                return self.entry()
        else:
            record = None
        if self.config.trainer.devices not in (1, [0]):
            self._in_a_fresh_process(record)
        elif record is not None:
            resume(self.config, record, verbose=False)
        else:
            run(self.config, self.folder, verbose=False)
        entry = self.entry()
        print(
            f"  {entry.metric} {entry.value:.4g}  ({entry.seconds:.1f} s)" if entry.value is not None else "",
            flush=True,
        )
        return entry

    def _in_a_fresh_process(self, record: RunFolder | None) -> None:
        """Run a job of several devices as a command of its own on its frozen config: Lightning starts the other ranks
        with the words of this process, which are those of the whole sweep.
        """
        if record is None:
            RunFolder.create(self.folder, self.config.plain(), sys.orig_argv).interrupt()
        command = [sys.executable, "-m", "src.train", f"resume={self.folder}"]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-2000:] or f"exit code {done.returncode}")

    def entry(self) -> _Entry:
        record: dict[str, Any] = RunFolder.open(self.folder).record if self.folder.is_dir() else {"status": "failed"}
        return _Entry(
            self.label,
            self.folder,
            record.get("status", ""),
            record.get("monitor", ""),
            record.get("mode", "min"),
            record.get("value"),
            record.get("seconds") or 0.0,
        )
