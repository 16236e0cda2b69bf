"""The picture of augmented and mixed examples shows what training will see, and changes nothing."""

import numpy as np
import pytest
import torch

from src.config.check import check
from src.config.compose import compose
from src.config.schema import Config
from src.errors import UserError
from src.experiment import build_data
from src.preview import preview
from src.regularization.build import batch_transform
from src.regularization.preview import DRAWS, EXAMPLES, augmentation_picture


def config_of(*words: str) -> Config:
    return check(compose(["model=cnn", *words]))


@pytest.mark.req("G5", "G6")
def test_it_shows_the_images_and_labels_of_a_training_batch() -> None:
    config = config_of("regularization=[augmentation,mixup]", "regularization.mixup_alpha=1.0", "seed=3")
    before = torch.get_rng_state()
    figure = augmentation_picture(config)
    assert torch.equal(torch.get_rng_state(), before)
    assert figure.get_suptitle().endswith("draws of rotation=10, translate=0.1, scale=0.1, mixup_alpha=1")
    axes = np.array(figure.axes).reshape(EXAMPLES, DRAWS + 1)
    data = build_data(config)
    batch = next(iter(data.loader("train", shuffle=True)))
    darkest, span = batch.x.min(), batch.x.max() - batch.x.min()
    transform = batch_transform(config, data.spec)
    assert transform is not None
    torch.manual_seed(3)
    for column in range(DRAWS + 1):
        changed, mixing = (batch, None) if column == 0 else transform(batch)
        for row in range(EXAMPLES):
            shown = axes[row, column].images[0].get_array()
            expected = ((changed.x[row, 0] - darkest) / span).clamp(0, 1)
            np.testing.assert_allclose(shown, expected, atol=1e-6)
            own = str(int(batch.y[row]))
            partner = own if mixing is None else str(int(batch.y[mixing.partner[row]]))
            share = 1.0 if mixing is None else mixing.share
            title = own if own == partner else f"{share:.2f} × {own} + {1 - share:.2f} × {partner}"
            assert axes[row, column].get_title() == title


def test_the_command_writes_a_picture(tmp_path) -> None:
    words = ["model=cnn", "regularization=cutmix", f"paths.outputs={tmp_path}"]
    path = preview("augmentation", words)[1]
    assert path == tmp_path / "preview" / "plots" / "augmentation.png" and path.stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing changes training images here. Try regularization=augmentation"),
        (
            ["model=mlp", "datamodule=wine", "regularization=mixup"],
            "it shows images, and one input of wine is a vector",
        ),
    ],
)
def test_mistakes_are_told(words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        augmentation_picture(config_of(*words))
