"""Jobs of a sweep on a SLURM cluster: one array, requeued when they are preempted, found again by a new driver.

submitit writes the batch script, hands it to sbatch and starts Python on the node. It is not asked for states, since it
takes them from sacct alone, which many clusters lack; squeue tells them everywhere. Nor are its signal handler and
Lightning's in use, which save and requeue each in their own way: one thread waits for the signal (`_Requeue`).
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
from src.core.files import make_folder_below, open_below, plain_name, write_below
from src.core.records import RecordError, read_json
from src.sweeping.launchers.cluster import RemoteExecutor
from src.sweeping.launchers.file_channel import Mailbox, work_by_mail
from src.sweeping.messages import Assignment, Ended
from src.sweeping.worker import Orders

log = logging.getLogger(__name__)

SIGNAL = signal.SIGUSR2
"""What submitit asks SLURM to send `signal_delay_s` seconds before the time is up; SIGUSR1 is NCCL's."""
OVER = (
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
"""States from which a job does not come back."""
ONE_THREAD = "export OPENBLAS_NUM_THREADS=1"
"""What submitit imports starts no thread then, which would take the signal for `_Requeue` before that can block it."""
LARGEST_ARRAY = 1000
"""SLURM's own limit, unless a cluster changes it."""
MAX_LOG_TAIL_BYTES = 2**16
"""Bytes at the end of a log that are read when a job ended without a message."""

_JOB_ID = re.compile(r"[0-9]+(_[0-9]+)?")


# ---- in the job ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Submission:
    """One job as submitit carries it to its node.

    Args:
        assignment: the job.
        mail: folder of the mailboxes.
        max_requeues: how often it may come back.
    """

    assignment: Assignment
    mail: Path
    max_requeues: int

    def __call__(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})  # a thread waits for it; children inherit that and live on
        signal.signal(signal.SIGCONT, signal.SIG_DFL)  # submitit's handler only speaks of it
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # of a preemption; a run takes it over
        job, restarts = _job_id(), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        requeue, mailbox = _Requeue(), Mailbox(self.mail, self.assignment.folder.name)
        if work_by_mail(self.assignment, mailbox, requeue.wait) or not (requeue.asked or _preempted(job)):
            return
        if restarts < self.max_requeues:
            subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
        else:
            told = f"it was stopped {restarts + 1} times (hydra.launcher.max_requeues={self.max_requeues})"
            mailbox.post(Ended(self.assignment.number, "failed", told))


class _Requeue:
    """Waits for SLURM's signal, and stops the job then."""

    def __init__(self) -> None:
        self.asked = False

    def wait(self, orders: Orders) -> None:
        signal.sigwait({SIGNAL})
        self.asked = True
        orders.obey("requeue")


def _job_id() -> str:
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def _preempted(job: str) -> bool:
    """Whether more urgent work takes the place of a job: one that ends by itself then is not requeued by SLURM."""
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, timeout=60).stdout
    return re.search(r"PreemptTime=(?!None)\S", shown) is not None


# ---- the driver's side ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Queued:
    """A job as squeue shows it."""

    id: str
    state: str
    name: str

    @property
    def over(self) -> bool:
        return self.state in OVER


