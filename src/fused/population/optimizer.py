"""One optimizer for all members.

The states of the members' own optimizers are views of its state, under the same names, so that a member can continue
with its own optimizer at any time.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from src.compat.torch_private import mark_stepped
from src.fused.population.stacked_tensors import Matrix, select_members
from src.fused.population.update_rules import UpdateContext, optimizer_problem, rule_of


class PopulationOptimizer:
    """Updates the parameters of all members at once.

    Args:
        matrix: the parameters of the members.
        optimizers: the optimizer of each member, over the same parameters; their states are loaded.

    Raises:
        ValueError: if the optimizers cannot be combined.
    """

    def __init__(self, matrix: Matrix, optimizers: Sequence[Optimizer]) -> None:
        if problem := optimizer_problem(optimizers):
            raise ValueError(problem)
        self.matrix, self.optimizers = matrix, list(optimizers)
        rule = rule_of(type(optimizers[0]))
        assert rule is not None
        self.rule = rule
        group = optimizers[0].param_groups[0]
        self.flags = {flag: bool(group[flag]) for flag in self.rule.flags}
        self._columns = [self._columns_of(row) for row in range(len(optimizers))]
        self._read()
        self._stale = True  # a schedule may set rates before the first step
        self._load_states()
        self._scratch: list[Tensor] = []

    def _columns_of(self, row: int) -> list[list[int]]:
        """Return the indices in the matrix of the parameters of each parameter group of a member."""
        indices = {id(parameter): index for index, parameter in enumerate(self.matrix.members[row])}
        groups = [[indices.pop(id(p), -1) for p in group["params"]] for group in self.optimizers[row].param_groups]
        if indices or any(-1 in group for group in groups):
            raise ValueError("an optimizer must have every trainable parameter of its model, and no other")
        return groups

    # ---- Settings ------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Read the settings of all parameter groups again before the next step."""
        self._stale = True

    def _read(self) -> None:
        self._stale = False
        self.settings: dict[str, Tensor] = {}
        for name in self.rule.settings:
            if name == "betas":
                for index in (0, 1):
                    self.settings[f"beta{index + 1}"] = self._setting(lambda group, i=index: group["betas"][i])  # type: ignore[misc]
            else:
                self.settings[name] = self._setting(lambda group, key=name: group[key])  # type: ignore[misc]
        if not self.settings["weight_decay"].any():
            del self.settings["weight_decay"]
        if self.rule.uses_base_lrs:
            self.settings["base_lr"] = self._base_rates()

    def _setting(self, value_of: Callable[[dict[str, Any]], float]) -> Tensor:
        rows = [[float(value_of(group)) for group in optimizer.param_groups] for optimizer in self.optimizers]
        return self._expand(rows)

    def _expand(self, rows: list[list[float]]) -> Tensor:
        """Return a number of each group of each member as [K, 1], or as [K, P] if the groups of a member differ."""
        theta = self.matrix.theta
        if all(len(set(row)) == 1 for row in rows):
            return torch.tensor([row[:1] for row in rows], dtype=torch.float64, device=theta.device)
        table = torch.zeros(len(rows), len(self.matrix.sizes), dtype=torch.float64)
        for row, columns, values in zip(table, self._columns, rows, strict=True):
            for group, value in zip(columns, values, strict=True):
                row[group] = value
        return table.repeat_interleave(torch.tensor(self.matrix.sizes), 1).to(theta.device)

    def _base_rates(self) -> Tensor:
        """Return the base learning rates of the optimizers: of each group, the first rate above 0."""
        bases = []
        for optimizer in self.optimizers:
            bases.append(optimizer.base_lrs)  # type: ignore[attr-defined]
            for index, group in enumerate(optimizer.param_groups):
                bases[-1][index] = bases[-1][index] or group["lr"]
        return self._expand(bases)

    # ---- State ---------------------------------------------------------------------------------------------------

    def _load_states(self) -> None:
        matrix, rule = self.matrix, self.rule
        states = [[o.state.get(p, {}) for p in row] for o, row in zip(self.optimizers, matrix.members, strict=True)]
        new = [not any(state for state in row) for row in states]
        self.is_new = torch.tensor(new, device=matrix.theta.device).unsqueeze(1)
        self.buffers: dict[str, Tensor] = {}
        for name, condition in rule.buffers.items():
            is_used = self.settings[condition].any() if condition in self.settings else self.flags.get(condition, True)
            if is_used:
                rows = [
                    [state.get(name, torch.zeros_like(p)) for state, p in zip(row, parameters, strict=True)]
                    for row, parameters in zip(states, matrix.members, strict=True)
                ]
                self.buffers[name] = matrix.gather(rows)
        # torch's optimizers count steps in float64 or float32
        count_dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
        self.scalars = {
            name: torch.tensor([[float(state.get(name, start)) for state in row] for row in states], dtype=count_dtype)
            for name, start in rule.scalars.items()
        }
        if any((tensor != tensor[:, :1]).any() for tensor in self.scalars.values()):
            raise ValueError("the parameters of a member were not all trained for as many steps")
        if rule.counts_steps:
            counts = [[float(group.get("step", 0))] for o in self.optimizers for group in o.param_groups[:1]]
            self.step_counts = torch.tensor(counts, dtype=torch.float64)
        for optimizer in self.optimizers:
            mark_stepped(optimizer)
        self._shares_states = not any(new)
        if self._shares_states:
            self._share_states()

    def _share_states(self) -> None:
        """Make the states of the members' optimizers views of the state of this one."""
        views = {name: self.matrix.split(tensor) for name, tensor in self.buffers.items()}
        for row, (optimizer, parameters) in enumerate(zip(self.optimizers, self.matrix.members, strict=True)):
            member_views = {name: parts for name, parts in views.items() if self._has_buffer(name, row)}
            for index, parameter in enumerate(parameters):
                state = {name: scalars[row, index] for name, scalars in self.scalars.items()}
                state |= {name: parts[index][row] for name, parts in member_views.items()}
                if state:
                    optimizer.state[parameter].update(state)

    def _has_buffer(self, name: str, row: int) -> bool:
        condition = self.rule.buffers[name]
        return condition not in self.settings or bool(self.settings[condition][row].any())

    def select(self, rows: Tensor) -> None:
        """Continue with the members of these rows [M] only, after the matrix did; all others keep copies of their states."""
        states = [
            [t for state in o.state.values() for t in state.values() if torch.is_tensor(t)] for o in self.optimizers
        ]
        select_members(states, rows)
        self.optimizers = [self.optimizers[row] for row in rows.tolist()]
        self._columns = [self._columns[row] for row in rows.tolist()]
        self.is_new = self.is_new[rows]
        self.buffers = {name: tensor[rows] for name, tensor in self.buffers.items()}
        self.scalars = {name: tensor[rows.cpu()] for name, tensor in self.scalars.items()}
        if self.rule.counts_steps:
            self.step_counts = self.step_counts[rows.cpu()]
        self._scratch = []
        self._read()
        if self._shares_states:
            self._share_states()

    # ---- Step --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters of all members from the gradients in the matrix."""
        if self._stale:
            self._read()
        if not self._shares_states:
            self._share_states()
            self._shares_states = True
        theta = self.matrix.theta
        t = self._count().to(theta.device)
        scalars = {name: tensor[:, :1].to(theta.device, copy=True) for name, tensor in self.scalars.items()}
        state = {**self.buffers, **scalars}
        self.rule.formula(
            UpdateContext(theta, self.matrix.g, state, t, self.settings, self.flags, self.is_new, self._scratch)
        )
        self.is_new = torch.zeros_like(self.is_new)
        for name in self.rule.scalars.keys() - {"step"}:
            self.scalars[name].copy_(scalars[name])

    def _count(self) -> Tensor:
        """Count the step, and return the number of steps of each member [K, 1]."""
        if "step" in self.scalars:
            return self.scalars["step"].add_(1)[:, :1].double()
        if not self.rule.counts_steps:
            return self.is_new.double()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["step"] = group.get("step", 0) + 1
        return self.step_counts.add_(1)
