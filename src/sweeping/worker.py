"""What a worker process does: one job, on its frozen config, in its own folder, reporting to the driver of the sweep."""

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

from src.config.trust import trust_of
from src.core.console import echo, escape_diagnostics
from src.core.errors import UserError
from src.core.files import append_below, is_file_below, make_folder_below, remove_below
from src.run_store.best_epoch import best_so_far
from src.run_store.run_folder import RunFolder
from src.sweeping.messages import PRUNE, Assignment, Ended, Event, Progress


def work(assignment: Assignment, channel: Connection, train_group: "TrainGroup | None" = None) -> None:
    """Do one job and report it; the process ends with it.

    Args:
        assignment: the job.
        channel: events go out, "stop" and "prune" come in. When its other end closes, the driver is dead, and so is this
            process with all that it started.
        train_group: trains a job that has members.
    """
    os.setsid()  # one signal reaches it with all that it starts, and the terminal's Ctrl-C none of them
    prepare(assignment)
    orders = Orders(channel.send)
    threading.Thread(target=_listen, args=(channel, orders), daemon=True).start()
    orders.send(carry_out(assignment, orders, train_group))
    if "wandb" in sys.modules:
        atexit._run_exitfuncs()  # a forked process ends without, and W&B's temporary folders would stay


class Orders:
    """What a job is asked while it runs, and what it tells of itself.

    Args:
        send: takes the events.
    """

    def __init__(self, send: Callable[[Event], None]) -> None:
        self._send = send
        self.stopping: str | None = None
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def outcome(self) -> str:
        """How a job that was stopped has ended."""
        return "pruned" if self.stopping == PRUNE else "interrupted"

    def send(self, event: Event) -> None:
        with suppress(OSError):
            self._send(event)

    def obey(self, order: str) -> None:
        """Stop the job; it saves a checkpoint."""
        self.stopping = order
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
        else:
            os.kill(os.getpid(), signal.SIGINT)


TrainGroup = Callable[[Assignment, Orders], Ended]
"""Trains the members of a job in this process."""


def _listen(channel: Connection, orders: Orders) -> None:
    while True:
        try:
            order = channel.recv()
        except (EOFError, OSError):
            os.killpg(0, signal.SIGKILL)
        orders.obey(order)


def carry_out(assignment: Assignment, orders: Orders, train_group: "TrainGroup | None" = None) -> Ended:
    """Run a job in this process, or a job of several processes in those that it starts, and say how it has ended."""
    try:
        if assignment.members:
            assert train_group is not None
            return train_group(assignment, orders)
        return (_alone if assignment.processes == 1 else _in_a_fresh_process)(assignment, orders)
    except KeyboardInterrupt:
        return _stopped(assignment, orders)
    except BaseException as error:
        echo(traceback.format_exc(), end="", file=sys.stderr)
        return Ended(assignment.number, "failed", told(error))


def told(error: BaseException) -> str:
    """Return what is shown of an error: of a user's mistake its text, else the traceback."""
    return str(error) if isinstance(error, UserError) else "".join(traceback.format_exception(error))


