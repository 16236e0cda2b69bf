"""A group of jobs trained as one: Lightning's trainer runs its loops once, and a step of them is a step of all members."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from itertools import islice
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from src.compat.group_loop import install_group_loop, loops_state, on_device
from src.compat.loop_position import between_steps
from src.core.batches import Batch
from src.core.signals import stop_request
from src.datamodules.base import DataModule
from src.fused.evaluation import Measuring
from src.fused.member import Member
from src.fused.member_log import MembersLog
from src.fused.population.population import Population
from src.fused.stacked_loader import StackedLoader
from src.fused.write_interval import Pauses
from src.models.summary import bytes_of
from src.run_store.atomic_write import replaced_together, settle

SMALL = 2**28
"""Bytes of parameters of all members up to which the best states may wait in memory."""


class Group:
    """The members of a group, and what is done with all of them.

    Args:
        members: at the same step of their runs.
        trainer: made from the config of one of them.
        datamodule: of all.
        checkpoints: of the members that go on with one.
        log: of the members.
        failed: called with a member that failed, and why.
        ended: called with a member that has come to its end.
    """

    def __init__(
        self,
        members: Sequence[Member],
        trainer: L.Trainer,
        datamodule: DataModule,
        checkpoints: Sequence[dict[str, Any] | None],
        log: MembersLog,
        failed: Callable[[Member, Exception], None],
        ended: Callable[[Member], None],
    ) -> None:
        self.members = list(members)
        self.trainer = trainer
        self.datamodule = datamodule
        self._checkpoints = list(checkpoints)
        self._log = log
        self._failed, self._ended = failed, ended
        datamodule.trainer = trainer  # its splits go to the device that trains
        self.loader = StackedLoader(datamodule, [member.config.datamodule.seed for member in members])
        self._losses: list[Tensor] = []
        self._loops_at: tuple[int, dict[str, Any]] | None = None
        self._pauses = Pauses(members[0].pause, len(members))
        self._too_soon = False
        self._counts: Tensor | float = 0.0

    def train(self) -> None:
        """Train all members to their ends; those that fail, stop early or are done leave the group.

        Raises:
            KeyboardInterrupt: if it was asked to stop; each member has saved its state.
        """
        trainer = self.trainer
        install_group_loop(trainer, self)
        trainer.callbacks = [_Hooks(self)]  # type: ignore[attr-defined]
        if (first := self._checkpoints[0]) is not None:
            trainer.fit_loop.load_state_dict(first["loops"]["fit_loop"])
        trainer.fit(_Module(self), self.loader, self.datamodule.loader("val"))
        self.leave(self.living)

    @property
    def living(self) -> list[Member]:
        return [member for member in self.members if not member.gone]

    def each(self, what: Callable[[Member], Any], members: Sequence[Member] | None = None) -> None:
        """Do something with the members that live, or some of them; one that fails leaves the others alone."""
        stopped: BaseException | None = None
        for member in self.living if members is None else members:
            try:
                with self._log.about(member.folder):
                    what(member)
            except KeyboardInterrupt as stop:
                stopped = stop
            except Exception as error:
                self._fail(member, error)
        if stopped is not None:
            raise stopped

    def _fail(self, member: Member, error: Exception) -> None:
        member.fail(error)
        settle()
        self._log.drop(member.folder)
        self._failed(member, error)

    # ---- the way of a run ------------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Make optimizers and schedules, and stack everything."""
        plugin, device = self.trainer.precision_plugin, self.trainer.strategy.root_device
        checkpoints = dict(zip(self.members, self._checkpoints, strict=True))

        def set_up(member: Member) -> None:
            plugin.convert_module(member.model)
            member.model.to(device)
            member.set_up(checkpoints.pop(member))

        self.each(set_up)
        self._checkpoints, living = [], self.living
        if not living:
            raise RuntimeError("no member could be set up")
        places = [self.members.index(member) for member in living]
        self.population = Population([m.model for m in living], [m.optimizer for m in living], places)
        self.loader.keep(places)
        with plugin.forward_context():  # metrics add up in the models' precision
            self._measuring = Measuring(self.members)
        before = _drawn(device)
        for member in living:
            member.join(self._loops, lambda: self._too_soon, lambda: not torch.equal(before, _drawn(device)))

    def _loops(self) -> dict[str, Any]:
        """Return the progress of the loops, looked up once a step."""
        step = self.trainer.global_step
        if self._loops_at is None or self._loops_at[0] != step:
            self._loops_at = step, loops_state(self.trainer)
        return self._loops_at[1]

    def start(self) -> None:
        self._compact()
        self.each(lambda member: member.call("on_train_start"))
        self.each(lambda member: member.model.train())

    def step(self, batch: Batch) -> Tensor:
        """Take one optimizer step of every member; return the losses [M]."""
        with self.trainer.precision_plugin.forward_context():
            losses = self.population.step(batch, stacked=self.loader.stacked)
        counts = self.population.counted
        counts = counts.double() if isinstance(counts, Tensor) else counts  # a long sum in 32 bits would stall
        self._losses.append(losses.double() * counts)
        self._counts = self._counts + counts
        every, step = self.members[0].config.trainer.log_every_n_steps, self.trainer.global_step + 1
        if every and step % every == 0:
            for member, loss in zip(self._rows(), losses.tolist(), strict=True):
                member.model._log({"train/loss_step": loss}, step - 1)
        return losses

    def end_step(self, index: int, epoch_ends: bool) -> None:
        """Step the schedules after the `index`-th batch of an epoch."""
        stepped = [member.step_schedules("step", index) for member in self.living]
        if epoch_ends:
            stepped += [member.step_schedules("epoch", self.trainer.current_epoch) for member in self.living]
        if any(stepped):
            self.population.rates_changed()

    def save_if_asked(self) -> None:
        """Let the members save their states between two steps, where that is due or the group is to stop.

        Raises:
            KeyboardInterrupt: if it is to stop.
        """
        living = self.living
        if not living or not (stop_request.made or living[0].is_due()) or not between_steps(self.trainer):
            return
        self._hand_out_losses()
        with replaced_together():
            self.each(Member.save_between_steps)
        if stop_request.made:
            raise KeyboardInterrupt

    def _rows(self) -> list[Member]:
        """Return the members in the order of the population's rows."""
        return [self.members[position] for position in self.population.members]

    def _hand_out_losses(self) -> None:
        """Give each member the sums of its training losses so far in this epoch."""
        if not self._losses:
            return
        totals = torch.stack(self._losses).cpu()
        counts = self._counts.tolist() if isinstance(self._counts, Tensor) else [self._counts] * totals.size(1)
        for member, column, count in zip(self._rows(), totals.T.tolist(), counts, strict=True):
            meter = member.model._meter("train")
            total, before = meter.partial()
            for loss in column:
                total += loss
            meter.go_on([total, before + count])
        self._losses, self._counts = [], 0.0

    def validate(self, batch: Batch) -> None:
        outputs = self.population.outputs(batch, False)
        self._measuring.add(self._rows(), outputs, batch.targets)

    def end_validation(self) -> None:
        for member, meter in zip(self._rows(), self._measuring.meters(self._rows()), strict=True):
            member.model.meters["val"] = meter
        self.each(lambda member: member.model.on_validation_epoch_end())
        self.each(lambda member: member.call("on_validation_end"))

    def end_epoch(self) -> None:
        self._hand_out_losses()
        self._loops_at = None  # the epoch counts as processed now
        small = len(self.members) * bytes_of(self.members[0].model) <= SMALL
        self._too_soon = small and self._pauses.too_soon()
        with nullcontext() if self._too_soon else self._pauses.writing(), replaced_together():
            self.each(Member.end_epoch)
        self.population.rates_changed()  # plateaus have seen their metric
        if all(member.trainer.should_stop for member in self.living):
            self.trainer.should_stop = True

    def start_epoch(self) -> None:
        """Let go of those that have stopped, and tell of the epoch before."""
        self.leave([member for member in self.living if member.trainer.should_stop])
        self._compact()
        for member in self.living:
            member.trainer.scheduler_progress.reset_on_run()
        self.each(lambda member: member.call("on_train_epoch_start"))

    def leave(self, members: Sequence[Member]) -> None:
        """Let members end: test them, and record what came out."""
        if not members:
            return
        with replaced_together():
            self.each(Member.end_training, members)
        members = [member for member in members if not member.gone]
        batches = [on_device(self.trainer, batch) for batch in self._test_batches()]
        known = self._tested(members, batches)

        tested: list[Member] = []

        def test(member: Member) -> None:
            member.test(batches, *known.get(member, (None, None)))
            tested.append(member)

        def end(member: Member) -> None:
            member.close(0)
            self._log.drop(member.folder)
            self._ended(member)

        try:
            with ExitStack() as locks:  # until the records are in their places
                for member in members:
                    locks.enter_context(member.folder.written_into())
                with replaced_together():
                    self.each(test, members)
        except KeyboardInterrupt:
            self.each(end, tested)
            raise
        self.each(end, tested)  # not where their records could not be written: they have not ended then
        stop_request.awaited = bool(self.living)

    def _test_batches(self) -> Iterator[Batch]:
        loader, limit = self.datamodule.loader("test"), self.members[0].config.trainer.limit_test_batches
        return islice(loader, int(limit * len(loader)) if isinstance(limit, float) else limit)

    def _tested(self, members: Sequence[Member], batches: Sequence[Batch]) -> dict[Member, tuple[list[Tensor], Any]]:
        """Return what the members answer to the batches and how good that is, where it can be had for all at once."""
        rows = self._rows()
        if not self._measuring.at_once or len(members) < 2 or list(members) != rows:
            return {}
        outputs = []
        with self.trainer.precision_plugin.forward_context():
            for batch in batches:
                outputs.append(self.population.outputs(batch, False))
                self._measuring.add(rows, outputs[-1], batch.targets)
        meters = self._measuring.meters(rows)
        return {member: ([each[row] for each in outputs], meters[row]) for row, member in enumerate(rows)}

    def _compact(self) -> None:
        """Take members that have left out of the population and of the data."""
        positions = [position for position, member in enumerate(self.members) if not member.gone]
        if positions and tuple(positions) != tuple(self.population.members):
            self.population.keep(positions)
            self.loader.keep(positions)
        if not positions:
            self.trainer.should_stop = True


class _Module(L.LightningModule):
    """What Lightning's trainer takes for the model."""

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


def _drawn(device: torch.device) -> Tensor:
    """Return the state of the generators of which training on a device draws."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
