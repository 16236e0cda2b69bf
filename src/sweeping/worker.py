"""A worker process of a sweep: run one job on its frozen config in its run folder, and report to the driver of the sweep."""

import atexit
import faulthandler
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from src.config.trust import trust_environment
from src.core.console import echo, escape_diagnostics
from src.core.errors import UserError
from src.core.files import append_below, confine, is_file_below, make_folder_below, remove_below
from src.run_store.best_epoch import best_so_far
from src.run_store.run_folder import RunFolder
from src.sweeping.messages import PRUNE, Assignment, Ended, Event, Progress


def work(assignment: Assignment, channel: Connection, train_group: "TrainGroup | None" = None) -> None:
    """Run one job and report how it ended.

    Args:
        assignment: the job.
        channel: sends events, receives "stop" and "prune". When its other end closes, the driver has died, and this process
            kills itself with all processes that it started.
        train_group: trains a job that has members.
    """
    os.setsid()  # a process group of its own: killed with all that it starts, and not reached by the terminal's Ctrl-C
    prepare(assignment)
    control = WorkerControl(channel.send)
    threading.Thread(target=_listen, args=(channel, control), daemon=True).start()
    control.send(carry_out(assignment, control, train_group))
    if "wandb" in sys.modules:
        atexit._run_exitfuncs()  # a forked process skips them, and W&B's temporary folders would remain


class WorkerControl:
    """The connection of a running job to its driver: sends events, receives control messages.

    Args:
        send: called with each event.
    """

    def __init__(self, send: Callable[[Event], None]) -> None:
        self._send = send
        self.stopping: str | None = None
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def outcome(self) -> str:
        """Status of a job that was stopped."""
        return "pruned" if self.stopping == PRUNE else "interrupted"

    def send(self, event: Event) -> None:
        with suppress(OSError):
            self._send(event)

    def stop(self, message: str) -> None:
        """Stop the job, which saves a checkpoint, as the control message requests."""
        self.stopping = message
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
        else:
            os.kill(os.getpid(), signal.SIGINT)


TrainGroup = Callable[[Assignment, WorkerControl], Ended]
"""Trains the members of a job in this process."""


def _listen(channel: Connection, control: WorkerControl) -> None:
    while True:
        try:
            message = channel.recv()
        except (EOFError, OSError):
            os.killpg(0, signal.SIGKILL)
        control.stop(message)


def carry_out(assignment: Assignment, control: WorkerControl, train_group: "TrainGroup | None" = None) -> Ended:
    """Run a job in this process, or in a command of its own if it needs several processes, and return how it ended."""
    try:
        if assignment.members:
            assert train_group is not None
            return train_group(assignment, control)
        return (_run_here if assignment.processes == 1 else _run_as_command)(assignment, control)
    except KeyboardInterrupt:
        return _stopped(assignment, control)
    except BaseException as error:
        echo(traceback.format_exc(), end="", file=sys.stderr)
        return Ended(assignment.number, "failed", error_text(error))


def error_text(error: BaseException) -> str:
    """Return the text to report for an error: the message of a `UserError`, otherwise the traceback."""
    return str(error) if isinstance(error, UserError) else "".join(traceback.format_exception(error))


