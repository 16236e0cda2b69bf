"""Help texts: an overview on one screen, the options of a config group, and the keys of an option."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from src.config.groups import SWEEPS, groups, option_folders, summary, sweeps
from src.core.console import echo
from src.core.errors import UserError, nearest

OVERVIEW = """\
Train a model, evaluate it and record the run.

  python -m src.train model=transformer optimizer=adamw       choose options
  python -m src.train optimizer.lr=0.01 trainer.max_epochs=5  set keys
  python -m src.train regularization=[dropout,l2]             combine presets
  python -m src.train -m model=mlp,cnn optimizer.lr=0.01,0.1  sweep all pairs
  python -m src.train -m +sweeps=learning_rate search=optuna  search a range
  python -m src.train -m model=mlp,cnn --dry-run              check a sweep
  python -m src.train resume=outputs/runs/…                   resume a run

Groups, with the number of their options:
{groups}
--help GROUP         the options of a group, such as --help model
--help GROUP=OPTION  the keys of an option: default, allowed values, meaning
--help SECTION       the keys of a section, such as --help sweep
--cfg job            print the whole config; --hydra-help: Hydra's own flags
Other commands: gridlight. Documentation: README.md and docs/."""

_OPTION_GROUPS_OF_HYDRA = ("hydra/launcher", "hydra/sweeper")


def help_topic(argv: Sequence[str]) -> str | None:
    """Return what a command line asks help about: a topic, an empty text for the overview, or None if it asks for no help."""
    for position, argument in enumerate(argv):
        if argument.startswith("--help="):
            return argument.removeprefix("--help=")
        if argument in ("-h", "--help"):
            following = argv[position + 1] if position + 1 < len(argv) else ""
            return "" if following.startswith("-") else following
    return None


def help_text(topic: str, argv: Sequence[str] = ()) -> str:
    """Return the help about a topic.

    Args:
        topic: empty for the overview, a config group, ``group=option``, or a section of the config.
        argv: the command line, whose config folders are searched.

    Raises:
        UserError: if there is no such group or option.
    """
    roots = option_folders(argv)
    options = {
        group: names
        for group, names in groups(roots).items()
        if "hydra" not in group or group in _OPTION_GROUPS_OF_HYDRA
    } | {"sweeps": sweeps()}
    if not topic:
        return OVERVIEW.format(groups=_columns([f"{group} ({len(names)})" for group, names in options.items()]))
    group, _, option = topic.lstrip("+").partition("=")
    if group not in options:
        return _section_help(group, options, roots[-1] / "train.yaml")
    if not option:
        return _group_help(group, options[group])
    if option not in options[group]:
        raise UserError(f"--help {topic}: {nearest(option, options[group])}")
    folders = [SWEEPS] if group == "sweeps" else [root / group for root in roots]
    path = next(folder / f"{option}.yaml" for folder in folders if (folder / f"{option}.yaml").is_file())
    return _option_help(group, option, path)


def _columns(texts: Sequence[str]) -> str:
    """Return texts in three columns."""
    width = max(map(len, texts)) + 2
    rows = [texts[start : start + 3] for start in range(0, len(texts), 3)]
    return "".join("  " + "".join(text.ljust(width) for text in row).rstrip() + "\n" for row in rows)


def _group_help(group: str, options: Mapping[str, str]) -> str:
    width = max(map(len, options))
    plus, sweep = ("+", " with -m") if group == "sweeps" else ("", "")
    lines = [f"{group}: {len(options)} options, chosen by {plus}{group}=OPTION{sweep}", ""]
    lines += [f"  {name:<{width}}  {text}" for name, text in options.items()]
    return "\n".join([*lines, "", f"The keys of an option: --help {group}={next(iter(options))}"])


class Key(NamedTuple):
    """A key of an option file: dotted name, default as written, and comment."""

    name: str
    default: str
    comment: str


def read_keys(path: Path, group: str) -> list[Key]:
    """Return the keys of an option file.

    Args:
        path: the file.
        group: config group of the option, which is the prefix of its keys unless the file is in the global package.
    """
    import yaml  # lazy: doctor runs without it

    text = path.read_text(encoding="utf-8")
    is_global = bool(re.search(r"^#\s*@package\s+_global_", text, re.MULTILINE)) or path.name == "train.yaml"
    node = yaml.compose(text, Loader=yaml.CSafeLoader)
    prefix = "" if is_global else f"{group.replace('/', '.')}."
    lines = text.splitlines()
    keys = _keys_of(node, prefix, lines) if isinstance(node, yaml.MappingNode) else []
    return [
        key
        for key in keys
        if key.name != f"{group}.name" and not (path.name == "train.yaml" and key.name.startswith("hydra."))
    ]


def _keys_of(node: Any, prefix: str, lines: Sequence[str]) -> Iterator[Key]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if key.value in ("_target_", "defaults"):
            continue
        if value.id == "mapping" and value.value:
            if [inner.value for inner, _ in value.value] == ["_target_"]:
                yield Key(name, "on", "it has no keys; null removes it")
            yield from _keys_of(value, f"{name}.", lines)
            continue
        end = value.end_mark
        line = lines[end.line] if end.line < len(lines) else ""
        default = _source(value, lines)
        yield Key(name, default, line[end.column :].partition("#")[2].strip())


def _source(node: Any, lines: Sequence[str]) -> str:
    """Return a value as it is written, on one line; ``= key`` if it is that of another key."""
    start, end = node.start_mark, node.end_mark
    if start.line == end.line:
        return re.sub(r"^\$\{([\w.]+)\}$", r"= \1", lines[start.line][start.column : end.column])
    middle = lines[start.line + 1 : end.line]
    return " ".join(
        part.strip() for part in (lines[start.line][start.column :], *middle, lines[end.line][: end.column])
    )


def _option_help(group: str, option: str, path: Path) -> str:
    heading = f"{'+' if group == 'sweeps' else ''}{group}={option}: {summary(path)}"
    keys = read_keys(path, group)
    table = _table(keys, schemas_of_file(group, path)) if keys else "It has no keys of its own."
    bases = [base for base in _document(path).get("defaults", ()) if isinstance(base, str) and base != "_self_"]
    based = [f"The keys of the option that it is based on: --help {group}={base}" for base in bases if base[0] != "_"]
    return "\n\n".join([heading, table, *based])


def _document(path: Path) -> dict[str, Any]:
    """Return the contents of an option file."""
    import yaml  # lazy, as in read_keys

    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader) or {}


def _section_help(name: str, options: Mapping[str, object], file: Path) -> str:
    """Return the help about a section or key of conf/train.yaml."""
    every = read_keys(file, "")
    keys = [key for key in every if key.name == name or key.name.startswith(f"{name}.")]
    if not keys:
        sections = {key.name.partition(".")[0] for key in every}
        raise UserError(f"--help {name}: {nearest(name, [*options, *sections])}")
    return _table(keys, schemas_of_file(name.partition(".")[0], file))


def schemas_of_file(group: str, path: Path) -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each key of an option, by its dotted name."""
    from src.config.schema import callbacks, launcher, registry, search, trainer
    from src.config.schema.regularization import Regularization
    from src.config.schema.run import Config

    document = _document(path)
    if group in registry.SCHEMAS:
        option = document.get(group, document)
        schema: Any = registry.SCHEMAS[group].get(option.get("_target_") or "")
        return _properties(schema, f"{group}.")
    if group == "callbacks":
        entries = {name: entry for name, entry in document.items() if isinstance(entry, dict)}
        schemas = {name: callbacks.ENTRIES.get(str(entry.get("_target_"))) for name, entry in entries.items()}
        return {
            key: each
            for name, schema in schemas.items()
            for key, each in _properties(schema, f"{group}.{name}.").items()
        }
    launchers = {"submitit_slurm": launcher.SlurmSettings, "ray": launcher.RaySettings}
    single = {
        "trainer": trainer.TrainerOption,
        "regularization": Regularization,
        "search": search.SEARCHES.get(path.stem),
        "hydra/launcher": launchers.get(path.stem),
    }
    if group in single:
        return _properties(single[group], f"{group.replace('/', '.')}.")
    return _properties(Config, "")


