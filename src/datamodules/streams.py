"""The order in which a text is read by a network that carries its state from batch to batch."""

import torch
from torch import Tensor


def in_streams(windows: Tensor, batch_size: int, world_size: int = 1) -> Tensor:
    """Order consecutive windows so that row b of each batch goes on where row b of the batch before ended.

    The windows are cut into one stream a row, of equal lengths or, at the beginning, longer by one; the last batch holds
    the ends of the longer ones. Every window is read once; with several processes, up to world_size - 1 are left out.

    Args:
        windows: [N, …] in the order of the text.
        batch_size: rows of a batch; on several devices, on each of them.
        world_size: processes; each takes every world_size-th row, and so keeps its streams.

    Returns:
        [N, …] for a loader that does not shuffle.
    """
    windows = windows[: len(windows) - len(windows) % world_size]
    rows = min(batch_size * world_size, len(windows))
    length, longer = divmod(len(windows), rows)
    starts = torch.arange(rows) * length + torch.arange(rows).clamp(max=longer)
    steps = starts + torch.arange(length)[:, None]  # [length, rows]
    return windows[torch.cat((steps.flatten(), starts[:longer] + length))]
