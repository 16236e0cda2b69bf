"""Batch order for stateful training (truncated BPTT), in which the hidden state is carried from batch to batch."""

import torch
from torch import Tensor


def stateful_batch_order(count: int, batch_size: int, world_size: int = 1) -> Tensor:
    """Order consecutive windows so that row b of each batch continues row b of the previous batch.

    The windows are divided into one stream per row. The first streams may be longer by one window; the last batch has the
    ends of these. Every window occurs once; with several processes, up to world_size - 1 windows are dropped.

    Args:
        count: number of windows, which are in text order.
        batch_size: rows per batch and device.
        world_size: number of processes; each takes every world_size-th row, and so the same streams in all batches.

    Returns:
        [N] indices of the windows, for a loader that does not shuffle.
    """
    count -= count % world_size
    rows = min(batch_size * world_size, count)
    length, longer_streams = divmod(count, rows)
    starts = torch.arange(rows) * length + torch.arange(rows).clamp(max=longer_streams)
    steps = starts + torch.arange(length)[:, None]  # [length, rows]
    return torch.cat((steps.flatten(), starts[:longer_streams] + length))
