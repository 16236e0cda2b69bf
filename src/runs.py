"""Find, mark, delete, train again and export runs: `python -m src.runs`. Its help is in `src.cli.runs`."""

import os
import re
import sys
from collections.abc import Sequence

from src.cli.hydra_app import errors_for_people, parsed
from src.cli.runs import _one, _parser, delete, rerun, show_list, show_one
from src.core.console import echo
from src.core.errors import UserError
from src.core.escape import line
from src.core.process import end_with_parent


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    if "LOCAL_RANK" in os.environ:  # started by another process of the same run
        end_with_parent()
    words = parsed(_parser(), argv)
    with errors_for_people():
        from src.run_store.archive import archive, change, named, runs_in, select

        match words.verb:
            case "list":
                runs = [run for run in runs_in(words.outputs) if words.archived or not run.archived]
                show_list(select(runs, words.conditions), words.json)
            case "show":
                show_one(_one([words.run], words.outputs))
            case "tag":
                for word in () if words.remove else words.tags:
                    if not re.fullmatch(r"\w[\w.:+@/-]{0,63}", word):
                        raise UserError(f"{word!r}: a tag is a word of letters, digits and . : + @ / - _, at most 64")
                for run in named([words.run], words.outputs):
                    added = [] if words.remove else words.tags
                    kept = [tag for tag in run.tags if tag not in words.tags]
                    change(run, tags=[*kept, *dict.fromkeys(added)])
                    echo(line(f"{run.id}: {' '.join(run.tags) or 'no tags'}"))
            case "note":
                for run in named([words.run], words.outputs):
                    change(run, notes=words.text or None)
            case "archive" | "restore":
                runs = named(words.run, words.outputs)
                for run in runs:
                    archive(run, back=words.verb == "restore")
                echo(f"{words.verb}d {len(runs)} {'run' if len(runs) == 1 else 'runs'}")
            case "delete":
                delete(named(words.run, words.outputs), words.yes)
            case "rerun":
                rerun(_one([words.run], words.outputs), words.changes, words.outputs)
            case "export":
                from src.exporters.run_package import pack

                pack(_one([words.run], words.outputs), words.target, words.apply_changes)


if __name__ == "__main__":
    main(sys.argv[1:])
