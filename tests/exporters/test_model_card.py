"""A model card escapes every name and value of a run."""

from pathlib import Path
from typing import Any

import pytest

from src.core.data_spec import DataSpec
from src.exporters.model_card import model_card
from src.run_store.run_folder import RunFolder
from tests.core.test_console import acts
from tests.core.test_escape import tokens_of
from tests.hostile import HOSTILE


def config(text: str) -> dict[str, Any]:
    """Return a config with a text in every place that a card shows."""
    return {
        "model": {"name": text, text: text},
        "datamodule": {"name": text, text: text},
        "optimizer": {"name": text, text: text},
        "scheduler": {"name": text},
        "regularization": {text: text},
        "trainer": {"max_epochs": text},
        "seed": text,
    }


@pytest.mark.parametrize("text", ("plain", *HOSTILE), ids=ascii)
def test_a_card_escapes_every_text(text: str, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", config("plain"), [])
    folder.config = lambda: config(text)  # type: ignore[method-assign]
    folder.record = folder.record | {
        "best": {f"val/{text}": 1.0},
        "final": {f"test/{text}": 0.5},
        "best_epoch": 1,
        "monitor": text,
        "command": text,
        "started": text,
        "config_hash": text,
        "git": {"revision": text, "diff": text},
        "packages": {text: text},
        "hardware": {"cpu": text},
    }
    names = (text, "b")
    spec = DataSpec("classification", text, (4, text), (2,), class_names=names, feature_names=names, target_names=names)  # type: ignore[arg-type]
    card = model_card(folder, folder.config(), spec, "Use it.", {text: text})
    tokens = tokens_of(card)
    kinds = {token.type for token in tokens}
    assert not kinds & {"html_inline", "html_block", "link_open", "image", "em_open", "s_open", "fence", "code_block"}
    assert not acts(card) and "](" not in card.replace("\\](", "")
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1", *["h2"] * 8]
    assert sum(token.type == "table_open" for token in tokens) == 5
    folder._release()
