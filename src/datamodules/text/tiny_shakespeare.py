"""Tiny shakespeare: 1,115,394 characters of plays, a standard introductory text for language models (Karpathy 2015)."""

from pathlib import Path
from typing import Any

from src.datamodules.io.downloads import PublicFile
from src.datamodules.text.language_modelling import Text

FILE = PublicFile(
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "tiny_shakespeare/input.txt",
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    also=("tinyshakespeare/input.txt", "shakespeare_char/input.txt"),
)


class TinyShakespeare(Text):
    """The Tiny Shakespeare text. The usual held-out part is the last 10 %; here it is halved into val and test.

    Args:
        verify: reject a file that differs from the published one.
        tokens, vocabulary_size, context, stateful, val_fraction, test_fraction, batch_size, seed, shuffle: as for
            `Text`.
    """

    def __init__(
        self,
        verify: bool = True,
        tokens: str = "characters",
        vocabulary_size: int = 2000,
        context: int = 64,
        stateful: bool = False,
        val_fraction: float = 0.05,
        test_fraction: float = 0.05,
        batch_size: int = 64,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        windows = (context, stateful, val_fraction, test_fraction)
        common: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "shuffle": shuffle}
        super().__init__(Path(FILE.path), tokens, vocabulary_size, *windows, **common)
        self.verify = verify

    def _read(self) -> str:
        return FILE.read_text(self.data_dir, self.verify, self.write_dir)