def prepare(assignment: Assignment) -> None:
    """Set up this process for a job: its environment, the file for its output, and Python's handler of Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it in its workers
    if assignment.environment is not None:
        os.environ.clear()
        os.environ.update(assignment.environment)
    if "SLURM_NTASKS" in os.environ:
        os.environ["SLURM_JOB_NAME"] = "interactive"  # Lightning then starts ranks itself and does not requeue
    if assignment.devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(assignment.devices)
    if assignment.output is not None:
        sweep = assignment.output.parent.parent
        make_folder_below(sweep, assignment.output.parent.name)
        with append_below(sweep, assignment.output.relative_to(sweep)) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = (
            os.fdopen(number, "w", buffering=1, closefd=False, errors="backslashreplace") for number in (1, 2)
        )
    escape_diagnostics()
    faulthandler.enable(file=2)  # print a traceback on a crash in native code


def _stopped(assignment: Assignment, control: WorkerControl) -> Ended:
    """Return how a stopped job ended; write to its record that it was pruned, in case the driver dies now."""
    folder = open_started_run(assignment.folder)
    if control.outcome == "pruned" and folder is not None and folder.record.get("status") == "interrupted":
        folder.update(status="pruned", **best_so_far(folder))
    return Ended(assignment.number, control.outcome)


def _run_here(assignment: Assignment, control: WorkerControl) -> Ended:
    """Run a job in this process."""
    import torch

    from src.config.validate import check
    from src.sweeping.worker_callback import Reporter
    from src.training.run import resume, run

    if assignment.threads is not None:
        torch.set_num_threads(assignment.threads)
    config = check(assignment.config)
    reporter = Reporter(assignment.number, control.send)
    record = open_started_run(assignment.folder)
    if record is None:
        run(config, assignment.folder, verbose=False, callbacks=[reporter], command=assignment.command)
    elif record.record.get("status") != "finished":
        resume(config, record, verbose=False, callbacks=[reporter])
    return Ended(assignment.number, "finished")


def open_started_run(folder: Path) -> RunFolder | None:
    """Return the run folder of a job that was started before; remove one that was killed before it wrote its record.

    Args:
        folder: absolute path of the folder of a job, directly below its sweep.

    Raises:
        UserError: if there is something else in its place.
    """
    confine(folder)
    if folder.is_symlink():
        raise UserError(f"{folder}: this is a link; the folder of a job is within its sweep")
    if is_file_below(folder, "run.json"):
        return RunFolder.open(folder)
    if os.path.lexists(folder):
        _remove_without_record(folder)
    return None


_FIRST_FILES = re.compile(r"config\.yaml|\.(config\.yaml|run\.json)(\.[0-9a-f]+)?\.partial|\.nfs[0-9a-f]+")
"""Files that a run may leave when it is killed before it wrote its record."""


def _remove_without_record(folder: Path) -> None:
    """Remove a run folder without a record, and nothing but the files that such a run leaves."""
    if not folder.is_dir():
        raise UserError(f"{folder}: this is not a folder")
    names = []
    for entry in os.scandir(folder):
        if not _FIRST_FILES.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
            raise UserError(f"{folder}: there is no run.json here, but {entry.name!r}, which is not removed")
        names.append(entry.name)
    for name in names:
        remove_below(folder.parent, f"{folder.name}/{name}")
    folder.rmdir()


def _run_as_command(assignment: Assignment, control: WorkerControl) -> Ended:
    """Run a job of several processes as a command of its own, on its frozen config.

    Lightning starts the other ranks with the command line of the first, which must not be that of the whole sweep.
    """
    record = open_started_run(assignment.folder)
    if record is None:
        RunFolder.create(assignment.folder, assignment.config, assignment.command).interrupt()
    else:
        record.set_config(assignment.config)  # the frozen one, even if config.yaml was changed
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "GRIDLIGHT_PARENT_DEATH": "1",
    }
    environment |= trust_environment(assignment.config)  # the driver has checked its classes
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "GRIDLIGHT_RUN_FOLDER"):
        environment.pop(name, None)
    if assignment.threads is not None:
        environment["OMP_NUM_THREADS"] = str(assignment.threads)
    command = [sys.executable, "-m", "src.train", f"resume={assignment.folder}"]
    control.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    watch = threading.Thread(target=_report_from_disk, args=(assignment, control), daemon=True)
    watch.start()
    code = control.process.wait()
    if code == 0:
        return Ended(assignment.number, "finished")
    record = RunFolder.open(assignment.folder)
    if control.stopping:
        return _stopped(assignment, control)
    if record.record.get("status") == "failed":
        return Ended(assignment.number, "failed", str(record.record.get("error")))
    raise RuntimeError(f"{' '.join(command)} ended with {ending(code)}")


def _report_from_disk(assignment: Assignment, control: WorkerControl) -> None:
    """Report the epochs of a job that runs in another process, from its metrics file."""
    reported, epochs = -1, assignment.config["trainer"]["max_epochs"]
    while True:
        time.sleep(1.0)
        rows = RunFolder(assignment.folder, {}).metrics()
        logged = (row.get("epoch") for row in rows if "train/loss" in row)  # the last row of an epoch
        epoch = max((epoch for epoch in logged if isinstance(epoch, int)), default=-1)
        if epoch > reported:
            reported = epoch
            latest = {k: v for row in rows if row.get("epoch") == epoch for k, v in row.items() if "/" in k}
            control.send(Progress(assignment.number, epoch, epochs, latest))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ending(code: int) -> str:
    """Return a description of how a process ended.

    Args:
        code: exit code; a negative one is the signal that killed it.
    """
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name} (killed, perhaps because memory ran out)" if name == "SIGKILL" else name
