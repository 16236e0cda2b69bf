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
        vocabulary_size: number of tokens, for byte pairs.
        options: other arguments of `Text`, except `path`.
    """

    def __init__(self, verify: bool = True, vocabulary_size: int = 2000, **options: Any) -> None:
        super().__init__(Path(FILE.path), vocabulary_size=vocabulary_size, **options)
        self.verify = verify

    def _read(self) -> str:
        return FILE.read_text(self.data_dir, self.verify, self.write_dir)
