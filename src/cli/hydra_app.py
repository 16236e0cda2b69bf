"""The command line of a run: help, composition, and errors for people."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from src.compat.hydra_version import version_base
from src.config.groups import CONF, groups, search_roots, sweeps
from src.config.overrides import arguments, readable
from src.core.console import Parser, echo, escape_diagnostics
from src.core.errors import JobsFailed, UserError, nearest

_NEEDED = {"hydra", "omegaconf", "pydantic", "yaml", "torch", "lightning", "torchmetrics", "rich"}
"""Packages without which nothing runs: where one is missing, it is the wrong Python."""

_ONE_OPTION = ("model", "datamodule", "optimizer", "scheduler", "trainer")
"""Groups of which a run has one option; the others combine."""

_FLAGS = ("--help", "--multirun", "--dry-run", "--cfg", "--config-dir", "--hydra-help", "--trust", "--trust-host")
"""Those that people need, for the nearest match."""


@contextmanager
def errors_for_people() -> Iterator[None]:
    """Show a user's mistake in one screen, without a traceback, and leave with exit code 2."""
    if sys.stdout is None:  # it was closed by whoever started us
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
    escape_diagnostics()
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        message = f"error: {sys.executable} lacks '{error.name}'. First: source .venv/bin/activate (README, set-up)"
        echo(message, file=sys.stderr)
        raise SystemExit(2) from None
    except UserError as error:
        echo("error: " + str(error).replace("\n", "\n       "), file=sys.stderr)
        raise SystemExit(2) from None
    except JobsFailed as error:
        echo(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except BrokenPipeError:  # whoever reads what we print, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except KeyboardInterrupt as stop:
        echo(f"\ninterrupted; {stop}" if str(stop) else "\ninterrupted", file=sys.stderr)
        raise SystemExit(130) from None


def parser_of_a_run(command: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a command whose first word is a run."""
    parser = Parser(command, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser._negative_number_matcher = re.compile(r"-[.\d]")  # a row may begin with a negative number
    parser.add_argument("run", type=Path, help="a run folder (its best weights are taken) or a checkpoint")
    parser.add_argument("--json", action="store_true", help="JSON, one line an answer")
    add_trust_options(parser)
    return parser


def without_trust_flags(argv: Sequence[str]) -> list[str]:
    """Trust what ``--trust`` and ``--trust-host`` name, and return the command line without them."""
    if not any(token.startswith("--trust") for token in argv):
        return list(argv)  # nothing to do, and the table of classes is not imported
    from src.config.trust import take_trust_flags

    return take_trust_flags(argv)


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line in which ``--trust`` and ``--trust-host`` may be between arguments that form one list.

    Args:
        parser: of a verb with `add_trust_options`.
        argv: the command line; by default that of the process.
    """
    with errors_for_people():
        rest = without_trust_flags(sys.argv[1:] if argv is None else argv)
    return parser.parse_args(rest)


def add_trust_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust`` and ``--trust-host`` to a verb that builds something from a recorded config."""
    parser.add_argument(
        "--trust",
        metavar="MODULE",
        action=_Trust,
        help="let the recorded config name classes of this module, which is imported and can run any code",
    )
    parser.add_argument(
        "--trust-host", metavar="HOST", action=_Trust, help="let the recorded config send data to this host"
    )


class _Trust(argparse.Action):
    """Passes the value of a flag to `src.config.trust`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        with errors_for_people():
            without_trust_flags([str(option_string), str(values)])


def run_to_resume(argv: Sequence[str]) -> str | None:
    """Return the run that a command line goes on with, which needs no composition: its config is recorded. None where
    there is no such run, or where the command has flags or words that only Hydra can answer.
    """
    if not any(word.startswith("resume=") for word in argv) or any(w.startswith("-") or "=" not in w for w in argv):
        return None
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides([readable(word) for word in argv])
    except HydraException:
        return None
    path = next(override for override in reversed(parsed) if override.key_or_group == "resume").value()
    return path if isinstance(path, str) and path else None


def run_with_hydra(task: Callable[..., object], argv: Sequence[str]) -> None:
    """Let Hydra compose the config of the command line and call a task with it, once or, with ``-m``, for a sweep.

    Raises:
        UserError: if the command line names what does not exist.
    """
    flags = [word for word in argv if word in ("-m", "--multirun")]  # argparse takes no words on both sides of a flag
    words = ("sweep.dry_run=true" if word == "--dry-run" else word for word in argv if word not in flags)
    argv = [*flags, *map(readable, words)]
    _refuse_misuse(argv)
    sys.argv[1:] = argv  # Hydra reads the command line from there
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would print, and we explain it
    import hydra

    raised: list[BaseException] = []

    @wraps(task)
    def guarded(cfg: object) -> object:
        try:
            return task(cfg)
        except BaseException as error:  # Hydra would print a line and its own frames around it
            raised.append(error)
            return None

    try:
        with TemporaryDirectory() as scratch:
            os.environ["GRIDLIGHT_SCRATCH"] = scratch  # where a sweep's multirun.yaml goes, which Hydra insists on
            hydra.main(config_path=str(CONF), config_name="train", **version_base())(guarded)()
    except Exception as error:
        from src.config.suggest import explain, refused

        if not refused(error):
            raise
        raise explain(error, argv) from error
    if raised:
        raise raised[0]


def _refuse_misuse(argv: Sequence[str]) -> None:
    """Refuse what Hydra would take in another sense than was meant, or answer in its own words."""
    roots = search_roots(argv)
    many = {"-m", "--multirun"} & set(argv)
    if many and {"--cfg", "-c"} & {word.partition("=")[0] for word in argv}:
        raise UserError("--cfg shows the config of one run: leave out -m, and give one value a key")
    for root in roots[:-1]:
        if not root.is_dir():
            raise UserError(f"{root}: there is no such config folder")
    for word in argv:
        key, equals, value = word.partition("=")
        if equals and key in _ONE_OPTION and value.startswith("[") and "," in value:
            listed = value.strip("[]")
            raise UserError(f"{word}: a run has one {key}. To compare them: -m {key}={listed}")
    _refuse_unknown_flags(argv)


def _refuse_unknown_flags(argv: Sequence[str]) -> None:
    """Say what was meant by flags that Hydra does not know, to which it would show its own usage."""
    unknown = arguments(argv)[1]
    if not unknown:
        return
    meant = _without_dashes(argv, unknown)
    from src.config.suggest import explain

    wrong = str(explain(UserError(), meant))
    changed = [word for word in meant if word not in argv]
    if not changed:
        raise UserError(f"{unknown[0]}: overrides stand together, all before or all behind flags")
    raise UserError(f"{unknown[0]}: overrides have no dashes: {' '.join(changed)}" + (wrong and f"\n{wrong}"))


def _without_dashes(argv: Sequence[str], unknown: Sequence[str]) -> list[str]:
    """Return a command line with ``--key=value`` and ``--key value`` as they are meant, ``key=value``.

    Raises:
        UserError: for an unknown flag without a value.
    """
    rest, meant = list(argv), []
    while rest:
        word = rest.pop(0)
        if word in unknown and word.startswith("-"):
            flag, word = word, word.lstrip("-")
            if "=" not in word:
                if not rest or rest[0].startswith("-") or "=" in rest[0]:
                    raise UserError(f"{flag}: there is no such flag. {nearest(flag, _FLAGS)}")
                word = f"{word}={rest.pop(0)}"
        meant.append(word)
    return meant


def help_text(argv: Sequence[str]) -> str:
    """Return what ``--help`` shows: every group with its options, one line each."""
    lines = [
        "Train a model, measure it, record it.",
        "",
        "  python -m src.train model=transformer optimizer=adamw      choose an option of a group",
        "  python -m src.train optimizer.lr=0.01 trainer.max_epochs=5  change a key",
        "  python -m src.train regularization=[dropout,l2]             combine presets",
        "  python -m src.train -m model=mlp,cnn optimizer.lr=1e-3,1e-2 a sweep over all pairs",
        "  python -m src.train -m +sweeps=learning_rate search=optuna  a search over a documented range",
        "  python -m src.train -m model=mlp,cnn --dry-run              check a sweep, show its jobs and their sizes",
        "  python -m src.train resume=outputs/runs/…                   go on with an interrupted run",
        "  python -m src.train --cfg job model=lstm                    print the config and stop",
        "",
        "Groups and their options:",
    ]
    ranges = {"sweeps, added to a command with -m as +sweeps=learning_rate": sweeps()}
    for group, options in (groups(search_roots(argv)) | ranges).items():
        if group.startswith("hydra") and group not in ("hydra/launcher", "hydra/sweeper"):
            continue
        lines += ["", group]
        width = max(map(len, options))
        lines += [f"  {name:<{width}}  {text}" for name, text in options.items()]
    lines += ["", "Every key of the chosen options: python -m src.train --cfg job. Hydra's own flags: --hydra-help."]
    return "\n".join(lines)
