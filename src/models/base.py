"""Base class of every architecture: training and evaluation steps, metrics, optimizers. Subclasses add layers and `forward`."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, cast

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from src.core.batches import Batch
from src.core.data_spec import DataSpec
from src.core.records import FORMAT_VERSION
from src.models.epoch_metrics import Meter
from src.optim.factory import build_optimization
from src.optim.schedules import step_scheduler
from src.tasks.factory import build_task
from src.tasks.registry import check_task


class Model(L.LightningModule):
    """An architecture that can be trained on each task that it declares.

    A subclass declares `tasks` and `inputs`, takes its own settings as keyword arguments, calls
    `super().__init__(spec, **common)`, and implements `forward`, which takes the batch's `inputs` and returns outputs
    shaped [B, *spec.output_shape] (with a time axis after B for tokens).

    Args:
        spec: the description of the data; a plain dictionary when it comes from a checkpoint.
        training_config: the config of the run; required for training, and None in a model that is only applied.
        batch_transform: augmentation and mixing of training batches (`src.regularization.batch_transform`).
        decode: function that maps target tokens [B, T] to texts, for BLEU.
    """

    tasks: ClassVar[tuple[str, ...]]
    """The tasks that the architecture supports."""
    inputs: ClassVar[tuple[str, ...]]
    """The kinds of input that it accepts: vector, image, sequence, tokens."""
    supports_beam_search: ClassVar[bool] = False
    """Whether its `generate` takes ``beams`` and ``length_penalty``."""
    supports_stateful: ClassVar[bool] = False
    """Whether it can pass its state from one batch to the next (`spec.stateful`)."""

    def __init__(
        self,
        spec: DataSpec | dict[str, Any],
        training_config: Any = None,
        batch_transform: Callable[[Batch], tuple[Batch, Any]] | None = None,
        decode: Callable[[Tensor], list[str]] | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec if isinstance(spec, DataSpec) else DataSpec.from_plain(spec)
        check_task(self.spec.task)
        self.task = build_task(self.spec, decode)
        self.meters: dict[str, Meter] = {}
        self.training_config = training_config
        self.batch_transform = batch_transform
        self.evaluated_split = "test"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to rebuild the model: its config, the DataSpec and the preparation of the data."""
        config = self.training_config
        datamodule = getattr(self.trainer, "datamodule", None)
        checkpoint["gridlight"] = {
            "format_version": FORMAT_VERSION,
            "config": config.plain(),
            "spec": self.spec.to_plain(),
            "preparation": datamodule.state_dict() if datamodule is not None else {},
        }
        arguments = {key: value for key, value in config.plain()["model"].items() if key not in ("_target_", "name")}
        checkpoint["hyper_parameters"] = {"spec": self.spec.to_plain(), **arguments}

    # ---- one step ----------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        mixing = None
        if self.batch_transform is not None:
            batch, mixing = self.batch_transform(batch)
        outputs = self.forward_batch(batch, "train")
        targets = batch.targets
        smoothing = self.training_config.regularization.label_smoothing
        losses = self.losses(outputs, targets, smoothing)
        if mixing is not None:  # cross-entropy is linear in the label, so this is the loss of the mixed label
            losses = mixing.blend(losses, self.losses(outputs, targets[mixing.partner], smoothing))
        loss = self._meter("train").add(losses, self.task.weights(targets))
        every = self.training_config.trainer.log_every_n_steps
        if every and (self.global_step + 1) % every == 0 and self._is_optimizer_step(batch_idx):
            self._log({"train/loss_step": loss.item()}, self.global_step)
        return loss

    def _is_optimizer_step(self, batch_idx: int) -> bool:
        """Return whether the optimizer steps after this batch, instead of only accumulating its gradient."""
        return self.trainer.is_last_batch or (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0

    def losses(self, outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """Return the training loss of every example or token. A model that computes its own gradient overrides this."""
        return self.task.losses(outputs, targets, smoothing)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluation_step("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluation_step(self.evaluated_split, batch)

    def _evaluation_step(self, split: str, batch: Batch) -> None:
        meter = self._meter(split)
        outputs = self.forward_batch(batch, split)
        meter.add(self.task.losses(outputs, batch.targets), self.task.weights(batch.targets))
        meter.update(outputs, batch.targets)
        if meter.decoded is not None:
            meter.update_decoded(self.generate(batch.inputs[0]), batch.targets)

    def forward_batch(self, batch: Batch, split: str) -> Tensor:
        """Return the outputs of the next batch of a split. Models that keep a state between batches override this.

        Args:
            batch: a batch of the loader.
            split: ``train``, ``val`` or ``test``.
        """
        return self(*batch.inputs)

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Tensor:
        """Return generated tokens. Models that support a sequence generation task implement this or `generate_stream`.

        Args:
            inputs: source sentences [B, S], or a prompt [B, T] for language modelling.
            max_new_tokens: the maximum number of tokens to generate; for translation the default is the length of the
                longest training target.
            temperature: 0 takes the most likely token, a larger value samples from softmax(logits / temperature).
            top_k, top_p: sample from the most likely tokens only (`src.layers.token_sampling.next_token`).

        Returns:
            The generated tokens [B, N] without the inputs; padding follows an end token.
        """
        tokens = self.generate_stream(inputs, max_new_tokens, temperature, top_k, top_p)
        return torch.cat((inputs[:, :0], *(chosen.unsqueeze(1) for chosen in tokens)), 1)

    def generate_stream(
        self,
        inputs: Tensor,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Iterator[Tensor]:
        """Yield the tokens [B] of `generate` one by one, as soon as each is chosen; for language models."""
        raise AssertionError(f"{type(self).__name__} does not generate sequences")

    # ---- metrics, once per epoch -------------------------------------------------------------------------------

    def on_train_epoch_end(self) -> None:
        lr = cast(Optimizer, self.optimizers(use_pl_optimizer=False)).param_groups[0]["lr"]
        self._report("train", {"lr": torch.tensor(float(lr), dtype=torch.float64)})

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report(self.evaluated_split)

    def _meter(self, split: str) -> Meter:
        if split not in self.meters:
            testing = self.trainer.testing
            evaluating = testing or split != "train"
            smoothed = not evaluating and self.training_config.regularization.label_smoothing > 0
            self.meters[split] = Meter(self.task, detailed=evaluating, decoded=testing, derived=not smoothed)
            self.meters[split].to(self.device)
        return self.meters[split]

    def compute_metrics(self, split: str) -> dict[str, Tensor]:
        """Return every metric of a split since the last call, by ``split/name``, and reset them.

        Raises:
            FloatingPointError: if the loss is not finite.
        """
        values = self._meter(split).compute(self.trainer.strategy)
        self._meter(split).reset()
        if not torch.isfinite(values["loss"]):
            raise FloatingPointError(
                f"{split}/loss is {float(values['loss'])} after epoch {self.current_epoch + 1}: the run diverged. "
                "Try a smaller optimizer.lr or regularization=gradient_clipping; debug=anomaly finds the operation"
            )
        return {f"{split}/{name}": value for name, value in values.items()}

    def _report(self, split: str, extra: dict[str, Tensor] | None = None) -> None:
        metrics = self.compute_metrics(split) | (extra or {})
        fitting = self.trainer.state.fn == "fit"
        if not fitting:
            self.log_dict(metrics, rank_zero_only=False)
            return
        # Logged immediately: metrics that a checkpoint was chosen by are in the log even if the process is killed.
        self.trainer.callback_metrics.update(metrics)
        self._log({name: value.item() for name, value in metrics.items()}, self.global_step - 1)
        self._step_plateaus(metrics)

    def _log(self, metrics: dict[str, float], step: int) -> None:
        for logger in self.loggers:
            logger.log_metrics(metrics | {"epoch": self.current_epoch}, step=step)

    def mid_epoch_state(self) -> dict[str, Any]:
        """Return the state that this device needs, besides weights and optimizer, to resume in the middle of a training epoch.
        Models that keep more than the running metrics override this.
        """
        return {"partial_sums": self._meter("train").partial_sums()}

    def load_mid_epoch_state(self, state: dict[str, Any]) -> None:
        """Resume an epoch from the state that `mid_epoch_state` returned."""
        sums = [value.to(self.device) if isinstance(value, Tensor) else value for value in state["partial_sums"]]
        self._meter("train").load_partial_sums(sums)

    # ---- optimizer and schedule ----------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        return build_optimization(self, self.spec.task, self.training_config, self.trainer)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a schedule after an optimizer step or an epoch, once its warm-up is over."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            step_scheduler(scheduler, self.global_step)

    def _step_plateaus(self, metrics: dict[str, Tensor]) -> None:
        """Step plateau schedules as soon as their metric is computed. Lightning steps them after the epoch's checkpoint is
        saved, so that a resumed run would differ from an uninterrupted one.
        """
        for entry in self.trainer.lr_scheduler_configs:
            if isinstance(entry.scheduler, ReduceLROnPlateau) and entry.monitor in metrics:
                step_scheduler(entry.scheduler, self.global_step, metrics[entry.monitor])
