"""Run the jobs of a sweep on a SLURM cluster, as an array. Preempted jobs are requeued; a new driver finds submitted jobs.

submitit writes the batch script, passes it to sbatch and starts Python on the node. States come from squeue: submitit takes
them from sacct, which many clusters lack. The signal handlers of submitit and Lightning, which each save and requeue in their
own way, are replaced by one thread that waits for the signal (`_Requeue`).
"""

import getpass
import json
import logging
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from src.config.schema.launcher import SlurmSettings
from src.config.validate import check_section
from src.core.console import echo
from src.core.errors import UserError, nearest
from src.core.files import make_folder_below, open_below, plain_name, remove_below, write_below
from src.core.records import RecordError, read_json
from src.sweeping.launchers.cluster import RemoteExecutor
from src.sweeping.launchers.file_channel import FileChannel, run_with_file_channel
from src.sweeping.messages import Assignment, Ended
from src.sweeping.worker import WorkerControl

log = logging.getLogger(__name__)

SIGNAL = signal.SIGUSR2
"""Signal that SLURM sends `signal_delay_s` seconds before the time limit; NCCL uses SIGUSR1."""
FINAL_STATES = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
    "PREEMPTED",
)
"""Final states of a SLURM job."""
ONE_THREAD = "export OPENBLAS_NUM_THREADS=1"
"""Keeps the imports of submitit from starting threads, which would receive the signal before `_Requeue` blocks it."""
LARGEST_ARRAY = 1000
"""SLURM's default limit."""
SUBMISSIONS = "slurm"
"""Folder below the outputs with the files that submitit writes: the pickles and logs of the jobs."""
MAX_LOG_TAIL_BYTES = 2**16
"""Bytes read from the end of a log when a job ended without a message."""

_JOB_ID = re.compile(r"[0-9]+(_[0-9]+)?")


# ---- in the job ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Submission:
    """One job, as submitit sends it to its node.

    Args:
        assignment: the job.
        channels: folder of the file channels.
        max_requeues: maximum number of requeues.
    """

    assignment: Assignment
    channels: Path
    max_requeues: int

    def __call__(self) -> None:
        signal.pthread_sigmask(
            signal.SIG_BLOCK, {SIGNAL}
        )  # a thread waits for it; child processes inherit the mask and survive it
        signal.signal(signal.SIGCONT, signal.SIG_DFL)  # submitit's handler only logs it
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # sent on preemption; a run installs its own handler
        job, restarts = _job_id(), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        requeue, channel = _Requeue(), FileChannel(self.channels, self.assignment.folder.name)
        if run_with_file_channel(self.assignment, channel, requeue.wait) or not (requeue.requested or _preempted(job)):
            return
        if restarts < self.max_requeues:
            subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
        else:
            error = f"it was stopped {restarts + 1} times (hydra.launcher.max_requeues={self.max_requeues})"
            channel.post(Ended(self.assignment.number, "failed", error))


class _Requeue:
    """Waits for SLURM's signal, then stops the job."""

    def __init__(self) -> None:
        self.requested = False

    def wait(self, control: WorkerControl) -> None:
        signal.sigwait({SIGNAL})
        self.requested = True
        control.stop("requeue")


def _job_id() -> str:
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def _preempted(job: str) -> bool:
    """Return whether SLURM preempts a job; it does not requeue one that then exits by itself."""
    output = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, timeout=60).stdout
    return re.search(r"PreemptTime=(?!None)\S", output) is not None


# ---- in the driver ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Queued:
    """A job as squeue shows it."""

    id: str
    state: str
    name: str

    @property
    def is_over(self) -> bool:
        return self.state in FINAL_STATES


