"""The presets: the knobs of each, their combinations, and pairs that exclude each other."""

from itertools import permutations
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from src import ROOT
from src.config.compose import compose
from src.config.schema.regularization import Regularization
from src.config.validate import check
from src.core.errors import UserError

PRESETS: dict[str, dict[str, Any]] = {
    "dropout": {"dropout": 0.3},
    "drop_connect": {"drop_connect": 0.3},
    "spatial_dropout": {"spatial_dropout": 0.1},
    "stochastic_depth": {"stochastic_depth": 0.2},
    "batch_norm": {"batch_norm": True},
    "l2": {"weight_decay": 1e-4},
    "spare_norms_and_biases": {"decay_norms_and_biases": False},
    "label_smoothing": {"label_smoothing": 0.1},
    "gradient_clipping": {"gradient_clip_norm": 1.0},
    "gradient_value_clipping": {"gradient_clip_value": 1.0},
    "early_stopping": {"early_stopping_patience": 5},
    "ema": {"ema_decay": 0.999},
    "swa": {"swa_start": 0.75, "early_stopping_patience": None},
    "mixup": {"mixup_alpha": 0.2},
    "cutmix": {"cutmix_alpha": 1.0},
    "augmentation": {"augmentation": {"rotation": 10, "translate": 0.1, "scale": 0.1}},
    "trivial_augment": {"augmentation": {"trivial_augment": 1.0}},
    "transformer_paper": {"dropout": 0.1, "label_smoothing": 0.1},
    "audio_augmentation": {"audio": ["time_stretch", "pitch_shift", "noise_snr"]},
    "synonyms": {"synonyms": ["probability"]},
    "default": {},
    "none": {"early_stopping_patience": None},
}


def chosen(*overrides: str) -> dict[str, object]:
    """Return the knobs that differ from no regularization; early stopping is on by default."""
    knobs = check(compose(list(overrides))).regularization
    defaults = {"decay_norms_and_biases": True, "early_stopping_patience": 10}
    values = {name: getattr(knobs, name) for name in type(knobs).model_fields}
    values["augmentation"] = knobs.augmentation.enabled()
    for name in ("audio", "synonyms", "back_translation"):
        values[name] = [key.rpartition(".")[2] for key in values[name].enabled()]
    return {name: value for name, value in values.items() if value != defaults.get(name, value if not value else None)}


def test_every_preset_is_listed_here() -> None:
    assert {path.stem for path in (ROOT / "conf" / "regularization").glob("*.yaml")} == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_sets_its_own_knobs(name: str, users_files) -> None:
    needs = {
        "spatial_dropout": ["model=cnn"],
        "stochastic_depth": ["model=resnet"],
        "audio_augmentation": ["model=mlp", "datamodule=fsdd"],
        "synonyms": ["model=lstm", "datamodule=text_classification", *users_files("text_classification")],
    }
    model_defaults = {"gradient_clip_norm": 1.0} if name == "synonyms" else {}
    assert chosen(*needs.get(name, ["model=mlp"]), f"regularization={name}") == model_defaults | PRESETS[name]


def test_presets_combine_and_command_line_overrides_them() -> None:
    overrides = ["regularization=[dropout,l2,mixup,augmentation]", "regularization.dropout=0.5"]
    expected = PRESETS["dropout"] | PRESETS["l2"] | PRESETS["mixup"] | PRESETS["augmentation"]
    assert chosen("model=mlp", *overrides) == expected | {"dropout": 0.5}


def test_none_overrides_defaults_of_models_and_optimizers() -> None:
    assert chosen("model=rnn", "optimizer=adamw") == {"gradient_clip_norm": 1.0, "weight_decay": 0.01}
    assert chosen("model=rnn", "optimizer=adamw", "regularization=none") == PRESETS["none"]
    assert chosen("model=mlp", "regularization=[augmentation,dropout,none]") == PRESETS["none"]


@pytest.mark.req("R5")
def test_only_one_kind_of_gradient_clipping_is_allowed() -> None:
    with pytest.raises(UserError, match=r"^regularization.gradient_clip_value=0.5: gradients are clipped by"):
        check(compose(["model=rnn", "regularization.gradient_clip_value=0.5"]))
    assert chosen("model=rnn", "regularization=gradient_value_clipping") == {"gradient_clip_value": 1.0}


RAW_EXAMPLE_PRESETS = {"audio_augmentation", "synonyms"}
"""Presets for sounds and texts, which cannot be combined with presets for images; tests of their own combine them."""

MODELS = ("cnn", "transformer", "resnet", "mlp")
WITHOUT_COMMON_MODEL = {("spatial_dropout", "stochastic_depth"), ("drop_connect", "stochastic_depth")}
REJECTED = {
    **{pair: "is not supported by model=" for pair in WITHOUT_COMMON_MODEL},
    ("ema", "swa"): "one average at a time: set regularization.ema_decay=0 or regularization.swa_start=null",
}


@pytest.fixture(scope="module")
def bases() -> list[DictConfig]:
    return [compose([f"model={model}", "datamodule=digits"]) for model in MODELS]


def with_presets(bases: list[DictConfig], names: tuple[str, ...]) -> Regularization | list[str]:
    """Return the knobs of presets with the first model that supports them, or the errors of all models."""
    files = [OmegaConf.load(ROOT / "conf" / "regularization" / f"{name}.yaml") for name in names]
    errors = []
    for base in bases:
        try:
            return check(OmegaConf.merge(base, *({"regularization": file} for file in files))).regularization
        except UserError as error:
            errors.append(str(error))
    return errors


@pytest.mark.parametrize(
    "pair", list(permutations(sorted(set(PRESETS) - {"default"} - RAW_EXAMPLE_PRESETS), 2)), ids="+".join
)
def test_two_presets_combine_or_are_rejected_with_a_reason(bases: list[DictConfig], pair: tuple[str, str]) -> None:
    """A pair sets the knobs of both; the second overrides the first."""
    knobs = with_presets(bases, pair)
    if message := REJECTED.get(tuple(sorted(pair))):
        assert isinstance(knobs, list) and all(message in error for error in knobs), knobs
        return
    assert isinstance(knobs, Regularization), knobs
    first, second = (PRESETS[name] for name in pair)
    if pair[1] == "none":
        assert knobs == with_presets(bases, ("none",))
        return
    expected = first | second
    if "augmentation" in expected:
        expected["augmentation"] = {**first.get("augmentation", {}), **second.get("augmentation", {})}
    if set(pair) == {"gradient_clipping", "gradient_value_clipping"}:  # only one kind: the later
        expected = second
    values = knobs.model_dump() | {"augmentation": knobs.augmentation.enabled()}
    assert {name: values[name] for name in expected} == expected
