"""Shell completion of the command `gridlight`: verbs, config groups, options, keys, values and run folders."""

import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from src.cli.verbs import VERBS
from src.config.groups import CONF, groups, option_folders, sweeps
from src.core.console import echo
from src.core.errors import nearest

SCRIPTS = {
    "bash": r"""
_gridlight() {
    local IFS=$'\n'
    COMPREPLY=($(gridlight complete bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} != *[=./] ]] || compopt -o nospace 2>/dev/null
}
complete -F _gridlight gridlight
""",
    "zsh": r"""
#compdef gridlight
_gridlight() {
    local -a candidates
    candidates=("${(@f)$(gridlight complete zsh "${words[1,CURRENT]}" 2>/dev/null)}")
    candidates=(${candidates:#})
    compadd -Q -S '' -- $candidates
}
compdef _gridlight gridlight
""",
    "fish": r"""
complete --command gridlight --no-files --arguments '(gridlight complete fish (commandline --cut-at-cursor) 2>/dev/null)'
""",
}
HOW_TO_INSTALL = {
    "bash": 'add to ~/.bashrc: eval "$(gridlight completion bash)"',
    "zsh": 'add to ~/.zshrc, after compinit: eval "$(gridlight completion zsh)"',
    "fish": "gridlight completion fish > ~/.config/fish/completions/gridlight.fish",
}

_OVERRIDES = ("train", "tune", "preview", "doctor")
"""Verbs that accept the overrides of a run."""
_RUNS = ("evaluate", "predict", "export", "compare", "runs", "sync")
"""Verbs that open run folders."""
_ARGUMENTS = {
    "train": ("-m", "--help", "--cfg", "--dry-run", "--config-dir", "--trust", "resume=", "+sweeps="),
    "tune": ("budget=",),
    "preview": ("schedule", "learning_rate", "augmentation"),
    "doctor": ("resume",),
    "runs": ("list", "show", "tag", "note", "archive", "restore", "delete", "rerun", "export"),
    "compare": ("--plots", "--html", "--open", "--watch", "--metric", "--sort", "--filter", "--export", "--diff"),
    "evaluate": ("split=", "--json"),
}


def main(argv: Sequence[str]) -> None:
    """Print the completion script of a shell."""
    if len(argv) != 1 or argv[0] not in SCRIPTS:
        problem = f"error: {argv[0]}: {nearest(argv[0], SCRIPTS)}\n" if argv and argv[0] not in ("-h", "--help") else ""
        lines = [f"  {shell:<6}{text}" for shell, text in HOW_TO_INSTALL.items()]
        echo(f"{problem}Usage: gridlight completion {'|'.join(SCRIPTS)}\n\n" + "\n".join(lines), file=sys.stderr)
        raise SystemExit(2 if problem else 0)
    echo(SCRIPTS[argv[0]].strip())


def print_completions(argv: Sequence[str]) -> None:
    """Print the completions of a command line, one in each line.

    Args:
        argv: the shell, and the command line up to the cursor.
    """
    shell, line = argv
    tokens = _split(line)
    candidates = sorted({text for text in complete(tokens[1:]) if text.startswith(tokens[-1]) and text.isprintable()})
    if shell == "bash":  # which splits tokens at = and :
        start = re.split("[=:]", tokens[-1])[:-1]
        cut = sum(len(part) + 1 for part in start)
        candidates = [text[cut:] for text in candidates]
    for candidate in candidates:
        echo(shlex.quote(candidate) if re.search(r"[\s'\"$;&|<>()\\]", candidate) else candidate)


def _split(line: str) -> list[str]:
    """Return the tokens of a command line; the last one is empty after a blank."""
    try:
        tokens = shlex.split(line)
    except ValueError:  # a quotation is open
        tokens = line.split()
    return [*tokens, ""] if line[-1:].isspace() or len(tokens) < 2 else tokens


