"""The optimizers of all members as one.

What it remembers are views in the ordinary optimizers' state, under their names, so that a member can go on in its
ordinary optimizer at any time.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from src.compat.torch_private import mark_stepped
from src.fused.population.stacked_tensors import Matrix, kept
from src.fused.population.update_rules import UpdateContext, optimizer_problem, rule_of


class PopulationOptimizer:
    """The optimizers of all members.

    Args:
        matrix: the parameters of the members.
        optimizers: the ordinary ones over the same parameters; what they remember is taken over.

    Raises:
        ValueError: if they cannot be done as one.
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
        self._take_over()
        self._scratch: list[Tensor] = []

    def _columns_of(self, row: int) -> list[list[int]]:
        """Return which parameters each group of a member has, by their numbers in the matrix."""
        numbers = {id(parameter): number for number, parameter in enumerate(self.matrix.members[row])}
        groups = [[numbers.pop(id(p), -1) for p in group["params"]] for group in self.optimizers[row].param_groups]
        if numbers or any(-1 in group for group in groups):
            raise ValueError("an optimizer must have every trainable parameter of its model, and no other")
        return groups

    # ---- settings ------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Read the settings of all parameter groups again before the next step."""
        self._stale = True

    def _read(self) -> None:
        self._stale = False
        self.settings: dict[str, Tensor] = {}
        for name in self.rule.settings:
            if name == "betas":
                for number in (0, 1):
                    self.settings[f"beta{number + 1}"] = self._numbers(lambda group, i=number: group["betas"][i])  # type: ignore[misc]
            else:
                self.settings[name] = self._numbers(lambda group, key=name: group[key])  # type: ignore[misc]
        if not self.settings["weight_decay"].any():
            del self.settings["weight_decay"]
        if self.rule.uses_base_lrs:
            self.settings["base_lr"] = self._base_rates()

    def _numbers(self, of: Callable[[dict[str, Any]], float]) -> Tensor:
        rows = [[float(of(group)) for group in optimizer.param_groups] for optimizer in self.optimizers]
        return self._spread(rows)

    def _spread(self, rows: list[list[float]]) -> Tensor:
        """Return numbers of each group of each member as [K, 1], or as [K, P] where a member's differ."""
        theta = self.matrix.theta
        if all(len(set(row)) == 1 for row in rows):
            return torch.tensor([row[:1] for row in rows], dtype=torch.float64, device=theta.device)
        table = torch.zeros(len(rows), len(self.matrix.sizes), dtype=torch.float64)
        for row, columns, values in zip(table, self._columns, rows, strict=True):
            for group, value in zip(columns, values, strict=True):
                row[group] = value
        return table.repeat_interleave(torch.tensor(self.matrix.sizes), 1).to(theta.device)

    def _base_rates(self) -> Tensor:
        """Return the rates that an optimizer compares with: the first above 0."""
        bases = []
        for optimizer in self.optimizers:
            bases.append(optimizer.base_lrs)  # type: ignore[attr-defined]
            for number, group in enumerate(optimizer.param_groups):
                bases[-1][number] = bases[-1][number] or group["lr"]
        return self._spread(bases)

    # ---- state ---------------------------------------------------------------------------------------------------

    def _take_over(self) -> None:
        matrix, rule = self.matrix, self.rule
        states = [[o.state.get(p, {}) for p in row] for o, row in zip(self.optimizers, matrix.members, strict=True)]
        new = [not any(state for state in row) for row in states]
        self.first = torch.tensor(new, device=matrix.theta.device).unsqueeze(1)
        self.remembered: dict[str, Tensor] = {}
        for name, condition in rule.buffers.items():
            kept = self.settings[condition].any() if condition in self.settings else self.flags.get(condition, True)
            if kept:
                rows = [
                    [state.get(name, torch.zeros_like(p)) for state, p in zip(row, parameters, strict=True)]
                    for row, parameters in zip(states, matrix.members, strict=True)
                ]
                self.remembered[name] = matrix.gather(rows)
        self.numbers = {
            name: torch.tensor(
                [[float(state.get(name, start)) for state in row] for row in states], dtype=_count_dtype()
            )
            for name, start in rule.numbers.items()
        }
        if any((tensor != tensor[:, :1]).any() for tensor in self.numbers.values()):
            raise ValueError("the parameters of a member were not all trained for as many steps")
        if rule.counts:
            counts = [[float(group.get("step", 0))] for o in self.optimizers for group in o.param_groups[:1]]
            self.counts = torch.tensor(counts, dtype=torch.float64)
        for optimizer in self.optimizers:
            mark_stepped(optimizer)
        self._given = not any(new)
        if self._given:
            self._give()

    def _give(self) -> None:
        """Make what the ordinary optimizers remember views of what is remembered here."""
        views = {name: self.matrix.split(tensor) for name, tensor in self.remembered.items()}
        for row, (optimizer, parameters) in enumerate(zip(self.optimizers, self.matrix.members, strict=True)):
            kept = {name: parts for name, parts in views.items() if self._keeps(name, row)}
            for number, parameter in enumerate(parameters):
                own = {name: numbers[row, number] for name, numbers in self.numbers.items()}
                own |= {name: parts[number][row] for name, parts in kept.items()}
                if own:
                    optimizer.state[parameter].update(own)

    def _keeps(self, name: str, row: int) -> bool:
        condition = self.rule.buffers[name]
        return condition not in self.settings or bool(self.settings[condition][row].any())

    def select(self, rows: Tensor) -> None:
        """Go on with these members [M], after `matrix` did; what the others remember stays theirs."""
        states = [[t for own in o.state.values() for t in own.values() if torch.is_tensor(t)] for o in self.optimizers]
        kept(states, rows)
        self.optimizers = [self.optimizers[row] for row in rows.tolist()]
        self._columns = [self._columns[row] for row in rows.tolist()]
        self.first = self.first[rows]
        self.remembered = {name: tensor[rows] for name, tensor in self.remembered.items()}
        self.numbers = {name: tensor[rows.cpu()] for name, tensor in self.numbers.items()}
        if self.rule.counts:
            self.counts = self.counts[rows.cpu()]
        self._scratch = []
        self._read()
        if self._given:
            self._give()

    # ---- a step --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters of all members, by the gradients in the matrix."""
        if self._stale:
            self._read()
        if not self._given:
            self._give()
            self._given = True
        theta = self.matrix.theta
        t = self._count().to(theta.device)
        numbers = {name: tensor[:, :1].to(theta.device, copy=True) for name, tensor in self.numbers.items()}
        state = {**self.remembered, **numbers}
        self.rule.formula(UpdateContext(theta, self.matrix.g, state, t, self.settings, self.flags, self.first, self._scratch))
        self.first = torch.zeros_like(self.first)
        for name in self.rule.numbers.keys() - {"step"}:
            self.numbers[name].copy_(numbers[name])

    def _count(self) -> Tensor:
        """Count the step, and return its number of each member [K, 1]."""
        if "step" in self.numbers:
            return self.numbers["step"].add_(1)[:, :1].double()
        if not self.rule.counts:
            return self.first.double()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["step"] = group.get("step", 0) + 1
        return self.counts.add_(1)


def _count_dtype() -> torch.dtype:
    """Return the dtype in which the optimizers of torch count steps."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
