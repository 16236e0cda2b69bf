"""The presets: what each sets, that they combine, and what excludes each other."""

import pytest

from src import ROOT
from src.config.check import check
from src.config.compose import compose
from src.errors import UserError

PRESETS = {
    "dropout": {"dropout": 0.3},
    "spatial_dropout": {"spatial_dropout": 0.1},
    "stochastic_depth": {"stochastic_depth": 0.2},
    "batch_norm": {"batch_norm": True},
    "l2": {"weight_decay": 1e-4},
    "spare_norms_and_biases": {"decay_norms_and_biases": False},
    "label_smoothing": {"label_smoothing": 0.1},
    "gradient_clipping": {"gradient_clip_norm": 1.0},
    "gradient_value_clipping": {"gradient_clip_value": 1.0},
    "early_stopping": {"early_stopping_patience": 5},
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


def chosen(*words: str) -> dict[str, object]:
    """Return the knobs that differ from nothing at all; early stopping is on by default."""
    knobs = check(compose(list(words))).regularization
    nothing = {"decay_norms_and_biases": True, "early_stopping_patience": 10}
    values = {name: getattr(knobs, name) for name in type(knobs).model_fields}
    values["augmentation"] = knobs.augmentation.chosen()
    for name in ("audio", "synonyms", "back_translation"):
        values[name] = [key.rpartition(".")[2] for key in values[name].chosen()]
    return {name: value for name, value in values.items() if value != nothing.get(name, value if not value else None)}


def test_every_preset_is_listed_here() -> None:
    assert {path.stem for path in (ROOT / "conf" / "regularization").glob("*.yaml")} == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_its_own_knobs(name: str, users_files) -> None:
    needs = {
        "spatial_dropout": ["model=cnn"],
        "stochastic_depth": ["model=resnet"],
        "audio_augmentation": ["model=mlp", "datamodule=fsdd"],
        "synonyms": ["model=lstm", "datamodule=text_classification", *users_files("text_classification")],
    }
    of_the_model = {"gradient_clip_norm": 1.0} if name == "synonyms" else {}
    assert chosen(*needs.get(name, ["model=mlp"]), f"regularization={name}") == of_the_model | PRESETS[name]


def test_presets_combine_and_the_command_line_has_the_last_word() -> None:
    words = ["regularization=[dropout,l2,mixup,augmentation]", "regularization.dropout=0.5"]
    expected = PRESETS["dropout"] | PRESETS["l2"] | PRESETS["mixup"] | PRESETS["augmentation"]
    assert chosen("model=mlp", *words) == expected | {"dropout": 0.5}


def test_none_undoes_what_models_and_optimizers_ask_for() -> None:
    assert chosen("model=rnn", "optimizer=adamw") == {"gradient_clip_norm": 1.0, "weight_decay": 0.01}
    assert chosen("model=rnn", "optimizer=adamw", "regularization=none") == PRESETS["none"]
    assert chosen("model=mlp", "regularization=[augmentation,dropout,none]") == PRESETS["none"]


@pytest.mark.req("R5")
def test_gradients_are_clipped_in_one_way() -> None:
    with pytest.raises(UserError, match=r"^regularization.gradient_clip_value=0.5: gradients are clipped by"):
        check(compose(["model=rnn", "regularization.gradient_clip_value=0.5"]))
    assert chosen("model=rnn", "regularization=gradient_value_clipping") == {"gradient_clip_value": 1.0}
