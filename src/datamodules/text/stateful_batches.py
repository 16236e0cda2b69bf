"""The order in which a text is read by a network that carries its state from batch to batch."""

import torch
from torch import Tensor


def stream_order(count: int, batch_size: int, world_size: int = 1) -> Tensor:
    """Order consecutive windows so that row b of each batch goes on where row b of the batch before ended.

    The windows are cut into one stream a row, of equal lengths or, at the beginning, longer by one; the last batch holds
    the ends of the longer ones. Every window is read once; with several processes, up to world_size - 1 are left out.

    Args:
        count: of the windows, in the order of the text.
        batch_size: rows of a batch; on several devices, on each of them.
        world_size: processes; each takes every world_size-th row, and so keeps its streams.

    Returns:
        [N] the numbers of the windows, for a loader that does not shuffle.
    """
    count -= count % world_size
    rows = min(batch_size * world_size, count)
    length, longer = divmod(count, rows)
    starts = torch.arange(rows) * length + torch.arange(rows).clamp(max=longer)
    steps = starts + torch.arange(length)[:, None]  # [length, rows]
    return torch.cat((steps.flatten(), starts[:longer] + length))
