"""Image files of every kind become upright RGB pictures, or are named."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capbench.data import Images
from capbench.errors import UserError
from tests.support import QUICK, TINY_ENCODER, TINY_MERGE, make_flickr8k, run

WHITE, RED, GREY = (255, 255, 255), (255, 0, 0), (128, 128, 128)


def halves(mode: str, left: object, right: object) -> Image.Image:
    """A picture of 32x16 with a left and a right colour."""
    image = Image.new(mode, (32, 16), left)  # type: ignore[arg-type]
    image.paste(right, (16, 0, 32, 16))  # type: ignore[arg-type]
    return image


def palette(transparent: bool) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image = halves("P", 0, 1)
        image.putpalette([*RED, *GREY])
        image.save(path, transparency=1) if transparent else image.save(path)

    return write


def turned(orientation: int) -> Callable[[Path], None]:
    """The picture as a camera held otherwise stores it."""
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    back |= {2: Image.Transpose.FLIP_LEFT_RIGHT}

    def write(path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        halves("RGB", RED, GREY).transpose(back[orientation]).save(path, exif=exif)

    return write


def of_16_bits(dtype: type) -> Callable[[Path], None]:
    """Black, or 16-bit grey, which has 257 times the value of that of 8 bits."""

    def write(path: Path) -> None:
        grey = np.zeros((16, 32), dtype)
        grey[:, 16:] = 128 * 257
        Image.fromarray(grey).save(path)

    return write


def plain(image: Image.Image) -> Callable[[Path], None]:
    return image.save


@pytest.mark.parametrize(
    ("name", "write", "left", "right"),
    [
        ("rgb.jpg", plain(halves("RGB", RED, GREY)), RED, GREY),
        ("rgb.JPG", plain(halves("RGB", RED, GREY)), RED, GREY),
        ("rgb.webp", plain(halves("RGB", RED, GREY)), RED, GREY),
        ("rgb.bmp", plain(halves("RGB", RED, GREY)), RED, GREY),
        ("grey.jpg", plain(halves("L", 0, 128)), (0, 0, 0), GREY),
        ("black and white.png", plain(halves("1", 0, 1)), (0, 0, 0), WHITE),
        ("cmyk.jpg", plain(halves("CMYK", (0, 255, 255, 0), (0, 0, 0, 127))), RED, GREY),
        ("rgba.png", plain(halves("RGBA", (*RED, 255), (0, 0, 0, 0))), RED, WHITE),
        ("half transparent.png", plain(halves("RGBA", (*RED, 255), (0, 0, 0, 127))), RED, GREY),
        ("grey and transparent.png", plain(halves("LA", (128, 255), (0, 0))), GREY, WHITE),
        ("palette.png", palette(transparent=False), RED, GREY),
        ("palette.gif", palette(transparent=False), RED, GREY),
        ("transparent palette.png", palette(transparent=True), RED, WHITE),
        ("transparent palette.gif", palette(transparent=True), RED, WHITE),
        ("grey.png", of_16_bits(np.uint16), (0, 0, 0), GREY),
        ("grey.tif", of_16_bits(np.int32), (0, 0, 0), GREY),
        ("grey of 8 bits.tif", plain(halves("I", 0, 128)), (0, 0, 0), GREY),
        *((f"turned by {number}.jpg", turned(number), RED, GREY) for number in (2, 3, 6, 8)),
    ],
)
def test_a_picture_is_rgb_and_upright(
    name: str, write: Callable[[Path], None], left: tuple[int, ...], right: tuple[int, ...], tmp_path: Path
) -> None:
    write(tmp_path / name)
    (tmp_path / "mine.csv").write_text(f"image,caption\n{name},two colours\n")
    (image,) = Images(tmp_path, shares=[1, 0]).read()
    picture = image.open()
    assert picture.mode == "RGB"
    assert picture.size == (32, 16)
    for place, expected in (((4, 8), left), ((28, 8), right)):
        found = picture.getpixel(place)
        assert isinstance(found, tuple)
        assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= 4, (place, found)


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"no image", jpeg()[:100], jpeg()[: len(jpeg()) // 2], b"<svg></svg>", b"<!DOCTYPE html><html>404</html>"],
    ids=["empty", "text", "header", "half", "svg", "a page instead of the image"],
)
def test_a_picture_that_cannot_be_read_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    (tmp_path / "mine.csv").write_text("image,caption\na.jpg,a dog\n")
    (image,) = Images(tmp_path, shares=[1, 0]).read()
    with pytest.raises(
        UserError, match=rf"^{re.escape(str(tmp_path / 'a.jpg'))} cannot be read as an image \("
    ) as error:
        image.open()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_training_stops_with_its_name(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    root = make_flickr8k(tmp_path / "data")
    image = sorted(root.rglob("*.jpg"))[2]
    image.write_bytes(image.read_bytes()[:400])
    options = (f"--data.root={root}", "--data.min_count=1", f"--data.num_workers={workers}")
    assert run("fit", *options, *TINY_ENCODER, *TINY_MERGE, *QUICK) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.search(
        rf"^capbench: {re.escape(str(image))} cannot be read as an image \([^\n]*\)\. Repair it", error, re.M
    )
    assert error.endswith("lists all such.\n")