def prepare(assignment: Assignment) -> None:
    """Give this process the environment of a job, the file for what it prints, and Python's answer to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # which Ray blocks in what it starts
    if assignment.environment is not None:
        os.environ.clear()
        os.environ.update(assignment.environment)
    if "SLURM_NTASKS" in os.environ:
        os.environ["SLURM_JOB_NAME"] = "interactive"  # Lightning starts ranks by itself, and does not requeue
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
    faulthandler.enable(file=2)  # a crash in native code leaves a trace


def _stopped(assignment: Assignment, orders: Orders) -> Ended:
    """Return how a job has ended that was told to; that it was pruned stands in its record, should the driver die now."""
    folder = begun(assignment.folder)
    if orders.outcome == "pruned" and folder is not None and folder.record.get("status") == "interrupted":
        folder.update(status="pruned", **best_so_far(folder))
    return Ended(assignment.number, orders.outcome)


def _alone(assignment: Assignment, orders: Orders) -> Ended:
    """Run a job of one process, here."""
    import torch

    from src.config.validate import check
    from src.sweeping.worker_callback import Reporter
    from src.training.run import resume, run

    if assignment.threads is not None:
        torch.set_num_threads(assignment.threads)
    config = check(assignment.config)
    reporter = Reporter(assignment.number, orders.send)
    record = begun(assignment.folder)
    if record is None:
        run(config, assignment.folder, verbose=False, callbacks=[reporter], command=assignment.command)
    elif record.record.get("status") != "finished":
        resume(config, record, verbose=False, callbacks=[reporter])
    return Ended(assignment.number, "finished")


def begun(folder: Path) -> RunFolder | None:
    """Return a run that was begun before; one that was killed before it had written its record is removed.

    Args:
        folder: of a job, directly below its sweep.

    Raises:
        UserError: if something stands in its place that is not the beginning of a run.
    """
    if folder.is_symlink():
        raise UserError(f"{folder}: this is a link; the folder of a job lies within its sweep")
    if is_file_below(folder, "run.json"):
        return RunFolder.open(folder)
    if os.path.lexists(folder):
        _remove_beginning(folder)
    return None


_BEGINNING = re.compile(r"config\.yaml|\.(config\.yaml|run\.json)(\.[0-9a-f]+)?\.partial|\.nfs[0-9a-f]+")
"""Files that a run may have left that was killed before it had written its record."""


def _remove_beginning(folder: Path) -> None:
    """Remove a run folder without a record, and never more than what such a run leaves."""
    if not folder.is_dir():
        raise UserError(f"{folder}: this is not a folder")
    names = []
    for entry in os.scandir(folder):
        if not _BEGINNING.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
            raise UserError(f"{folder}: there is no run.json here, but {entry.name!r}, which is not removed")
        names.append(entry.name)
    for name in names:
        remove_below(folder.parent, f"{folder.name}/{name}")
    folder.rmdir()


def _in_a_fresh_process(assignment: Assignment, orders: Orders) -> Ended:
    """Run a job of several processes as a command of its own on its frozen config.

    Lightning starts the other ranks with the words of the first, which must not be those of the whole sweep.
    """
    record = begun(assignment.folder)
    if record is None:
        RunFolder.create(assignment.folder, assignment.config, assignment.command).interrupt()
    else:
        record.set_config(assignment.config)  # the frozen one, whatever config.yaml holds by now
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "GRIDLIGHT_LIFELINE": "1"}
    environment |= trust_of(assignment.config)  # the driver has decided about its classes
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "GRIDLIGHT_RUN_FOLDER"):
        environment.pop(name, None)
    if assignment.threads is not None:
        environment["OMP_NUM_THREADS"] = str(assignment.threads)
    command = [sys.executable, "-m", "src.train", f"resume={assignment.folder}"]
    orders.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    watch = threading.Thread(target=_report_from_disk, args=(assignment, orders), daemon=True)
    watch.start()
    code = orders.process.wait()
    if code == 0:
        return Ended(assignment.number, "finished")
    record = RunFolder.open(assignment.folder)
    if orders.stopping:
        return _stopped(assignment, orders)
    if record.record.get("status") == "failed":
        return Ended(assignment.number, "failed", str(record.record.get("error")))
    raise RuntimeError(f"{' '.join(command)} ended with {ending(code)}")


def _report_from_disk(assignment: Assignment, orders: Orders) -> None:
    """Report the epochs of a job that runs in another process, from what it has logged."""
    told, epochs = -1, assignment.config["trainer"]["max_epochs"]
    while True:
        time.sleep(1.0)
        rows = RunFolder(assignment.folder, {}).metrics()
        known = (row.get("epoch") for row in rows if "train/loss" in row)  # the last of an epoch
        epoch = max((epoch for epoch in known if isinstance(epoch, int)), default=-1)
        if epoch > told:
            told = epoch
            latest = {k: v for row in rows if row.get("epoch") == epoch for k, v in row.items() if "/" in k}
            orders.send(Progress(assignment.number, epoch, epochs, latest))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ending(code: int) -> str:
    """Say how a process ended.

    Args:
        code: exit code; negative: the signal that killed it.
    """
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name} (killed, perhaps because memory ran out)" if name == "SIGKILL" else name
