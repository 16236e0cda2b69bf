"""A group of jobs trained as one model: Lightning's loops run once, and each step is a step of all members."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from itertools import islice
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from src.compat.group_loop import install_group_loop, loops_state, on_device
from src.compat.loop_position import can_save_mid_epoch
from src.core.batches import Batch
from src.core.signals import shutdown_request
from src.datamodules.base import DataModule
from src.fused.evaluation import GroupMetrics
from src.fused.member import Member
from src.fused.member_log import MembersLog
from src.fused.population.population import Population
from src.fused.stacked_loader import StackedLoader
from src.fused.write_interval import WriteInterval
from src.models.summary import parameter_bytes
from src.run_store.atomic_write import batch_writes, flush_writes

MAX_DEFERRED_BYTES = 2**28
"""Size of the parameters of all members up to which the best states may stay in memory until the next write."""


class Group:
    """Trains, evaluates and saves the members of a group.

    Args:
        members: all at the same step of their runs.
        trainer: made from the config of one of them.
        datamodule: datamodule of all members.
        checkpoints: checkpoints of each member; None for a new run.
        log: log of the members.
        on_failed: called with a member that failed and its error.
        on_finished: called with a member that has finished.
    """

    def __init__(
        self,
        members: Sequence[Member],
        trainer: L.Trainer,
        datamodule: DataModule,
        checkpoints: Sequence[dict[str, Any] | None],
        log: MembersLog,
        on_failed: Callable[[Member, Exception], None],
        on_finished: Callable[[Member], None],
    ) -> None:
        self.members = list(members)
        self.trainer = trainer
        self.datamodule = datamodule
        self._checkpoints = list(checkpoints)
        self._log = log
        self._on_failed, self._on_finished = on_failed, on_finished
        datamodule.attach(trainer)  # its splits are moved to the training device
        self.loader = StackedLoader(datamodule, [member.config.datamodule.seed for member in members])
        self._losses: list[Tensor] = []
        self._loops_at: tuple[int, dict[str, Any]] | None = None
        self._write_interval = WriteInterval(members[0].min_interval, len(members))
        self._defer_write = False
        self._weight_sum: Tensor | float = 0.0

    def train(self) -> None:
        """Train all members to their ends; a member that fails, stops early or finishes leaves the group.

        Raises:
            KeyboardInterrupt: if a stop was requested; each member has saved its state.
        """
        trainer = self.trainer
        install_group_loop(trainer, self)
        trainer.callbacks = [_Hooks(self)]  # type: ignore[attr-defined]
        if (first := self._checkpoints[0]) is not None:
            trainer.fit_loop.load_state_dict(first["loops"]["fit_loop"])
        trainer.fit(_Module(self), self.loader, self.datamodule.loader("val"))
        self.finish(self.active)

    @property
    def active(self) -> list[Member]:
        return [member for member in self.members if not member.closed]

    def for_each(self, action: Callable[[Member], Any], members: Sequence[Member] | None = None) -> None:
        """Call a function with each active member, or with some of them; an error in one does not affect the others."""
        stopped: BaseException | None = None
        for member in self.active if members is None else members:
            try:
                with self._log.for_member(member.folder):
                    action(member)
            except KeyboardInterrupt as stop:
                stopped = stop
            except Exception as error:
                self._fail(member, error)
        if stopped is not None:
            raise stopped

    def _fail(self, member: Member, error: Exception) -> None:
        member.fail(error)
        flush_writes()
        self._log.remove(member.folder)
        self._on_failed(member, error)

    # ---- Course of a run -------------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Make optimizers and schedules, and stack the tensors of all members."""
        plugin, device = self.trainer.precision_plugin, self.trainer.strategy.root_device
        checkpoints = dict(zip(self.members, self._checkpoints, strict=True))

        def set_up(member: Member) -> None:
            plugin.convert_module(member.model)
            member.model.to(device)
            member.set_up(checkpoints.pop(member))

        self.for_each(set_up)
        self._checkpoints, active = [], self.active
        if not active:
            raise RuntimeError("no member could be set up")
        positions = [self.members.index(member) for member in active]
        self.population = Population([m.model for m in active], [m.optimizer for m in active], positions)
        self.loader.select(positions)
        with plugin.forward_context():  # metrics are accumulated in the precision of the models
            self._metrics = GroupMetrics(self.members)
        initial = _generator_state(device)
        for member in active:
            member.connect(
                self._loops, lambda: self._defer_write, lambda: not torch.equal(initial, _generator_state(device))
            )

    def _loops(self) -> dict[str, Any]:
        """Return the progress of the loops, which is read once a step."""
        step = self.trainer.global_step
        if self._loops_at is None or self._loops_at[0] != step:
            self._loops_at = step, loops_state(self.trainer)
        return self._loops_at[1]

    def start(self) -> None:
        self._compact()
        self.for_each(lambda member: member.call("on_train_start"))
        self.for_each(lambda member: member.model.train())

    def step(self, batch: Batch) -> Tensor:
        """Take one optimizer step of every member; return the losses [M]."""
        with self.trainer.precision_plugin.forward_context():
            losses = self.population.step(batch, stacked=self.loader.stacked)
        weights = self.population.weight_sum
        weights = (
            weights.double() if isinstance(weights, Tensor) else weights
        )  # a long sum in 32 bits would stop growing
        self._losses.append(losses.double() * weights)
        self._weight_sum = self._weight_sum + weights
        log_interval, step = self.members[0].config.trainer.log_every_n_steps, self.trainer.global_step + 1
        if log_interval and step % log_interval == 0:
            for member, loss in zip(self._active_rows(), losses.tolist(), strict=True):
                member.model._log({"train/loss_step": loss}, step - 1)
        return losses

    def end_step(self, index: int, epoch_ends: bool) -> None:
        """Step the schedules after the `index`-th batch of an epoch."""
        stepped = [member.step_schedules("step", index) for member in self.active]
        if epoch_ends:
            stepped += [member.step_schedules("epoch", self.trainer.current_epoch) for member in self.active]
        if any(stepped):
            self.population.rates_changed()

    def save_if_due(self) -> None:
        """Save the states of the members between two steps, if a checkpoint is due or a stop was requested.

        Raises:
            KeyboardInterrupt: if a stop was requested.
        """
        active = self.active
        if not active or not (shutdown_request.received or active[0].is_due()) or not can_save_mid_epoch(self.trainer):
            return
        self._distribute_losses()
        with batch_writes():
            self.for_each(Member.save_between_steps)
        if shutdown_request.received:
            raise KeyboardInterrupt

    def _active_rows(self) -> list[Member]:
        """Return the members in the order of the rows of the population."""
        return [self.members[position] for position in self.population.members]

    def _distribute_losses(self) -> None:
        """Add the training losses since the last call to the meter of each member."""
        if not self._losses:
            return
        totals = torch.stack(self._losses).cpu()
        weights = self._weight_sum
        counts = weights.tolist() if isinstance(weights, Tensor) else [weights] * totals.size(1)
        for member, column, count in zip(self._active_rows(), totals.T.tolist(), counts, strict=True):
            meter = member.model._meter("train")
            total, previous_count = meter.partial_sums()
            for loss in column:
                total += loss
            meter.load_partial_sums([total, previous_count + count])
        self._losses, self._weight_sum = [], 0.0

    def validate(self, batch: Batch) -> None:
        outputs = self.population.outputs(batch, False)
        self._metrics.update(self._active_rows(), outputs, batch.targets)

    def end_validation(self) -> None:
        rows = self._active_rows()
        for member, meter in zip(rows, self._metrics.meters(rows), strict=True):
            member.model.meters["val"] = meter
        self.for_each(lambda member: member.model.on_validation_epoch_end())
        self.for_each(lambda member: member.call("on_validation_end"))

    def end_epoch(self) -> None:
        self._distribute_losses()
        self._loops_at = None  # the epoch counts as processed now
        is_small = len(self.members) * parameter_bytes(self.members[0].model) <= MAX_DEFERRED_BYTES
        self._defer_write = is_small and self._write_interval.should_defer()
        with nullcontext() if self._defer_write else self._write_interval.measure_write(), batch_writes():
            self.for_each(Member.end_epoch)
        self.population.rates_changed()  # plateau schedules have stepped
        if all(member.trainer.should_stop for member in self.active):
            self.trainer.should_stop = True

    def start_epoch(self) -> None:
        """Finish the members that have stopped, and start an epoch of the others."""
        self.finish([member for member in self.active if member.trainer.should_stop])
        self._compact()
        for member in self.active:
            member.trainer.scheduler_progress.reset_on_run()
        self.for_each(lambda member: member.call("on_train_epoch_start"))

    def finish(self, members: Sequence[Member]) -> None:
        """End the training of members: test them, and record the results."""
        if not members:
            return
        with batch_writes():
            self.for_each(Member.end_training, members)
        members = [member for member in members if not member.closed]
        batches = [on_device(self.trainer, batch) for batch in self._test_batches()]
        results = self._test_together(members, batches)

        tested: list[Member] = []

        def test(member: Member) -> None:
            member.test(batches, *results.get(member, (None, None)))
            tested.append(member)

        def end(member: Member) -> None:
            member.close(0)
            self._log.remove(member.folder)
            self._on_finished(member)

        try:
            with ExitStack() as locks:  # held until the records are on the disk
                for member in members:
                    locks.enter_context(member.folder.keep_locked())
                with batch_writes():
                    self.for_each(test, members)
        except KeyboardInterrupt:
            self.for_each(end, tested)
            raise
        self.for_each(
            end, tested
        )  # not reached if the records could not be written: the members have not finished then
        shutdown_request.deferrable = bool(self.active)

    def _test_batches(self) -> Iterator[Batch]:
        loader, limit = self.datamodule.loader("test"), self.members[0].config.trainer.limit_test_batches
        return islice(loader, int(limit * len(loader)) if isinstance(limit, float) else limit)

    def _test_together(
        self, members: Sequence[Member], batches: Sequence[Batch]
    ) -> dict[Member, tuple[list[Tensor], Any]]:
        """Return outputs for each batch and a meter of each member, if they can be computed for all members at once."""
        rows = self._active_rows()
        if not self._metrics.vectorized or len(members) < 2 or list(members) != rows:
            return {}
        outputs = []
        with self.trainer.precision_plugin.forward_context():
            for batch in batches:
                outputs.append(self.population.outputs(batch, False))
                self._metrics.update(rows, outputs[-1], batch.targets)
        meters = self._metrics.meters(rows)
        return {member: ([batch[row] for batch in outputs], meters[row]) for row, member in enumerate(rows)}

    def _compact(self) -> None:
        """Remove members that have left the group from the population and the loader."""
        positions = [position for position, member in enumerate(self.members) if not member.closed]
        if positions and tuple(positions) != tuple(self.population.members):
            self.population.select(positions)
            self.loader.select(positions)
        if not positions:
            self.trainer.should_stop = True


class _Module(L.LightningModule):
    """Model of Lightning's trainer; its steps are taken by the loop of the group."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self._group = group

    def configure_optimizers(self) -> None:
        self._group.set_up()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        raise AssertionError("the loop of the group takes the step")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        raise AssertionError("the loop of the group takes the step")


class _Hooks(Callback):
    def __init__(self, group: Group) -> None:
        self._group = group

    def on_train_start(self, *_: Any) -> None:
        self._group.start()

    def on_train_epoch_start(self, *_: Any) -> None:
        self._group.start_epoch()

    def on_validation_epoch_end(self, *_: Any) -> None:
        self._group.end_validation()

    def on_train_epoch_end(self, *_: Any) -> None:
        self._group.end_epoch()


def _generator_state(device: torch.device) -> Tensor:
    """Return the state of the random number generator of a device."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
