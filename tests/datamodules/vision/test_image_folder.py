"""Images of the user's: what is read is what is in the files, in memory or batch by batch; errors name the file."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.cli.predict import predict
from src.core.errors import UserError
from src.datamodules.io.image_files import read_image, size_and_channels
from src.datamodules.vision.image_folder import ImageFolder
from src.training.run import run
from tests.conftest import write_image


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for number, name in enumerate(("cat", "dog")):
        for i in range(10):
            write_image(folder / name / f"{i}.png", 100 * number + i, 20 + 100 * number, size=(6, 8))
    return folder


def make(folder: Path, **changes) -> ImageFolder:
    return ImageFolder(folder, **{"batch_size": 4, "val_fraction": 0.2, "test_fraction": 0.2, "workers": 0, **changes})


def test_pixels_are_standardised_by_those_of_training(pictures):
    data = make(pictures)
    data.setup()
    assert data.spec.input_shape == (3, 6, 8) and data.spec.class_names == ("cat", "dog")
    read = {path: np.asarray(Image.open(path), dtype=np.float64) for part in data.files().values() for path, _ in part}
    train = np.stack([read[path] for path, _ in data.files()["train"]])
    mean, deviation = train.mean((0, 1, 2)), train.std((0, 1, 2))
    for name, part in data.files().items():
        expected = np.stack([((read[path] - mean) / deviation).transpose(2, 0, 1) for path, _ in part])
        np.testing.assert_allclose(data.split(name).x, expected, rtol=1e-4, atol=1e-5)
        assert [data.spec.class_names[i] for i in data.split(name).y] == [label for _, label in part]


@pytest.mark.parametrize("workers", [0, 2])
def test_read_batch_by_batch_is_as_in_memory(pictures, workers, caplog):
    held, streamed = make(pictures), make(pictures, memory_share=0.0, workers=workers)
    with caplog.at_level(logging.INFO):
        streamed.setup()
    assert "20 images: 12 kB in memory would be above 0 %" in caplog.text
    held.setup()
    assert streamed.spec == held.spec
    for name in ("train", "val", "test"):
        one, other = (data.loader(name, shuffle=name == "train") for data in (held, streamed))
        for epoch in (0, 1):
            one.set_epoch(epoch), other.set_epoch(epoch)
            pairs = list(zip(one, other, strict=True))
            assert len(pairs) == len(other)
            assert all(torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in pairs)
        assert torch.equal(streamed.examples(name, 2).x, held.split(name).x[:2])
    assert streamed.baseline() == held.baseline()
    assert streamed.state_dict() == held.state_dict()


def test_channels_are_found_or_asked_for(tmp_path):
    for name in ("a", "b"):
        for i in range(6):
            write_image(tmp_path / name / f"{i}.png", i, mode="L")
    data = make(tmp_path)
    data.setup()
    assert data.spec.input_shape == (1, 12, 10)
    colours = make(tmp_path, channels=3, size=[4, 5])
    colours.setup()
    assert colours.spec.input_shape == (3, 4, 5)
    x = colours.split("train").x
    assert torch.equal(x[:, 0], x[:, 2])
    write_image(tmp_path / "a" / "colour.png", 9)
    mixed = make(tmp_path, val_fraction=0.1, test_fraction=0.1)
    mixed.setup()
    in_training = any(path.name == "colour.png" for path, _ in mixed.files()["train"])
    assert mixed.spec.input_shape[0] == (3 if in_training else 1)


def test_splits_may_be_folders_and_names_may_hold_the_class(tmp_path):
    for part, count in (("train", 5), ("test", 3)):
        for i in range(count):
            for name in ("x", "y"):
                write_image(tmp_path / part / f"{name}_{i}.png", i)
    data = make(tmp_path / "train", pattern="{label}_*.png", test_path=tmp_path / "test")
    assert {name: len(part) for name, part in data.files().items()} == {"train": 8, "val": 2, "test": 6}
    assert all(path.parent.name == "test" for path, _ in data.files()["test"])


def spoil(path: Path) -> Path:
    path.write_bytes(b"no picture")
    return path


def cut_off(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-40])
    return path


@pytest.mark.parametrize("damage", [spoil, cut_off], ids=["no image", "cut off"])
def test_unreadable_images_are_named(pictures, damage):
    bad = [damage(pictures / "cat" / f"{i}.png") for i in range(7)]
    with pytest.raises(UserError, match="this is not a readable image") as refused:
        make(pictures).setup()
    lines = str(refused.value).splitlines()
    assert len(lines) <= 6 and sum(str(path) in lines[i] for i, path in enumerate(bad[:5]) if i < len(lines)) >= 1
    assert lines[-1].startswith("… and") or len(lines) <= 5


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_is_cut_off_is_named_when_its_turn_comes(pictures, workers, monkeypatch):
    data = make(pictures, memory_share=0.0, workers=workers)
    data.setup()
    path, _ = data.files()["val"][0]
    cut_off(path)
    with pytest.raises(UserError) as refused:
        list(data.val_dataloader())
    assert str(refused.value) == f"{path}: this is not a readable image"


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    pixels = np.zeros((6, 8, 3), dtype=np.uint8)
    pixels[0] = 255  # bright above
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(pixels)))  # as a camera held on its side sees it
    exif = Image.Exif()
    exif[274] = 6  # to be turned to the right
    turned.save(tmp_path / "a.png", exif=exif)
    assert size_and_channels(str(tmp_path / "a.png")) == ((6, 8), 3)
    assert np.array_equal(read_image(str(tmp_path / "a.png"), (3, 6, 8)), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path, mode):
    image = Image.new("RGBA", (4, 2), (10, 10, 10, 0))
    image.putpixel((0, 0), (10, 10, 10, 255))
    image.convert(mode).save(tmp_path / "a.png")
    read = read_image(str(tmp_path / "a.png"), (1, 2, 4))[0]
    assert read[0, 0] == 10 and (read.ravel()[1:] == 255).all()


def test_numbers_without_a_known_white_are_refused(tmp_path):
    for values in (np.linspace(0, 1, 12, dtype=np.float32), np.arange(12, dtype=np.int32)):
        Image.fromarray(values.reshape(3, 4)).save(tmp_path / "a.tiff")
        with pytest.raises(UserError, match=r"a\.tiff: 32-bit pixels have no defined white level"):
            read_image(str(tmp_path / "a.tiff"), (1, 3, 4))
    Image.fromarray(np.full((3, 4), 65535 // 3, dtype=np.uint16)).save(tmp_path / "a.png")
    assert (read_image(str(tmp_path / "a.png"), (1, 3, 4)) == 85).all()


def test_folders_may_be_links(pictures, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("cat", "dog"):
        (linked / name).symlink_to(pictures / name)
    (pictures / "cat" / "back").symlink_to(pictures)  # for ever, if it were followed
    found = {(path.name, label) for part in make(linked).files().values() for path, label in part}
    assert found == {(f"{i}.png", label) for i in range(10) for label in ("cat", "dog")}


def test_a_folder_that_cannot_be_used_is_refused(tmp_path, pictures):
    def says(text: str, folder: Path = tmp_path, **changes) -> None:
        with pytest.raises(UserError, match=text):
            make(folder, **changes).setup()

    says("missing: there is no such folder", tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    says("none of the 0 files here is an image in a folder", tmp_path / "empty")
    write_image(tmp_path / "flat" / "a.png", 0)
    says(r"none of the 1 files here, such as a\.png, is a picture in a folder", tmp_path / "flat")
    for part in ("Training", "testing"):
        write_image(tmp_path / "capital" / part / "cat" / "a.png", 0)
    says(r"are splits, not classes: datamodule\.path=.*Training datamodule\.test_path=", tmp_path / "capital")
    for part in ("train", "val"):
        write_image(tmp_path / "split" / part / "cat" / "a.png", 0)
    says(
        r"its subfolders are splits, not classes. Set datamodule\.val_path=.*split/val datamodule\.path=",
        tmp_path / "split",
    )
    write_image(pictures / "cat" / "wide.png", 0, size=(6, 9))
    says(r"is 6×8, and .*cat/wide\.png 6×9 \(height × width\): datamodule\.size=\[6,8\]", pictures)
    (pictures / "cat" / "wide.png").unlink()
    write_image(tmp_path / "other" / "bird" / "a.png", 0, size=(6, 8))
    says("other has the class 'bird', which training lacks", pictures, test_path=tmp_path / "other")


def test_the_preparation_travels_and_a_folder_is_predicted(fast, pictures):
    result = run(fast("model=cnn", "datamodule=image_folder", f"datamodule.path={pictures}"), verbose=False)
    answers = predict(result.folder, [str(pictures / "dog"), str(pictures / "cat" / "3.png")])
    assert len(answers) == 11 and set(answers[0]["probabilities"]) == {"cat", "dog"}
    data, other = make(pictures), make(Path("elsewhere"))
    data.setup()
    file = io.BytesIO()
    torch.save(data.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    one = str(pictures / "cat" / "3.png")
    assert torch.equal(other.encode([one]).x, data.encode([one]).x) and other.spec == data.spec
    write_image(pictures / "large.png", 0, size=(60, 80))
    assert other.encode([str(pictures / "large.png")]).x.shape == (1, 3, 6, 8)
