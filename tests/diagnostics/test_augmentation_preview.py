"""Preview of augmented and mixed examples: it shows the examples of training, and changes no random state."""

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from src.config.compose import compose
from src.config.schema.run import Config
from src.config.validate import check
from src.core.errors import UserError
from src.core.tables import Rows
from src.diagnostics.augmentation_preview import DRAWS, EXAMPLES, augmentation_preview
from src.preview import preview
from src.regularization.batch_transform import batch_transform
from src.training.build import build_data
from tests.conftest import WORDNET


def config_of(*overrides: str) -> Config:
    return check(compose(["model=cnn", *overrides]))


@pytest.mark.req("G5", "G6")
def test_images_and_labels_are_those_of_a_training_batch() -> None:
    config = config_of("regularization=[augmentation,mixup]", "regularization.mixup_alpha=1.0", "seed=3")
    rng_state = torch.get_rng_state()
    figure = augmentation_preview(config)
    assert not isinstance(figure, Rows)
    assert torch.equal(torch.get_rng_state(), rng_state)
    assert figure.get_suptitle().endswith("draws of rotation=10, translate=0.1, scale=0.1, mixup_alpha=1")
    axes = np.array(figure.axes).reshape(EXAMPLES, DRAWS["image"] + 1)
    data = build_data(config)
    batch = next(iter(data.loader("train", shuffle=True)))
    darkest, span = batch.x.min(), batch.x.max() - batch.x.min()
    transform = batch_transform(config, data.spec)
    assert transform is not None
    torch.manual_seed(3)
    for column in range(DRAWS["image"] + 1):
        changed, mixing = (batch, None) if column == 0 else transform(batch)
        for row in range(EXAMPLES):
            shown = axes[row, column].images[0].get_array()
            expected = ((changed.x[row, 0] - darkest) / span).clamp(0, 1)
            np.testing.assert_allclose(shown, expected, atol=1e-6)
            label = str(int(batch.y[row]))
            partner = label if mixing is None else str(int(batch.y[mixing.partner[row]]))
            share = 1.0 if mixing is None else mixing.share
            title = label if label == partner else f"{share:.2f} × {label}\n+ {1 - share:.2f} × {partner}"
            assert axes[row, column].get_title() == title


@pytest.mark.req("G8")
@pytest.mark.parametrize("features", ["log_mel", "waveform"])
@pytest.mark.parametrize("memory_share", [0.5, 0.0], ids=["in memory", "streamed"])
def test_sounds_are_shown_before_and_after_augmentation(complete, features: str, memory_share: float) -> None:
    """Stretched and noisy tones are plotted as the inputs of the model; those that are not augmented are unchanged."""
    overrides = ["model=cnn", "datamodule=audio_folder", "regularization=audio_augmentation"]
    config = check(
        compose(
            [
                *complete(*overrides), "regularization.audio.pitch_shift=0", "datamodule.sample_rate=8000",
                f"datamodule.memory_share={memory_share}", f"datamodule.features={features}",
            ]
        )
    )  # fmt: skip
    states = random.getstate(), torch.get_rng_state()
    figure = augmentation_preview(config)
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    assert not isinstance(figure, Rows)
    assert "draws of time_stretch=0.15, noise_snr=[10.0, 40.0]" in figure.get_suptitle()
    axes = np.array(figure.axes).reshape(EXAMPLES, DRAWS["audio"] + 1)
    data = build_data(config)
    split, spec = data.split("train"), data.spec
    sounds = data.readers["train"](split[0], False) if data.readers else split[0]
    num_unchanged = 0
    for row in axes:
        shown = [
            axis.images[0].get_array().T if features == "log_mel" else axis.lines[0].get_ydata().reshape(-1, 160)
            for axis in row
        ]
        (index,) = [i for i, sound in enumerate(sounds[:, 0].numpy()) if np.allclose(sound, shown[0], atol=1e-5)]
        assert {axis.get_title() for axis in row} == {spec.class_names[int(split[1][index])]}
        same = [np.allclose(draw, shown[0], atol=1e-5) for draw in shown[1:]]
        num_unchanged += sum(same)
        assert len({draw.tobytes() for draw in shown[1:]}) >= DRAWS["audio"] - sum(same)
    assert 0 < num_unchanged < 0.6 * EXAMPLES * DRAWS["audio"], "one example in four gets neither change"


@pytest.mark.req("G7")
def test_texts_are_printed_before_and_after_augmentation(complete, tmp_path: Path, capsys) -> None:
    overrides = complete("model=lstm", "datamodule=text_classification", "regularization=synonyms")
    overrides += ["regularization.synonyms.probability=1.0", f"paths.outputs={tmp_path}"]
    rows, path = preview("augmentation", overrides)
    assert isinstance(rows, Rows) and len(rows.rows) == EXAMPLES
    for row in rows.rows:
        label, text, *draws = row.values()
        assert label in ("good", "bad", "so-so") and len(draws) == DRAWS["text"]
        for draw in draws:
            for original, other in zip(text.split(), draw.replace("big screen", "film").split(), strict=True):
                synsets = [group for group in WORDNET.values() if original.strip(",") in group]
                assert original == other or any(other.strip(",") in group for group in synsets)
        assert "film" in text and all(" film" not in draw for draw in draws)
    assert capsys.readouterr().out.startswith("text_classification: training texts (left) and 2 draws of synonyms=1.0")
    assert path == tmp_path / "preview" / "augmentation.md"
    assert path.read_text().splitlines()[2] == f"| {' | '.join(rows.rows[0].values())} |"


def test_long_labels_do_not_overlap() -> None:
    config = config_of("datamodule=shapes", "regularization=cutmix", "datamodule.train_size=100")
    figure = augmentation_preview(config)
    assert not isinstance(figure, Rows)
    figure.draw_without_rendering()
    for axes in np.array(figure.axes).reshape(EXAMPLES, -1):
        boxes = [axis.title.get_window_extent() for axis in axes]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes)), "labels must not overlap"


def test_the_command_writes_a_figure(tmp_path) -> None:
    overrides = ["model=cnn", "regularization=cutmix", f"paths.outputs={tmp_path}"]
    path = preview("augmentation", overrides)[1]
    assert path == tmp_path / "preview" / "plots" / "augmentation.png" and path.stat().st_size > 5000


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "nothing changes training examples here. Try regularization=augmentation"),
        (
            ["model=mlp", "datamodule=wine", "regularization=mixup"],
            "it shows images, sounds and texts, and one input of wine is a vector",
        ),
    ],
)
def test_configs_without_a_preview_are_rejected(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        augmentation_preview(config_of(*overrides))
