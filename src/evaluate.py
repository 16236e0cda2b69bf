"""Evaluate: python -m src.evaluate <run folder or checkpoint> [split=test] [datamodule.path=other.txt …]

Rebuilds the model, the data and their preparation from the checkpoint alone and computes the metrics again. Another file is
evaluated as a whole.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from src.cli.hydra_app import parse_arguments, report_user_errors, run_parser
from src.core.console import echo
from src.core.data_spec import SPLITS
from src.core.errors import UserError, nearest
from src.run_store.run_folder import RunFolder


def evaluate(path: Path, split: str = "test", overrides: Sequence[str] = ()) -> dict[str, float]:
    """Return the metrics of a trained model on one split.

    Args:
        path: run folder or checkpoint.
        split: ``train``, ``val`` or ``test``.
        overrides: keys of the recorded config to change, such as ``datamodule.path=other.txt``; that file is evaluated as a
            whole, as test.

    Raises:
        UserError: if there is no such run, split or key.
    """
    return _evaluate(path, split, overrides)[0]


def _evaluate(path: Path, split: str, overrides: Sequence[str]) -> tuple[dict[str, float], int]:
    """Return the metrics and the number of examples."""
    if split not in SPLITS:
        raise UserError(f"split={split}: {nearest(split, SPLITS)}")
    if not path.is_file():
        RunFolder.open(path)  # report a wrong path before torch is loaded
    keys = {override.partition("=")[0] for override in overrides}
    whole = "datamodule.path" in keys and "datamodule.test_path" not in keys
    if whole and split != "test":
        raise UserError(f"split={split}: the file that datamodule.path names is evaluated as a whole, as test")
    from src.training.inference import evaluate_split, load

    loaded = load(path, overrides)
    loaded.datamodule.load_only(split, whole)
    return evaluate_split(loaded, split), len(loaded.datamodule.split(split)[0])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = run_parser("python -m src.evaluate", __doc__)
    parser.add_argument(
        "overrides", nargs="*", default=[], help="split=train|val|test, and keys of the recorded config"
    )
    options = parse_arguments(parser, argv)
    with report_user_errors():
        overrides = [override for override in options.overrides if not override.startswith("split=")]
        splits = [override[6:] for override in options.overrides if override.startswith("split=")]
        metrics, count = _evaluate(options.run, splits[0] if splits else "test", overrides)
        if options.json:
            echo(json.dumps(metrics))
        else:
            from src.core.tables import show, two_columns

            show(two_columns(((name, f"{value:.4f}") for name, value in metrics.items()), numbers=True))
            echo(f"of {count:,} examples")


if __name__ == "__main__":
    main(sys.argv[1:])