def complete(tokens: Sequence[str]) -> Iterator[str]:
    """Yield candidates for the last token.

    Args:
        tokens: the command line without the command: verb, arguments, and the token to complete, which may be empty.
    """
    verb, token = tokens[0], tokens[-1]
    if len(tokens) == 1:
        yield from VERBS
        return
    if verb == "completion":
        yield from SCRIPTS
    yield from _ARGUMENTS.get(verb, ())
    if verb in _OVERRIDES:
        yield from _overrides(tokens[1:-1], token)
    if verb in _RUNS:
        yield from _run_folders(token)


def _overrides(arguments: Sequence[str], token: str) -> Iterator[str]:
    """Yield config groups, options, keys and values."""
    roots = option_folders(arguments)
    options = groups(roots)
    key, equals, value = token.partition("=")
    if not equals:
        yield from (f"{group}=" for group in options)
        for name in _keys(arguments, roots, options):
            section, dot, _ = name.partition(".")
            yield f"{name}=" if "." in token or not dot else f"{section}."
    elif key == "resume" or key == "sweep.resume":
        yield from (f"{key}={folder}" for folder in _run_folders(value))
    elif key.lstrip("+") == "sweeps":
        yield from (f"{key}={name}" for name in sweeps())
    elif key in options:
        begin = value[: max(value.rfind(","), value.rfind("[")) + 1]  # of a sweep or a list
        yield from (f"{key}={begin}{name}" for name in options[key])
    else:
        yield from (f"{key}={choice}" for choice in _values(key, arguments, roots, options))


def _chosen_files(
    arguments: Sequence[str], roots: Sequence[Path], options: Iterable[str]
) -> Iterator[tuple[str, Path]]:
    """Yield the option files that a command line chooses, and those of the default config for the other groups."""
    import yaml

    defaults = yaml.load((CONF / "train.yaml").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)["defaults"]
    chosen = {
        key.removeprefix("override "): name
        for entry in defaults
        if isinstance(entry, dict)
        for key, name in entry.items()
    }
    chosen = {key.lstrip("/"): name for key, name in chosen.items()}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in options:
            chosen[key] = value.strip("[]").partition(",")[0]
    for group, name in chosen.items():
        path = next((file for root in roots if (file := root / group / f"{name}.yaml").is_file()), None)
        if path is not None:
            yield group, path


def _keys(arguments: Sequence[str], roots: Sequence[Path], options: Iterable[str]) -> list[str]:
    """Return the keys of the chosen options and of the sections of the config."""
    from src.cli.help import read_keys

    files = list(_chosen_files(arguments, roots, options))
    keys = [key.name for group, path in files for key in read_keys(path, group)]
    return [*keys, *(key.name for key in read_keys(CONF / "train.yaml", ""))]


def _values(key: str, arguments: Sequence[str], roots: Sequence[Path], options: Iterable[str]) -> list[str]:
    """Return the values of a key that has a limited number of them."""
    from src.cli.help import allowed, schemas_of_file

    group = key.partition(".")[0]
    files = dict(_chosen_files(arguments, roots, options))
    schemas = schemas_of_file(group, files.get(group, CONF / "train.yaml"))
    parts = [part.strip() for part in allowed(schemas.get(key, {})).split("|")]
    return [
        part
        for part in parts
        if re.fullmatch(r"[\w.-]+", part) and part not in ("integer", "number", "text", "mapping")
    ]


def _run_folders(token: str) -> Iterator[str]:
    """Yield folders that contain runs or are runs, and checkpoints; the outputs folder if nothing is typed."""
    folder = Path(token) if token.endswith("/") else Path(token).parent
    if not token:
        folder = Path()
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        text = (
            entry.as_posix() if token.startswith(("/", "./")) is False else f"{token.rpartition('/')[0]}/{entry.name}"
        )
        if entry.is_dir() and not entry.name.startswith("."):
            yield text if (entry / "run.json").is_file() else f"{text}/"
        elif entry.suffix == ".ckpt":
            yield text
