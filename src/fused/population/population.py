"""Models of equal architecture that are trained as one model, with a leading member dimension."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.optim import Optimizer

from src.compat.torch_private import copy_all
from src.core.batches import Batch
from src.fused.population.gradient_clipping import GradientClipping
from src.fused.population.optimizer import PopulationOptimizer
from src.fused.population.stacked_tensors import Matrix, Stack, stacking_problem
from src.fused.population.template_model import TemplateModel, other_tensors, trainable
from src.models.base import Model


class Population:
    """Models of equal architecture that are trained as one model.

    The tensors of the models and of their optimizers become views of stacked tensors that are trained here, so each model can be
    evaluated, saved and scheduled separately at any time. State dictionaries contain copies: a file of a view would contain
    the whole stack.

    Args:
        models: K models with equal shapes; dropout rates, label smoothing and gradient clipping may differ.
        optimizers: optimizers of each model, after its state was loaded; all of the same class.
        member_ids: increasing ids of the members; None: 0 to K - 1.

    Raises:
        ValueError: if the models cannot be trained as one.
    """

    def __init__(
        self, models: Sequence[Model], optimizers: Sequence[Optimizer], member_ids: Sequence[int] | None = None
    ) -> None:
        if problem := stacking_problem(models):
            raise ValueError(problem)
        self.members = tuple(range(len(models)) if member_ids is None else member_ids)
        """Ids of the members that are still trained; row r of every stacked tensor belongs to ``members[r]``."""
        self._template = TemplateModel(models)
        self._matrix = Matrix(self._template.trainable, [trainable(model) for model in models])
        self._other_tensors = Stack(
            self._template.other_tensors, [[t for _, t in other_tensors(model)] for model in models]
        )
        self._optimizer = PopulationOptimizer(self._matrix, optimizers)
        knobs = [model.training_config.regularization for model in models]
        self._clipping = GradientClipping(knobs, self._matrix.theta)
        self._smoothings = [float(knob.label_smoothing) for knob in knobs]
        self.weight_sum: Tensor | float = 0.0
        """Sum of the loss weights of the last step, by which the losses were divided: one number, or one per member [K]."""
        for model, optimizer in zip(models, optimizers, strict=True):
            model.register_state_dict_post_hook(_clone_weights)
            optimizer.register_state_dict_post_hook(_clone_state)

    def select(self, members: Sequence[int]) -> None:
        """Continue with some of the members; the others keep copies of their weights and states.

        The training of the selected members is not affected, except that other dropout masks are drawn.

        Args:
            members: increasing ids of the members to train.
        """
        rows = torch.tensor([self.members.index(member) for member in members])
        self.members = tuple(members)
        self._matrix.select(rows)
        self._other_tensors.select(rows)
        self._template.select(rows)
        self._optimizer.select(rows)
        self._clipping.select(rows)
        self._smoothings = [self._smoothings[row] for row in rows.tolist()]

    def rates_changed(self) -> None:
        """Read the settings of all parameter groups again, after schedules changed them."""
        self._optimizer.changed()

    def step(self, batch: Batch, stacked: bool = True) -> Tensor:
        """Take one optimizer step of every member.

        Args:
            batch: tensors [K, B, …], one row per member.
            stacked: False if all members see the same batch [B, …].

        Returns:
            the loss of each member before the step [K]: the weighted mean over its batch.
        """
        with torch.enable_grad():
            losses = self._losses(
                self._outputs(batch, stacked, training=True),
                _flatten_members(batch).targets if stacked else self._repeat(batch.targets),
            )
            leaves = self._matrix.leaves
            gradients = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
        for name, gradient in zip(leaves, gradients, strict=True):
            if gradient is None:
                raise ValueError(f"the loss does not depend on {name}, which a separate optimizer would not update")
        copy_all(self._matrix.gradients, gradients)
        self._clipping.clip(self._matrix.g)
        self._optimizer.step()
        return losses.detach()

    @torch.no_grad()
    def outputs(self, batch: Batch, stacked: bool = True) -> Tensor:
        """Return the outputs of the models in evaluation [K, B, *output_shape].

        Args:
            batch: as in `step`.
            stacked: as in `step`.
        """
        return self._outputs(batch, stacked, training=False)

    def _outputs(self, batch: Batch, stacked: bool, training: bool) -> Tensor:
        """Return the outputs of all members [K, B, *output_shape]."""
        network = self._template.mode(training)
        tensors = self._matrix.leaves | self._other_tensors.tensors | self._template.rates
        if self._template.can_fold:
            inputs = _flatten_members(batch).inputs if stacked else tuple(map(self._repeat, batch.inputs))
            return functional_call(network, tensors, inputs).unflatten(0, (len(self.members), -1))

        def forward(tensors: dict[str, Tensor], batch: Batch) -> Tensor:
            return functional_call(network, tensors, batch.inputs)

        return vmap(forward, (0, 0 if stacked else None), randomness="different")(tensors, batch)

    def _repeat(self, x: Tensor) -> Tensor:
        """Repeat a tensor [B, …] for each member, as [K · B, …]."""
        return x.expand(len(self.members), *x.shape).flatten(0, 1)

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each member [K], the weighted mean over its batch.

        Args:
            outputs: [K, B, …].
            targets: [K · B, …].
        """
        network, members = self._template.network, len(self.members)

        def losses(smoothing: float) -> Tensor:
            return network.losses(outputs.flatten(0, 1), targets, smoothing).unflatten(0, (members, -1))

        if len(set(self._smoothings)) == 1:
            example_losses = losses(self._smoothings[0])
        else:  # losses are linear in the smoothing, as the targets are
            example_losses = losses(0.0)
            smoothings = example_losses.new_tensor(self._smoothings).view(-1, *[1] * (example_losses.dim() - 1))
            example_losses = torch.lerp(example_losses, losses(1.0), smoothings)
        example_losses, weights = example_losses.flatten(1), network.task.weights(targets)
        if weights is None:
            self.weight_sum = float(example_losses.size(1))
        else:
            self.weight_sum = weights.unflatten(0, (members, -1)).flatten(1).sum(1).clamp(min=1)
        return example_losses.sum(1) / self.weight_sum


def _flatten_members(batch: Batch) -> Batch:
    """Return the examples of all members [K, B, …] as one batch [K · B, …]."""
    return type(batch)(*(x.flatten(0, 1) for x in batch))


def _clone_weights(module: Any, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    state.update({name: value.clone() for name, value in state.items() if isinstance(value, Tensor)})


def _clone_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    state["state"] = {
        index: {name: value.clone() if isinstance(value, Tensor) else value for name, value in own.items()}
        for index, own in state["state"].items()
    }
