"""The command `gridlight`: gridlight train model=lstm is python -m src.train model=lstm."""

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from src import ROOT
from src.cli.verbs import VERBS
from src.core.console import echo
from src.core.errors import nearest


def overview() -> str:
    """Return the list of verbs."""
    verbs = [f"  {verb:<12}{text}" for verb, text in VERBS.items()]
    usage = "Usage: gridlight VERB …, the same as python -m src.…; gridlight VERB --help"
    return "\n".join(["Train, compare and use neural networks.", "", *verbs, "", usage])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: verb and its arguments; by default those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help"):
        echo(overview())
        return
    if verb == "complete":  # called by the completion scripts
        from src.cli.completion import print_completions

        print_completions(arguments[1:])
        return
    if verb not in VERBS:
        echo(f"error: {verb}: {nearest(verb, VERBS)}", file=sys.stderr)
        raise SystemExit(2)
    if verb == "completion":
        from src.cli.completion import main as completion

        completion(arguments[1:])
        return
    find_own_modules()
    sys.argv[1:] = arguments[1:]
    runpy.run_module(f"src.{verb}", run_name="__main__", alter_sys=True)


def find_own_modules() -> None:
    """Let the configs name classes of modules in the working directory, as ``python -m`` does.

    The folder comes last, so that a package `src` of the user's project does not replace Gridlight's, in this process or in
    those that it starts.
    """
    folder = Path.cwd()
    sys.path.append(str(folder))
    if (folder / "src" / "__init__.py").is_file() and folder != ROOT:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")]), str(folder)]
        os.environ |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(paths)}


if __name__ == "__main__":
    main()