def _properties(schema: Any, prefix: str) -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each field of a pydantic model, nested models included, by its dotted name."""
    if schema is None:
        return {}
    document = schema.model_json_schema()
    definitions = document.get("$defs", {})

    def walk(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, field in node.get("properties", {}).items():
            field = definitions.get(field.get("$ref", "").rpartition("/")[2], field)
            if "properties" in field:
                yield from walk(field, f"{prefix}{name}.")
            yield f"{prefix}{name}", field

    return dict(walk(document, prefix))


def allowed(schema: Mapping[str, Any]) -> str:
    """Return the allowed values of a JSON schema as text, such as ``0 to 1`` or ``tanh | relu``."""
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(filter(None, map(allowed, schema["anyOf"]))))
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type")
    if kind == "boolean":
        return "true | false"
    if kind == "array":
        items = allowed(schema.get("items", {}))
        return f"list of {items}" if items else "list"
    if kind in ("integer", "number"):
        return f"{kind}{_range(schema)}"
    return {"string": "text", "null": "null", "object": "mapping"}.get(str(kind), "")


def _range(schema: Mapping[str, Any]) -> str:
    """Return the bounds of a number: `` from 0 to 1``, `` above 0``."""
    prepositions = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    return "".join(f" {preposition} {schema[name]:,}" for name, preposition in prepositions.items() if name in schema)


def _table(keys: Sequence[Key], schemas: Mapping[str, dict[str, Any]]) -> str:
    """Return a table of keys that fits the terminal."""
    from io import StringIO
    from shutil import get_terminal_size

    from rich.console import Console

    from src.core.tables import new_table

    table = new_table("key", "default", "allowed", "meaning")
    table.box, table.columns[0].no_wrap = None, True
    for key in keys:
        table.add_row(key.name, key.default, allowed(schemas.get(key.name, {})), key.comment)
    console = Console(
        file=StringIO(),
        width=max(60, get_terminal_size().columns),
        color_system=None,
        markup=False,
        emoji=False,
        highlight=False,
    )
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def print_topic_help(argv: Sequence[str]) -> bool:
    """Print the help about a config group, an option or a section if a command line asks for it; return whether it does."""
    topic = help_topic(argv)
    if not topic or not re.fullmatch(r"\+?[a-z_/.]+(=[\w-]*)?", topic):
        return False
    echo(help_text(topic, argv))
    return True