class SlurmExecutor(RemoteExecutor):
    """Submits jobs to SLURM.

    The name of a submission is written to disk before it is submitted, so the next driver finds all jobs of a driver that was
    killed at any moment.

    Args:
        folder: folder of the sweep.
        settings: settings of the launcher, checked.
        submissions: folder for the files of submissions, on a disk that all machines see. They are pickles, so it is not in the
            sweep, where somebody else could replace them while a job is queued.
    """

    def __init__(self, folder: Path, settings: SlurmSettings, submissions: Path) -> None:
        super().__init__(folder, settings.jobs, settings.cpus_per_task, settings.gpus_per_node, settings.poll_seconds)
        self._settings = settings
        self._submissions = submissions.absolute()
        self._queue = dict[str, _Queued]()  # by the name of the job's folder
        self._adopted: set[int] = set()
        self._missing: set[int] = set()
        if os.path.lexists(self.folder):
            make_folder_below(self.folder.parent, self.folder.name)  # raises an error if it is a link
            self._refresh_queue()

    def submit(self, assignments: Sequence[Assignment]) -> None:
        for start in range(0, len(assignments), LARGEST_ARRAY):
            self._submit(assignments[start : start + LARGEST_ARRAY])

    def _submit(self, assignments: Sequence[Assignment]) -> None:
        import submitit

        name = f"{self.folder.parent.name}-{secrets.token_hex(8)}"
        slugs = [assignment.folder.name for assignment in assignments]
        folder = self._new_folder(name)
        record = self.folder / f"{name}.array"
        write_below(self.folder.parent, f"{self.folder.name}/{record.name}", json.dumps(slugs), make=True)
        executor = submitit.AutoExecutor(folder, cluster="slurm")
        executor.update_parameters(**_submitit_parameters(self._settings, name))
        work = [Submission(one, self.folder, self._settings.max_requeues) for one in assignments]
        with _rejections(self._settings, record):
            jobs = executor.map_array(Submission.__call__, work)
        for slug, job in zip(slugs, jobs, strict=True):
            self._queue[slug] = _Queued(str(job.job_id), "PENDING", name)
        description = (
            f"array {jobs[0].job_id.partition('_')[0]} of {len(jobs)} jobs" if len(jobs) > 1 else jobs[0].job_id
        )
        echo(f"submitted to SLURM: {description} (squeue shows them as {name})", flush=True)

    def adopt(self, assignment: Assignment, channel: FileChannel) -> bool:
        queued = self._queue.get(assignment.folder.name)
        events = channel.collect()
        if queued is None or queued.is_over or (events and isinstance(events[-1], Ended)):
            return False
        self._adopted.add(assignment.number)
        echo(f"{assignment.folder.name}: already submitted to SLURM, as {queued.id}", flush=True)
        return True

    def gone(self, jobs: Iterable[Assignment]) -> Mapping[int, str]:
        if not self._refresh_queue():
            return {}
        reasons = {}
        for job in jobs:
            queued = self._queue.get(job.folder.name)
            if queued is not None and not queued.is_over:
                self._missing.discard(job.number)
            elif job.number in self._missing:  # twice in a row: a job that is requeued may be absent for a moment
                reasons[job.number] = self._end_reason(job, queued)
            else:
                self._missing.add(job.number)
        return reasons

    def cancel(self, jobs: Sequence[Assignment], waiting_only: bool) -> None:
        queue = [self._queue.get(job.folder.name) for job in jobs]
        ids = [queued.id for queued in queue if queued is not None and _JOB_ID.fullmatch(queued.id)]
        if ids:
            subprocess.run(["scancel", *(["--state=PENDING"] if waiting_only else []), *ids], capture_output=True)

    def close(self) -> None:
        """Do nothing: the jobs keep running, and the next driver finds them."""

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _refresh_queue(self) -> bool:
        """Update the queue from SLURM; return whether squeue succeeded."""
        names = self._submitted()
        done = subprocess.run(
            ["squeue", "--noheader", "--array", "--states=all", f"--user={getpass.getuser()}", "--format=%i|%T|%j"],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            return False
        self._queue = {}
        for line in done.stdout.splitlines():
            job, state, name = line.split("|", 2)
            task = int(job.partition("_")[2] or 0) if _JOB_ID.fullmatch(job) else -1
            if 0 <= task < len(names.get(name, ())):
                slug = names[name][task]
                if slug not in self._queue or self._queue[slug].is_over:  # a later submission of the same job
                    self._queue[slug] = _Queued(job, state, name)
        return True

    def _submitted(self) -> dict[str, list[str]]:
        """Return the names of the jobs of each submission of this sweep, as recorded before it was submitted.

        Files of another name or content are ignored: through them the sweep could adopt, and cancel, unrelated SLURM jobs.
        """
        pattern = re.compile(re.escape(self.folder.parent.name) + r"-[0-9a-f]{8,16}\.array")
        submissions = {}
        for entry in sorted(os.listdir(self.folder)):
            if pattern.fullmatch(entry):
                try:
                    slugs = read_json(self.folder.parent, f"{self.folder.name}/{entry}")
                    if not isinstance(slugs, list):
                        raise RecordError(f"{self.folder / entry}: this is not a list of jobs")
                    submissions[entry.removesuffix(".array")] = [
                        plain_name(slug, "the name of a job") for slug in slugs
                    ]
                except (OSError, UserError) as error:
                    log.warning("%s; this submission is ignored", error)
        return submissions

    def _new_folder(self, name: str) -> Path:
        """Create the folder for the files of a submission, whose name is random."""
        self._submissions.mkdir(parents=True, exist_ok=True)
        folder = self._submissions / name
        folder.mkdir(mode=0o700)
        return folder

    def _end_reason(self, job: Assignment, queued: _Queued | None) -> str:
        if queued is None:
            return "its SLURM job is not in the queue any more, and left no message"
        file = f"{queued.name}/{queued.id}_0_log.out"
        try:
            with open_below(self._submissions, file) as opened:
                opened.seek(max(os.fstat(opened.fileno()).st_size - MAX_LOG_TAIL_BYTES, 0))
                tail = opened.read(MAX_LOG_TAIL_BYTES).decode(errors="replace").strip().splitlines()[-6:]
        except (OSError, UserError):
            tail = [f"{self._submissions / file}: there is no such log"]
        return "\n".join([*tail, f"its SLURM job {queued.id} ended: {queued.state}"])


def _submitit_parameters(settings: SlurmSettings, name: str) -> dict[str, Any]:
    """Return the settings as parameters of submitit."""
    optional = {
        "slurm_partition": settings.partition,
        "slurm_account": settings.account,
        "slurm_qos": settings.qos,
        "timeout_min": settings.timeout_min,
        "cpus_per_task": settings.cpus_per_task,
        "gpus_per_node": settings.gpus_per_node or None,
        "mem_gb": settings.mem_gb,
        "slurm_setup": [ONE_THREAD, *settings.setup],
        "slurm_array_parallelism": settings.array_parallelism or LARGEST_ARRAY,
    }
    always = {
        "name": name,
        "nodes": 1,
        "tasks_per_node": 1,  # the ranks of a job are processes of its one task
        "slurm_signal_delay_s": settings.signal_delay_s,
        "slurm_additional_parameters": {"requeue": True, **settings.additional_parameters},
        "slurm_stderr_to_stdout": True,
    }
    return always | {key: value for key, value in optional.items() if value is not None}


@contextmanager
def _rejections(settings: SlurmSettings, record: Path) -> Iterator[None]:
    """Turn an error of sbatch into a `UserError`, and remove the record of the submission."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with redirect_stderr(StringIO()):  # submitit prints what it raises
            yield
    except (FailedJobError, FailedSubmissionError) as error:
        remove_below(record.parents[1], f"{record.parent.name}/{record.name}")
        reason = "; ".join(re.sub(r"^sbatch: (error: )?", "", line) for line in str(error).splitlines() if line.strip())
        advice = ""
        if "partition" in reason:
            advice = (
                f"\nhydra.launcher.partition={settings.partition}: {nearest(settings.partition or '', _partitions())}"
            )
        raise UserError(f"SLURM rejects the jobs: {reason}{advice}") from error


def _partitions() -> list[str]:
    return subprocess.run(["sinfo", "--noheader", "--format=%R"], capture_output=True, text=True).stdout.split()


def slurm(options: Mapping[str, Any], outputs: Path) -> Callable[[Path], SlurmExecutor]:
    """Return a function that creates the executor for the folder of a sweep.

    Args:
        options: the settings of the launcher.
        outputs: the user's own folder of outputs (``paths.outputs``).

    Raises:
        UserError: if a setting is unknown or out of its range, or if SLURM's commands are missing on this machine.
    """
    settings = check_section(SlurmSettings, options, "hydra.launcher")
    try:
        import submitit  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f'hydra/launcher=submitit_slurm needs {error.name}: pip install -c constraints.txt -e ".[slurm]"'
        ) from error
    for program in ("sbatch", "squeue", "scancel"):
        if shutil.which(program) is None:
            raise UserError(
                f"hydra/launcher=submitit_slurm: there is no {program} here; submit jobs from a machine of the "
                "cluster, such as its login node"
            )
    return lambda folder: SlurmExecutor(folder, settings, outputs / SUBMISSIONS)
