"""Evaluate: python -m src.evaluate <run folder or checkpoint> [split=test] [datamodule.path=other.txt …]

Rebuilds model, data and preparation from the checkpoint alone and measures them again; another file is measured whole.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from src.cli.hydra_app import errors_for_people, parsed, parser_of_a_run
from src.core.console import echo
from src.core.data_spec import SPLITS
from src.core.errors import UserError, nearest
from src.run_store.run_folder import RunFolder


def evaluate(path: Path, split: str = "test", overrides: Sequence[str] = ()) -> dict[str, float]:
    """Return the metrics of a trained model on one split.

    Args:
        path: a run folder or a checkpoint.
        split: ``train``, ``val`` or ``test``.
        overrides: keys of the recorded config to change, such as ``datamodule.path=other.txt``; that file is measured
            as a whole, as test.

    Raises:
        UserError: if there is no such run, split or key.
    """
    return _measured(path, split, overrides)[0]


def _measured(path: Path, split: str, overrides: Sequence[str]) -> tuple[dict[str, float], int]:
    """Return the metrics, and of how many examples."""
    if split not in SPLITS:
        raise UserError(f"split={split}: {nearest(split, SPLITS)}")
    if not path.is_file():
        RunFolder.open(path)  # a wrong path is answered before torch is loaded
    changed = {change.partition("=")[0] for change in overrides}
    whole = "datamodule.path" in changed and "datamodule.test_path" not in changed
    if whole and split != "test":
        raise UserError(f"split={split}: the file that datamodule.path names is measured as a whole, as test")
    from src.training.inference import load, measure

    loaded = load(path, overrides)
    loaded.datamodule.ask_for(split, whole)
    return measure(loaded, split), len(loaded.datamodule.split(split)[0])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of_a_run("python -m src.evaluate", __doc__)
    parser.add_argument("changes", nargs="*", default=[], help="split=train|val|test, and keys of the recorded config")
    words = parsed(parser, argv)
    with errors_for_people():
        changes = [change for change in words.changes if not change.startswith("split=")]
        split = next((change[6:] for change in words.changes if change.startswith("split=")), "test")
        metrics, count = _measured(words.run, split, changes)
        if words.json:
            echo(json.dumps(metrics))
        else:
            width = max(map(len, metrics))
            echo("\n".join(f"{name:<{width}}  {value:.4f}" for name, value in metrics.items()))
            echo(f"of {count:,} examples")


if __name__ == "__main__":
    main(sys.argv[1:])
