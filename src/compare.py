"""Compare runs: `python -m src.compare`. Its help is in `src.cli.compare`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from src.cli.compare import parser, read, read_wandb, report, scaling, show
from src.cli.hydra_app import errors_for_people
from src.core.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    words = parser().parse_intermixed_args(argv)
    with errors_for_people():
        from src.comparison.filters import is_condition

        folders = [Path(word) for word in words.words if Path(word).exists() or not is_condition(word)]
        words.filter += [word for word in words.words if not Path(word).exists() and is_condition(word)]
        if bool(folders) == bool(words.wandb):
            taken = f" ({', '.join(words.filter)}: taken for a condition)" if words.filter else ""
            raise UserError(
                "which runs? python -m src.compare outputs/sweeps/<name>, any folder that holds runs, or "
                f"--wandb entity/project{taken}"
            )
        if (words.report and not words.wandb) or (words.scaling and words.wandb):
            raise UserError("--report goes with --wandb, and --scaling with folders")
        if words.wandb:
            views = show(lambda: read_wandb(words.wandb, words.into), words)
            if words.report:
                report(words.wandb, views, filtered=bool(words.filter))
            return
        show(lambda: read(folders, words.into), words)
        if words.scaling:
            found = read(folders, words.into)
            scaling(found.into, found.runs, words.scaling)


if __name__ == "__main__":
    main(sys.argv[1:])
