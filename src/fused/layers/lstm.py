"""The LSTM of all members over a whole sequence, with an explicit backpropagation through time.

With autograd, one backward step takes about 25 small operations, whose call overhead exceeds their arithmetic. Here all
operations that do not depend on the next step are computed for all steps at once, and the loops use buffers whose views are
created once. On a CPU, autograd takes 1.2 to 1.5 times as long (4 to 32 members of 32 to 128 units; medians of alternating
passes, processor time of one thread).

Its sigmoid takes a quarter of the time of its tanh there, so one call of it computes all gates, with tanh(a) = 2σ(2a) - 1.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

sigmoid_backward = torch.ops.aten.sigmoid_backward  # (g, s) → g ⊙ s ⊙ (1 - s)
tanh_backward = torch.ops.aten.tanh_backward  # (g, t) → g ⊙ (1 - t²)


class MembersLSTM(torch.autograd.Function):
    """h_t of every step [T, K, B, H], and C after the last [K, B, H], of K members.

    Arguments of `apply`:
        x: [T, K, B, F].
        W_x, W_h, b: [K, 4 · H, F], [K, 4 · H, H], [K, 4 · H]; the gates in the order o, f, i, C.
        h, C: the state before the first step [K, B, H].
        valid: [T, K, B, 1] True where a step is not padding, or None.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_x: Tensor, W_h: Tensor, b: Tensor, h: Tensor, C: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        gates = _steps_first(torch.baddbmm(b.unsqueeze(1), _rows(x), W_x.mT), len(x)).contiguous()
        hs, Cs = gates.new_empty(2, len(x) + 1, *h.shape)
        hs[0], Cs[0] = h, C
        tanhs = torch.empty_like(hs[1:])
        o, f, i, candidate = (gate.unbind(0) for gate in gates.chunk(4, -1))
        h_of, C_of, tanh_of = hs.unbind(0), Cs.unbind(0), tanhs.unbind(0)
        num_sigmoids = 3 * h.size(-1)
        gates[..., num_sigmoids:] *= 2
        W = torch.cat((W_h[:, :num_sigmoids], 2 * W_h[:, num_sigmoids:]), 1).mT
        minus_one = gates.new_full((), -1)
        for t, gates_t in enumerate(gates.unbind(0)):
            gates_t.baddbmm_(h_of[t], W).sigmoid_()  # W·[h_{t-1}, x_t] + b of every gate
            torch.add(minus_one, candidate[t], alpha=2, out=candidate[t])  # tanh(a) = 2σ(2a) - 1
            torch.mul(f[t], C_of[t], out=C_of[t + 1]).addcmul_(i[t], candidate[t])  # C_t = f ⊙ C_{t-1} + i ⊙ C̃
            torch.tanh(C_of[t + 1], out=tanh_of[t])
            torch.mul(o[t], tanh_of[t], out=h_of[t + 1])  # h_t = o ⊙ tanh(C_t)
            if valid is not None:  # a padded step does not change the state
                hs[t + 1], Cs[t + 1] = (torch.where(valid[t], part[t + 1], part[t]) for part in (hs, Cs))
        ctx.save_for_backward(x, W_x, W_h, gates, hs, Cs, tanhs, valid)
        return hs[1:], Cs[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dhs: Tensor, dC: Tensor) -> tuple[Tensor | None, ...]:
        x, W_x, W_h, gates, hs, Cs, tanhs, valid = ctx.saved_tensors
        o, f, i, candidate = gates.chunk(4, -1)
        dh_by_dC = tanh_backward(o, tanhs)  # ∂h_t/∂C_t
        da = torch.empty_like(gates)  # first ∂h_t/∂a for gate o and ∂C_t/∂a for f, i, C̃; after the loop ∂L/∂a
        da_o, da_f, da_i, da_C = da.chunk(4, -1)
        sigmoid_backward(tanhs, o, grad_input=da_o)
        sigmoid_backward(Cs[:-1], f, grad_input=da_f)
        sigmoid_backward(candidate, i, grad_input=da_i)
        tanh_backward(i, candidate, grad_input=da_C)
        if valid is not None:
            dh_by_dC, da, f = dh_by_dC * valid, da * valid, torch.where(valid, f, 1)
        by_dh, by_dC = da.unflatten(-1, (4, -1)).split((1, 3), -2)  # of o; of f, i, C̃: [T, K, B, 1 or 3, H]
        dh, dC = dhs[-1].clone(), dC.clone()  # ∂L/∂h_t, through y_t and through h_{t+1}; ∂L/∂C_t
        for_o, for_others = dh.unsqueeze(-2), dC.unsqueeze(-2)
        through_y = [torch.zeros_like(dh), *dhs.unbind(0)]
        steps = [part.unbind(0) for part in (dh_by_dC, f, da, by_dh, by_dC)]
        for t, (dh_by_dC_t, f_t, da_t, by_dh_t, by_dC_t) in reversed(list(enumerate(zip(*steps, strict=True)))):
            dC.addcmul_(dh, dh_by_dC_t)
            by_dh_t.mul_(for_o)
            by_dC_t.mul_(for_others)
            dC.mul_(f_t)
            past = through_y[t] if valid is None else torch.where(valid[t], through_y[t], through_y[t] + dh)
            torch.baddbmm(past, da_t, W_h, out=dh)
        da_rows = _rows(da)
        inputs = _rows(torch.cat((hs[:-1], x, torch.ones_like(x[..., :1])), -1))  # [h_{t-1}, x_t, 1]
        dW_h, dW_x, db = (inputs.mT @ da_rows).mT.split((hs.size(-1), x.size(-1), 1), -1)
        dx = _steps_first(da_rows @ W_x, len(x)) if ctx.needs_input_grad[0] else None
        return dx, dW_x, dW_h, db.squeeze(-1), dh, dC, None


def _rows(steps: Tensor) -> Tensor:
    """Flatten steps and batch: [T, K, B, F] to [K, T · B, F]."""
    return steps.transpose(0, 1).flatten(1, 2)


def _steps_first(rows: Tensor, steps: int) -> Tensor:
    """Reverse `_rows`."""
    return rows.unflatten(1, (steps, -1)).transpose(0, 1)
