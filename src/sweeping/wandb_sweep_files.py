"""Write a W&B sweep file for every range of sweeps/: python -m src.sweeping.wandb_sweep_files

    wandb sweep sweeps/wandb/learning_rate.yaml
    wandb agent <the id that it prints>

The agents run ``python -m src.train +sweeps=<name> key=value …``: the fixed choices of the range (an optimizer, a schedule)
come from the same file as in a local sweep, and its values are copied from there. A test compares the two.
"""

from collections.abc import Iterator
from typing import Any

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from src.config.groups import SWEEPS, summary, sweeps
from src.config.isolated_hydra import isolated_hydra

FOLDER = SWEEPS / "wandb"
COMMAND = ["${env}", "${interpreter}", "-m", "src.train", "${args_no_hyphens}"]


def master_config(name: str, overrides: tuple[str, ...] = ()) -> tuple[Any, DictConfig]:
    """Return Hydra's config loader, and the config of a whole sweep of a range; only inside `own_hydra`."""
    loader = GlobalHydra.instance().config_loader()
    return loader, loader.load_configuration("train", [f"+sweeps={name}", *overrides], RunMode.MULTIRUN)


def values(master: DictConfig) -> dict[str, list[str]]:
    """Return the keys that a range varies, each with its values as texts."""
    values_of_key = {}
    for key, text in master.hydra.sweeper.params.items():
        override = OverridesParser.create().parse_override(f"{key}={text}")
        values_of_key[str(key)] = list(override.sweep_string_iterator())
    return values_of_key


def wandb_sweep(name: str) -> str:
    """Return the content of a W&B sweep file."""
    with isolated_hydra():
        _, master = master_config(name)
        varied = values(master)
    parameters: dict[str, Any] = {"+sweeps": {"value": name}}
    parameters |= {key: {"values": [_plain(value) for value in texts]} for key, texts in varied.items()}
    sweep = {
        "program": "src.train",
        "name": name,
        "method": "grid",
        "metric": {"name": "val/loss", "goal": "minimize"},
        "command": COMMAND,
        "parameters": parameters,
    }
    head = f"# {summary(SWEEPS / f'{name}.yaml')}\n# written by python -m src.sweeping.wandb_sweep_files\n"
    return head + yaml.safe_dump(sweep, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def _plain(text: str) -> Any:
    """Return a number as a number, and anything else as text, since W&B would expand a list."""
    value = OverridesParser.create().parse_override(f"x={text}").value()
    return value if isinstance(value, (int, float)) else text


def files() -> Iterator[tuple[str, str]]:
    """Yield the name and content of every file."""
    for name in sweeps():
        yield f"{name}.yaml", wandb_sweep(name)


def main() -> None:
    """Rewrite all files."""
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.yaml"):
        old.unlink()
    for name, text in files():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
