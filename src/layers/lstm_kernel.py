"""The textbook's LSTM over a whole sequence, with an explicit backpropagation through time.

With autograd, one backward step takes about 25 small operations, whose call overhead exceeds their arithmetic. Here all
operations that do not depend on the next step are computed for all steps at once, and the loops use buffers whose views are
created once: on a CPU this halves the time. There torch's sigmoid takes a quarter of the time of its tanh, so one call of
it computes all gates, with tanh(a) = 2σ(2a) - 1.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

sigmoid_backward = torch.ops.aten.sigmoid_backward  # (g, s) → g ⊙ s ⊙ (1 - s)
tanh_backward = torch.ops.aten.tanh_backward  # (g, t) → g ⊙ (1 - t²)


class LSTMFunction(torch.autograd.Function):
    """h_t of every step [T, B, H], and C after the last [B, H].

    Arguments of `apply`:
        x: [T, B, F].
        W_x, W_h, b: [4 · H, F], [4 · H, H], [4 · H]; the gates in the order o, f, i, C.
        h, C: the state before the first step [B, H].
        valid: [T, B, 1] True where a step is not padding, or None.

    For the K members of a population, tensors have a dimension K before B, and weights have it first.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_x: Tensor, W_h: Tensor, b: Tensor, h: Tensor, C: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        members = W_h.dim() == 3
        gates = (
            _linear_of_members(x, W_x, b) if members else F.linear(x, W_x, b)
        )  # [T, B, 4 · H]; later σ and tanh of it
        add_product = Tensor.baddbmm_ if members else Tensor.addmm_
        x, W_x, W_h = (tensor.to(gates.dtype) for tensor in (x, W_x, W_h))  # autocast may have changed it
        hs, Cs = gates.new_empty(2, len(x) + 1, *h.shape)
        hs[0], Cs[0] = h, C
        tanhs = torch.empty_like(hs[1:])
        o, f, i, candidate = (gate.unbind(0) for gate in gates.chunk(4, -1))
        h_of, C_of, tanh_of, W = hs.unbind(0), Cs.unbind(0), tanhs.unbind(0), W_h.mT
        sigmoids, candidates = gates.split((3 * h.size(-1), h.size(-1)), -1)
        one_call = gates.dtype.itemsize > 2  # half precision would lose small values in 2σ(2a) - 1
        if one_call:
            candidates *= 2
            W = torch.cat((W[..., : sigmoids.size(-1)], 2 * W[..., sigmoids.size(-1) :]), -1)
        minus_one = gates.new_full((), -1)
        for t, gates_t in enumerate(gates.unbind(0)):
            add_product(gates_t, h_of[t], W)  # W·[h_{t-1}, x_t] + b of every gate
            if one_call:
                gates_t.sigmoid_()
                torch.add(minus_one, candidate[t], alpha=2, out=candidate[t])  # tanh(a) = 2σ(2a) - 1
            else:
                sigmoids[t].sigmoid_()
                candidate[t].tanh_()
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
        members = W_h.dim() == 3
        add_product = torch.baddbmm if members else torch.addmm
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
        by_dh, by_dC = da.unflatten(-1, (4, -1)).split((1, 3), -2)  # of o; of f, i, C̃: [T, B, 1 or 3, H]
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
            add_product(past, da_t, W_h, out=dh)
        da_rows = _rows(da, members)
        inputs = _rows(torch.cat((hs[:-1], x, torch.ones_like(x[..., :1])), -1), members)  # [h_{t-1}, x_t, 1]
        dW_h, dW_x, db = (inputs.mT @ da_rows).mT.split((hs.size(-1), x.size(-1), 1), -1)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = _steps_first(da_rows @ W_x, len(x)) if members else da @ W_x
        return dx, dW_x, dW_h, db.squeeze(-1), dh, dC, None


def _rows(steps: Tensor, members: bool) -> Tensor:
    """Flatten steps and batch: [T, B, F] to [T · B, F], and for members [T, K, B, F] to [K, T · B, F]."""
    return steps.transpose(0, 1).flatten(1, 2) if members else steps.flatten(0, 1)


def _linear_of_members(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    return _steps_first(torch.baddbmm(b.unsqueeze(1), _rows(x, True), W.mT), len(x))


def _steps_first(rows: Tensor, steps: int) -> Tensor:
    """Undo `_rows` for members: [K, T · B, F] to [T, K, B, F]."""
    return rows.unflatten(1, (steps, -1)).transpose(0, 1)
