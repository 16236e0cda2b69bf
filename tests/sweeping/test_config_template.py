"""Configs that are composed once and changed quickly are those that Hydra composes of the same overrides."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from omegaconf import OmegaConf

from src.config.groups import sweeps
from src.config.isolated_hydra import isolated_hydra
from src.sweeping.config_template import ConfigTemplate, NotPlain
from src.sweeping.job_composer import JobComposer
from src.sweeping.search.space import Space
from src.sweeping.wandb_sweep_files import master_config, values

Make = Callable[..., JobComposer]

BASES = (
    ("model=mlp", "datamodule=digits"),
    ("model=lstm", "optimizer=adamw", "scheduler=cosine", "regularization=[dropout,l2]"),
    (
        "model=transformer",
        "datamodule=table",
        "callbacks=quiet",
        "logger=none",
        "+callbacks.mine={_target_: a.B, at: 3}",
    ),
)
PLAIN = (
    "0",
    "1",
    "3.5",
    "1e-3",
    "-2",
    "null",
    "true",
    "[]",
    "[1,[2]]",
    "'some overrides'",
    "''",
    "relu",
    "'1'",
    "/a/b",
    "nan",
)
OTHERS = (
    *("[[a],{b: 1}]", "{a: 1}", "{}", "'???'", "'${seed}'", "${seed}", "'a${seed}b'", "'\\${x}'", "${oc.env:HOME}"),
    *("${regularization.dropout}", "${.name}", "[${seed},2]", "${nowhere}", "'$5'", "'a\\\\b'"),
)


def by_hydra(composer: JobComposer, overrides: Sequence[str]) -> dict[str, Any]:
    found = OmegaConf.to_container(composer._compose(overrides), resolve=True, throw_on_missing=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def same(composer: JobComposer, overrides: Sequence[str]) -> str:
    """Hold a point against Hydra's; return whether it was plain, left to Hydra, or refused."""
    try:
        expected: dict[str, Any] | None = by_hydra(composer, overrides)
    except Exception:  # not all of them are Hydra's own
        expected = None
    try:
        found = composer.resolved(overrides)
    except NotPlain:
        return "left to Hydra"
    except Exception:
        assert expected is None, overrides
        return "refused"
    assert expected is not None, f"Hydra refuses {overrides}"
    assert repr(found) == repr(expected), overrides  # the order of keys too, and 1 is not True
    return "plain"


@pytest.mark.slow
@pytest.mark.parametrize("name", sweeps())
def test_every_documented_range_is_composed_as_hydra_would(name: str) -> None:
    with isolated_hydra():
        loader, master = master_config(name)
        composer = JobComposer(loader, master, "test")
        axes = [f"{key}={','.join(overrides)}" for key, overrides in values(master).items()]
        points = list(Space.of([f"+sweeps={name}", *axes], loader).grid())
        assert {same(composer, point) for point in random.Random(0).sample(points, min(len(points), 8))} == {"plain"}


def keys(node: Any, prefix: str = "") -> Iterator[str]:
    for name, item in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{name}"
        yield from keys(item, f"{prefix}{name}.")


def random_points(composer: JobComposer, count: int, seed: int) -> Iterator[list[str]]:
    dice = random.Random(seed)
    known = {base: list(keys(OmegaConf.to_container(composer._compose(base), resolve=False))) for base in BASES}
    for _ in range(count):
        base = dice.choice(BASES)
        overrides = []
        for _ in range(dice.randint(1, 4)):
            key = dice.choice(known[base])
            if dice.random() < 0.3:
                key = dice.choice(["regularization.dropout", "seed", "callbacks.early_stopping", f"{key}.more"])
            value = dice.choice(PLAIN if dice.random() < 0.9 else OTHERS)
            sign = dice.choice(["+", "++", "~"]) if dice.random() < 0.1 else ""
            overrides.append(f"~{key}" if sign == "~" else f"{sign}{key}={value}")
        place = dice.randint(0, len(base))
        yield [*base[:place], *overrides, *base[place:]]


def test_keys_may_come_before_the_options_that_define_them(composer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made, composed = composer(), []
    by_hydra = made._compose
    monkeypatch.setattr(made, "_compose", lambda overrides: composed.append(overrides) or by_hydra(overrides))
    rates = [made.resolved([f"optimizer.lr={lr}", "optimizer=adamw"])["optimizer"]["lr"] for lr in (0.1, 0.2, 0.3)]
    assert rates == [0.1, 0.2, 0.3] and composed == [("optimizer=adamw",)]


@pytest.mark.parametrize("count", [15, pytest.param(300, marks=pytest.mark.slow)])
def test_random_overrides_are_composed_as_by_hydra(composer: Make, count: int) -> None:
    made = composer(*BASES[1], "seed=3", "optimizer.lr=1,2", "sweep.name=other")
    outcomes = [same(made, point) for point in random_points(made, count, seed=count)]
    assert same(made, [*BASES[1], "seed=3", "optimizer.lr=2"]) == "plain"  # that of the whole sweep
    assert same(made, [*BASES[1], "optimizer.lr=2"]) == "plain"
    assert {"plain", "left to Hydra"} <= set(outcomes) and outcomes.count("plain") > count / 4


TREE = {
    "top": 3,
    "a": {"b": "${top}", "c": "x${.b}-${top}", "d": {"e": "${..b}", "f": ["${top}", "${a.b}"]}},
    "home": "${oc.env:HOME}/data",
    "whole": "${a.d}",
    "none": None,
}


@pytest.mark.parametrize(
    "changes",
    [[], [("top", "y")], [("a.b", 5), ("top", 4)], [("a.d", None)], [("a.d", 2), ("a.b", [1])], [("whole", 1.5)]],
)
def test_interpolations_follow_what_they_name(changes: list[tuple[str, Any]]) -> None:
    cfg = OmegaConf.create(TREE)
    for key, value in changes:
        OmegaConf.update(cfg, key, value)
    try:
        found = ConfigTemplate(TREE).resolved(changes)
    except NotPlain:
        assert changes == [("a.d", 2), ("a.b", [1])], "a list within a text"
        return
    assert found == OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize(
    "tree",
    [
        {"a": "${now:%H}"},
        {"a": "${oc.decode:${b}}", "b": "1"},
        {"a": "${a}"},
        {"a": "${nowhere}"},
        {"a": "???"},
        {"a": "\\${b}", "b": 1},
        {"a": ["${.b}"], "b": 1},
        {"a": "${b[0]}", "b": [1]},
        {"a": {"x": 1}, "b": "${a}", "c": "${b.x}"},
    ],
    ids=str,
)
def test_what_is_not_plain_is_left_to_hydra(tree: dict[str, Any]) -> None:
    with pytest.raises(NotPlain):
        ConfigTemplate(tree).resolved([])
