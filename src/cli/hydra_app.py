"""Command line of a run: help, composition with Hydra, and reporting of user errors."""

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

from src.cli.help import print_topic_help
from src.compat.hydra_version import version_base
from src.config.groups import CONF, search_roots
from src.config.overrides import parse_argv, quote_override
from src.core.console import Parser, echo, escape_diagnostics
from src.core.errors import JobsFailed, UserError, nearest

_NEEDED = {"hydra", "omegaconf", "pydantic", "yaml", "torch", "lightning", "torchmetrics", "rich"}
"""Packages that every command needs: if one is missing, the Python environment is the wrong one."""

_ONE_OPTION = ("model", "datamodule", "optimizer", "scheduler", "trainer")
"""Groups of which a run has exactly one option; options of other groups combine."""

_FLAGS = ("--help", "--multirun", "--dry-run", "--cfg", "--config-dir", "--hydra-help", "--trust", "--trust-host")
"""Flags that are suggested for a mistyped one."""


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Report invalid user input in one screen, without a traceback, and exit with code 2."""
    if sys.stdout is None:  # closed by the parent process
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
    except BrokenPipeError:  # the reader of the output, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except KeyboardInterrupt as stop:
        echo(f"\ninterrupted; {stop}" if str(stop) else "\ninterrupted", file=sys.stderr)
        raise SystemExit(130) from None


def run_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a command whose first argument is a run."""
    parser = Parser(command, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser._negative_number_matcher = re.compile(r"-[.\d]")  # an input row may begin with a negative number
    parser.add_argument("run", type=Path, help="run folder (its best weights are used) or checkpoint")
    parser.add_argument("--json", action="store_true", help="print JSON, one line for each result")
    add_trust_options(parser)
    return parser


def consume_trust_flags(argv: Sequence[str]) -> list[str]:
    """Trust what ``--trust`` and ``--trust-host`` name, and return the command line without them."""
    if not any(argument.startswith("--trust") for argument in argv):
        return list(argv)  # avoids the import of the table of classes
    from src.config.trust import parse_trust_flags

    return parse_trust_flags(argv)


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line in which ``--trust`` and ``--trust-host`` may be between arguments that form one list.

    ``--help GROUP`` prints the help about a config group, as for `src.train`.

    Args:
        parser: parser of a verb with `add_trust_options`.
        argv: command line; by default that of the process.
    """
    with report_user_errors():
        rest = consume_trust_flags(sys.argv[1:] if argv is None else argv)
        if print_topic_help(rest):
            raise SystemExit(0)
    return parser.parse_args(rest)


def add_trust_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust`` and ``--trust-host`` to a verb that builds something from a recorded config."""
    parser.add_argument(
        "--trust",
        metavar="MODULE",
        action=_Trust,
        help="allow the recorded config to name classes of this module, which is imported and can run any code",
    )
    parser.add_argument(
        "--trust-host", metavar="HOST", action=_Trust, help="allow the recorded config to send data to this host"
    )


class _Trust(argparse.Action):
    """Pass the value of a flag to `src.config.trust`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        with report_user_errors():
            consume_trust_flags([str(option_string), str(values)])


def run_to_resume(argv: Sequence[str]) -> str | None:
    """Return the run that a command line resumes. Its config is recorded, so that Hydra need not compose one.

    None if the command resumes no run, or if it has flags or arguments that only Hydra can handle.
    """
    if not any(argument.startswith("resume=") for argument in argv):
        return None
    if any(argument.startswith("-") or "=" not in argument for argument in argv):
        return None
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        overrides = OverridesParser.create().parse_overrides(list(map(quote_override, argv)))
    except HydraException:
        return None
    path = next(override for override in reversed(overrides) if override.key_or_group == "resume").value()
    return path if isinstance(path, str) and path else None


def run_with_hydra(task: Callable[..., object], argv: Sequence[str]) -> None:
    """Compose the config of the command line with Hydra and call a task with it, once or, with ``-m``, for a sweep.

    Raises:
        UserError: if the command line names what does not exist.
    """
    flags = [argument for argument in argv if argument in ("-m", "--multirun")]
    others = (
        "sweep.dry_run=true" if argument == "--dry-run" else argument for argument in argv if argument not in flags
    )
    argv = [
        *flags,
        *map(quote_override, others),
    ]  # flags first: argparse does not accept overrides on both sides of one
    _refuse_misuse(argv)
    sys.argv[1:] = argv  # where Hydra reads the command line
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them
    import hydra

    raised: list[BaseException] = []

    @wraps(task)
    def guarded(cfg: object) -> object:
        try:
            return task(cfg)
        except BaseException as error:  # Hydra would print it with its own frames
            raised.append(error)
            return None

    try:
        with TemporaryDirectory() as scratch:
            os.environ["GRIDLIGHT_SCRATCH"] = scratch  # for multirun.yaml, which Hydra always writes for a sweep
            hydra.main(config_path=str(CONF), config_name="train", **version_base())(guarded)()
    except Exception as error:
        from src.config.suggest import explain, is_config_error

        if not is_config_error(error):
            raise
        raise explain(error, argv) from error
    if raised:
        raise raised[0]


def _refuse_misuse(argv: Sequence[str]) -> None:
    """Refuse command lines that Hydra would interpret differently or report with its own message."""
    roots = search_roots(argv)
    is_sweep = {"-m", "--multirun"} & set(argv)
    if is_sweep and {"--cfg", "-c"} & {argument.partition("=")[0] for argument in argv}:
        raise UserError("--cfg prints the config of one run: leave out -m, and give each key one value")
    for root in roots[:-1]:
        if not root.is_dir():
            raise UserError(f"{root}: there is no such config folder")
    for argument in argv:
        key, equals, value = argument.partition("=")
        if equals and key in _ONE_OPTION and value.startswith("[") and "," in value:
            raise UserError(f"{argument}: a run has one {key}. To compare them: -m {key}={value.strip('[]')}")
    _refuse_unknown_flags(argv)


def _refuse_unknown_flags(argv: Sequence[str]) -> None:
    """Report flags that Hydra does not know, with a correction; Hydra would print its own usage."""
    unknown = parse_argv(argv)[1]
    if not unknown:
        return
    corrected = _without_dashes(argv, unknown)
    from src.config.suggest import explain

    explanation = str(explain(UserError(), corrected))
    overrides = [argument for argument in corrected if argument not in argv]
    if not overrides:
        raise UserError(f"{unknown[0]}: overrides must be together, all before or all after the flags")
    message = f"{unknown[0]}: overrides have no dashes: {' '.join(overrides)}"
    raise UserError(f"{message}\n{explanation}" if explanation else message)


def _without_dashes(argv: Sequence[str], unknown: Sequence[str]) -> list[str]:
    """Return a command line with ``--key=value`` and ``--key value`` corrected to ``key=value``.

    Raises:
        UserError: for an unknown flag without a value.
    """
    rest, corrected = list(argv), []
    while rest:
        argument = rest.pop(0)
        if argument in unknown and argument.startswith("-"):
            flag, argument = argument, argument.lstrip("-")
            if "=" not in argument:
                if not rest or rest[0].startswith("-") or "=" in rest[0]:
                    raise UserError(f"{flag}: there is no such flag. {nearest(flag, _FLAGS)}")
                argument = f"{argument}={rest.pop(0)}"
        corrected.append(argument)
    return corrected
