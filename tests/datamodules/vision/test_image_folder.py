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
def image_folder(tmp_path):
    folder = tmp_path / "image_folder"
    for number, name in enumerate(("cat", "dog")):
        for i in range(10):
            write_image(folder / name / f"{i}.png", 100 * number + i, 20 + 100 * number, size=(6, 8))
    return folder


def make(folder: Path, **changes) -> ImageFolder:
    return ImageFolder(folder, **{"batch_size": 4, "val_fraction": 0.2, "test_fraction": 0.2, "workers": 0, **changes})


def test_pixels_are_standardised_by_those_of_training(image_folder):
    data = make(image_folder)
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
def test_read_batch_by_batch_is_as_in_memory(image_folder, workers, caplog):
    held, streamed = make(image_folder), make(image_folder, memory_share=0.0, workers=workers)
    with caplog.at_level(logging.INFO):
        streamed.setup()
    assert "12 kB in memory would exceed 0 %" in caplog.text
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
    path.write_bytes(b"no image")
    return path


def cut_off(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-40])
    return path


@pytest.mark.parametrize("damage", [spoil, cut_off], ids=["no image", "cut off"])
def test_unreadable_images_are_named(image_folder, damage):
    bad = [damage(image_folder / "cat" / f"{i}.png") for i in range(7)]
    with pytest.raises(UserError, match="this is not a readable image") as refused:
        make(image_folder).setup()
    lines = str(refused.value).splitlines()
    assert len(lines) <= 6 and sum(str(path) in lines[i] for i, path in enumerate(bad[:5]) if i < len(lines)) >= 1
    assert lines[-1].startswith("… and") or len(lines) <= 5


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_is_cut_off_is_named_when_its_turn_comes(image_folder, workers, monkeypatch):
    data = make(image_folder, memory_share=0.0, workers=workers)
    data.setup()
    path, _ = data.files()["val"][0]
    cut_off(path)
    with pytest.raises(UserError) as refused:
        list(data.val_dataloader())
    assert str(refused.value) == f"{path}: this is not a readable image"


def test_image_is_rotated_by_its_exif_orientation(tmp_path):
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


def test_folders_may_be_links(image_folder, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("cat", "dog"):
        (linked / name).symlink_to(image_folder / name)
    (image_folder / "cat" / "back").symlink_to(image_folder)  # for ever, if it were followed
    found = {(path.name, label) for part in make(linked).files().values() for path, label in part}
    assert found == {(f"{i}.png", label) for i in range(10) for label in ("cat", "dog")}


def test_a_folder_that_cannot_be_used_is_refused(tmp_path, image_folder):
    def check_error(text: str, folder: Path = tmp_path, **changes) -> None:
        with pytest.raises(UserError, match=text):
            make(folder, **changes).setup()

    check_error("missing: there is no such folder", tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    check_error("none of the 0 files here is an image in a folder", tmp_path / "empty")
    write_image(tmp_path / "flat" / "a.png", 0)
    check_error(r"none of the 1 files here, such as a\.png, is an image in a folder", tmp_path / "flat")
    for part in ("Training", "testing"):
        write_image(tmp_path / "capital" / part / "cat" / "a.png", 0)
    check_error(
        r"are splits, not classes. Set datamodule\.path=.*Training datamodule\.test_path=", tmp_path / "capital"
    )
    for part in ("train", "val"):
        write_image(tmp_path / "split" / part / "cat" / "a.png", 0)
    check_error(
        r"its subfolders are splits, not classes. Set datamodule\.val_path=.*split/val datamodule\.path=",
        tmp_path / "split",
    )
    write_image(image_folder / "cat" / "wide.png", 0, size=(6, 9))
    check_error(r"is 6×8, but .*cat/wide\.png is 6×9 \(height × width\)\. datamodule\.size=\[6,8\]", image_folder)
    (image_folder / "cat" / "wide.png").unlink()
    write_image(tmp_path / "other" / "bird" / "a.png", 0, size=(6, 8))
    check_error("other has the class 'bird', which training lacks", image_folder, test_path=tmp_path / "other")


def test_the_preparation_travels_and_a_folder_is_predicted(fast, image_folder):
    result = run(fast("model=cnn", "datamodule=image_folder", f"datamodule.path={image_folder}"), verbose=False)
    predictions = predict(result.folder, [str(image_folder / "dog"), str(image_folder / "cat" / "3.png")])
    assert len(predictions) == 11 and set(predictions[0]["probabilities"]) == {"cat", "dog"}
    data, other = make(image_folder), make(Path("elsewhere"))
    data.setup()
    file = io.BytesIO()
    torch.save(data.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    one = str(image_folder / "cat" / "3.png")
    assert torch.equal(other.encode([one]).x, data.encode([one]).x) and other.spec == data.spec
    write_image(image_folder / "large.png", 0, size=(60, 80))
    assert other.encode([str(image_folder / "large.png")]).x.shape == (1, 3, 6, 8)