class SlurmExecutor(RemoteExecutor):
    """Submits jobs to SLURM.

    What was submitted is found again by its name, which is written down before it is submitted: a driver that is killed
    at any moment leaves no job that the next one does not know.

    Args:
        folder: of the sweep.
        settings: of the launcher, checked.
    """

    def __init__(self, folder: Path, settings: SlurmSettings) -> None:
        super().__init__(folder, settings.jobs, settings.cpus_per_task, settings.gpus_per_node, settings.poll_seconds)
        self._settings = settings
        self._queue = dict[str, _Queued]()  # by the name of the job's folder
        self._adopted: set[int] = set()
        self._missed: set[int] = set()
        if os.path.lexists(self.folder):
            make_folder_below(self.folder.parent, self.folder.name)  # it is no link
            self._look()

    def submit(self, assignments: Sequence[Assignment]) -> None:
        for start in range(0, len(assignments), LARGEST_ARRAY):
            self._submit(assignments[start : start + LARGEST_ARRAY])

    def _submit(self, assignments: Sequence[Assignment]) -> None:
        import submitit

        name = f"{self.folder.parent.name}-{secrets.token_hex(8)}"
        slugs = [assignment.folder.name for assignment in assignments]
        place = self._new_folder(name)
        written = self.folder / f"{name}.array"
        write_below(self.folder, written.name, json.dumps(slugs))
        executor = submitit.AutoExecutor(place, cluster="slurm")
        executor.update_parameters(**_of_submitit(self._settings, name))
        work = [Submission(one, self.folder, self._settings.max_requeues) for one in assignments]
        with _refusals(self._settings, written):
            jobs = executor.map_array(Submission.__call__, work)
        for slug, job in zip(slugs, jobs, strict=True):
            self._queue[slug] = _Queued(str(job.job_id), "PENDING", name)
        what = f"array {jobs[0].job_id.partition('_')[0]} of {len(jobs)} jobs" if len(jobs) > 1 else jobs[0].job_id
        echo(f"submitted to SLURM: {what} (squeue shows them as {name})", flush=True)

    def adopt(self, assignment: Assignment, mailbox: Mailbox) -> bool:
        queued = self._queue.get(assignment.folder.name)
        said = mailbox.collect()
        if queued is None or queued.over or (said and isinstance(said[-1], Ended)):
            return False
        self._adopted.add(assignment.number)
        echo(f"{assignment.folder.name}: is with SLURM already, as {queued.id}", flush=True)
        return True

    def gone(self, jobs: Iterable[Assignment]) -> Mapping[int, str]:
        if not self._look():
            return {}
        found = {}
        for job in jobs:
            queued = self._queue.get(job.folder.name)
            if queued is not None and not queued.over:
                self._missed.discard(job.number)
            elif job.number in self._missed:  # twice: a job that is requeued may be absent for a moment
                found[job.number] = self._last_words(job, queued)
            else:
                self._missed.add(job.number)
        return found

    def cancel(self, jobs: Sequence[Assignment], waiting_only: bool) -> None:
        queue = [self._queue.get(job.folder.name) for job in jobs]
        ids = [queued.id for queued in queue if queued is not None and _JOB_ID.fullmatch(queued.id)]
        if ids:
            subprocess.run(["scancel", *(["--state=PENDING"] if waiting_only else []), *ids], capture_output=True)

    def close(self) -> None:
        """Leave the jobs alone: the next driver finds them."""

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _look(self) -> bool:
        """Ask SLURM for the jobs of this sweep; return whether it answered."""
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
                if slug not in self._queue or self._queue[slug].over:  # a later submission of the same job
                    self._queue[slug] = _Queued(job, state, name)
        return True

    def _submitted(self) -> dict[str, list[str]]:
        """Return the names of the jobs of each submission of this sweep, as they were written down before.

        A file of another name or content is ignored: it would give SLURM jobs of the user to this sweep, which cancels them.
        """
        own = re.compile(re.escape(self.folder.parent.name) + r"-[0-9a-f]{8,16}\.array")
        found = {}
        for entry in sorted(os.listdir(self.folder)):
            if own.fullmatch(entry):
                try:
                    slugs = read_json(self.folder, entry)
                    if not isinstance(slugs, list):
                        raise RecordError(f"{self.folder / entry}: this is not a list of jobs")
                    found[entry.removesuffix(".array")] = [plain_name(slug, "the name of a job") for slug in slugs]
                except (OSError, UserError) as error:
                    log.warning("%s; this submission is ignored", error)
        return found

    def _new_folder(self, name: str) -> Path:
        """Make the folder in which submitit keeps the files of a submission, which are pickles.

        It is made for this submission and has a random name, so that no file that lay in the sweep before is ever loaded.
        """
        make_folder_below(self.folder.parent, f"{self.folder.name}/slurm")
        place = self.folder / "slurm" / name
        place.mkdir(mode=0o700)
        return place

    def _last_words(self, job: Assignment, queued: _Queued | None) -> str:
        if queued is None:
            return "its SLURM job is not in the queue any more, and left no word"
        file = f"{queued.name}/{queued.id}_0_log.out"
        try:
            with open_below(self.folder, f"slurm/{file}") as opened:
                opened.seek(max(os.fstat(opened.fileno()).st_size - MAX_LOG_TAIL_BYTES, 0))
                tail = opened.read(MAX_LOG_TAIL_BYTES).decode(errors="replace").strip().splitlines()[-6:]
        except (OSError, UserError):
            tail = [f"{self.folder / 'slurm' / file}: there is no such log"]
        return "\n".join([*tail, f"its SLURM job {queued.id} ended: {queued.state}"])


def _of_submitit(settings: SlurmSettings, name: str) -> dict[str, Any]:
    """Return the settings as submitit wants them."""
    asked = {
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
        "tasks_per_node": 1,  # ranks of a job are processes of its task
        "slurm_signal_delay_s": settings.signal_delay_s,
        "slurm_additional_parameters": {"requeue": True, **settings.additional_parameters},
        "slurm_stderr_to_stdout": True,
    }
    return always | {key: value for key, value in asked.items() if value is not None}


@contextmanager
def _refusals(settings: SlurmSettings, written: Path) -> Iterator[None]:
    """Turn what sbatch says into an error for people, and take back what was written of the submission."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with redirect_stderr(StringIO()):  # submitit prints what it raises
            yield
    except (FailedJobError, FailedSubmissionError) as error:
        written.unlink()
        said = "; ".join(re.sub(r"^sbatch: (error: )?", "", line) for line in str(error).splitlines() if line.strip())
        advice = ""
        if "partition" in said:
            advice = (
                f"\nhydra.launcher.partition={settings.partition}: {nearest(settings.partition or '', _partitions())}"
            )
        raise UserError(f"SLURM refuses the jobs: {said}{advice}") from error


def _partitions() -> list[str]:
    return subprocess.run(["sinfo", "--noheader", "--format=%R"], capture_output=True, text=True).stdout.split()


def slurm(given: Mapping[str, Any]) -> Callable[[Path], SlurmExecutor]:
    """Return what makes the executor of a sweep's folder.

    Args:
        given: the settings of the launcher.

    Raises:
        UserError: if a setting is unknown or out of its range, or if no jobs can be submitted from this machine.
    """
    settings = check_section(SlurmSettings, given, "hydra.launcher")
    try:
        import submitit  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f'hydra/launcher=submitit_slurm needs {error.name}: pip install -c constraints.txt -e ".[slurm]"'
        ) from error
    for program in ("sbatch", "squeue", "scancel"):
        if shutil.which(program) is None:
            raise UserError(
                f"hydra/launcher=submitit_slurm: there is no {program} here; jobs are submitted from a machine of the "
                "cluster, such as its login node"
            )
    return lambda folder: SlurmExecutor(folder, settings)
