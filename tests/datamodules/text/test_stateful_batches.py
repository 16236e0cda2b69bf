"""The order of streams: row b of each batch is what comes after row b of the batch before, and nothing is lost."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from src.core.batches import LanguageBatch
from src.datamodules.loaders.in_memory import BatchLoader
from src.datamodules.text.language_modelling import Text
from src.datamodules.text.stateful_batches import stateful_batch_order


@pytest.mark.req("R3")
@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 50])
@pytest.mark.parametrize("count", [1, 3, 12, 13, 23])
def test_each_row_continues_its_stream(count: int, batch_size: int) -> None:
    windows = torch.arange(count).unsqueeze(1)
    order = stateful_batch_order(count, batch_size)
    batches = [b.tokens[:, 0] for b in BatchLoader(LanguageBatch(windows), batch_size, arrangement=order)]
    assert sorted(torch.cat(batches).tolist()) == list(range(count))
    for before, after in pairwise(batches):
        assert len(after) <= len(before)
        assert torch.equal(after, before[: len(after)] + 1)


@pytest.mark.req("R3")
@pytest.mark.parametrize("count", [8, 17, 24, 31])
def test_each_process_keeps_its_streams(count: int) -> None:
    windows = torch.arange(count).unsqueeze(1)
    order, seen = stateful_batch_order(count, 2, 3), []
    for rank in range(3):
        loader = BatchLoader(LanguageBatch(windows), 2, rank=rank, world_size=3, arrangement=order)
        batches = [b.tokens[:, 0] for b in loader]
        for before, after in pairwise(batches):
            assert torch.equal(after, before[: len(after)] + 1)
        seen += torch.cat(batches).tolist()
    assert len(set(seen)) == len(seen) == count - count % 3


@pytest.mark.req("R3")
@pytest.mark.parametrize(("batch_size", "last"), [(8, 3), (89, 1)], ids=["a few rows", "a lone last row"])
def test_stateful_batches_continue_the_text(batch_size: int, last: int, tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("".join(chr(97 + (i * i + i // 7) % 26) for i in range(2000)))
    data = Text(path, context=10, stateful=True, batch_size=batch_size, shuffle=True)
    data.setup()
    sizes = [len(batch.tokens) for batch in data.train_dataloader()]
    assert len(sizes) > 1 and sizes[-1] == last
    assert data.spec.stateful and data.vocabulary is not None
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        streams = [""] * min(batch_size, len(loader.split[0]))
        for batch in loader:
            for b, row in enumerate(batch.inputs[0].tolist()):
                streams[b] += data.vocabulary.decode(row)
        text = path.read_text()
        assert all(stream in text for stream in streams)
        assert max(map(len, streams)) - min(map(len, streams)) <= 10
