"""Training images that are also benchmark images are found by content, whatever their encoding, size and name."""

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image, ImageOps

from csp_utils.base.errors import UserError
from csp_utils.data.benchmarks import QUESTION_COLUMNS
from csp_utils.data.overlap import BenchmarkImages, coco_number
from csp_utils.tiny_world.world.scenes import draw_scene

PHOTOS = sorted((Path(__file__).parent / "photos").iterdir())


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photos() -> list[Image.Image]:
    """The photographs, as they are and in COCO's usual size."""
    whole = [Image.open(path).convert("RGB") for path in PHOTOS]
    return [*whole, *(image.resize((640, 480), Image.Resampling.LANCZOS) for image in whole)]


def scenes(number: int, split: str = "train") -> list[Image.Image]:
    return [Image.fromarray(draw_scene(split, index, 0).image) for index in range(number)]


def held_out(folder: Path, images: list[bytes], names: list[str] | None = None) -> BenchmarkImages:
    """A benchmark of these images."""
    names = names or [f"COCO_val2014_{number:012d}.jpg" for number in range(1, len(images) + 1)]
    (folder / "images").mkdir()
    for name, content in zip(names, images, strict=True):
        (folder / "images" / name).write_bytes(content)
    rows = [("pope_random", str(i), name, "Is it?", "yes", "existence") for i, name in enumerate(names)]
    return BenchmarkImages(folder, pd.DataFrame(rows, columns=QUESTION_COLUMNS))


def again(image: Image.Image) -> Iterator[tuple[str, bytes]]:
    """The same image, encoded and resized as data sets do."""
    yield "png", encoded(image, "PNG")
    yield "webp", encoded(image, "WEBP", quality=80, method=0)
    for quality in (95, 75, 50, 30):
        yield f"quality {quality}", encoded(image, quality=quality)
    yield "progressive", encoded(image, quality=85, progressive=True, subsampling=0)
    for side, method in ((768, "LANCZOS"), (512, "LANCZOS"), (512, "BILINEAR"), (336, "BICUBIC"), (256, "BILINEAR")):
        factor = side / max(image.size)
        size = tuple(max(1, round(length * factor)) for length in image.size)
        resized = image.resize(size, Image.Resampling[method])
        yield f"{side} {method}", encoded(resized, quality=75)
        yield f"{side} {method} png", encoded(resized, "PNG", compress_level=1)


def other(image: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Other images made of the same one."""
    width, height = image.size
    for kind, changed in (
        ("mirrored", ImageOps.mirror(image)), ("upside down", ImageOps.flip(image)),
        ("turned", image.rotate(180)), ("left half", image.crop((0, 0, width // 2, height))),
        ("inner 90 %", image.crop((width // 20, height // 20, width - width // 20, height - height // 20))),
        ("right 95 %", image.crop((width // 20, 0, width, height))), ("negative", ImageOps.invert(image)),
    ):  # fmt: skip
        yield kind, encoded(changed, quality=95)


def test_the_same_image_is_found_however_it_is_encoded_or_resized(tmp_path: Path) -> None:
    images = [*photos(), *scenes(10)]
    benchmark = held_out(tmp_path, [encoded(image, quality=95) for image in images])
    lost = [(i, kind) for i, image in enumerate(images) for kind, content in again(image)
            if benchmark.shows(content, "renamed.jpg") is not True]  # fmt: skip
    assert not lost


def test_other_images_are_not_confused_with_it(tmp_path: Path) -> None:
    images = [*photos()[:2], *scenes(40)]
    benchmark = held_out(tmp_path, [encoded(image, "PNG") for image in images])
    assert not [kind for image in photos() for kind, content in other(image) if benchmark.shows(content)]
    strangers = [*scenes(200)[40:], *scenes(100, "benchmark")]
    assert not [i for i, image in enumerate(strangers) if benchmark.shows(encoded(image, "PNG"))]


def test_an_even_surface_is_found_and_its_colour_counts(tmp_path: Path) -> None:
    """The bits of a perceptual hash of bits are chance here."""
    sky = Image.effect_noise((640, 480), 4).convert("RGB").point([min(255, v // 8 + shift) for shift in (90, 120, 190)
                                                                  for v in range(256)])  # fmt: skip
    benchmark = held_out(tmp_path, [encoded(sky, quality=95)])
    assert all(benchmark.shows(content) for _, content in again(sky))
    red, green, blue = sky.split()
    assert benchmark.shows(encoded(Image.merge("RGB", (blue, green, red)))) is False


def test_a_rotation_in_the_header_is_applied(tmp_path: Path) -> None:
    image, exif = photos()[0], Image.Exif()
    exif[0x0112] = 6
    content = encoded(image, exif=exif)
    benchmark = held_out(tmp_path, [content])
    assert benchmark.shows(encoded(image.rotate(-90, expand=True))) and not benchmark.shows(encoded(image))


def test_the_content_wins_over_the_number(tmp_path: Path) -> None:
    dog, cat = photos()[:2]
    benchmark = held_out(tmp_path, [encoded(dog)], ["COCO_val2014_000000310196.jpg"])
    assert benchmark.shows(encoded(dog), "COCO_val2014_000000000007.jpg") is True
    assert benchmark.shows(encoded(cat), "COCO_val2014_000000310196.jpg") is False
    cut = encoded(dog)[:5000]
    assert benchmark.shows(cut, "coco_310196") is True and benchmark.shows(None, "coco_7.jpg") is False
    for path in (None, float("nan"), "", "photo.jpg", "COCO_val2014.jpg", 310196):
        assert benchmark.shows(cut, path) is None


def test_numbers_of_other_benchmarks_decide_nothing(tmp_path: Path) -> None:
    benchmark = held_out(tmp_path, [encoded(photos()[0])], ["benchmark_0003.jpg"])
    assert benchmark.shows(b"no image", "train_0003.jpg") is None


@pytest.mark.parametrize("path", [
    "COCO_val2014_000000310196.jpg", "train2014/000000310196.jpg", "coco_310196.jpg", "000000310196", "310196.jpeg",
    "http://images.cocodataset.org/val2014/COCO_val2014_000000310196.jpg?download=true", "310196.png.jpg",
    r"C:\coco\val2014\COCO_val2014_000000310196.jpg", "COCO_train2014_000000310196_0.jpg", "coco/310196.jpg#2",
])  # fmt: skip
def test_coco_numbers_are_read_in_every_form(path: str) -> None:
    assert coco_number(path) == 310196


def test_a_damaged_benchmark_image_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"000000000001\.jpg is damaged or truncated"):
        held_out(tmp_path, [encoded(photos()[0])[:9000]])


def test_one_image_takes_less_than_its_decoding(tmp_path: Path) -> None:
    dog = photos()[2]
    benchmark = held_out(tmp_path, [encoded(image) for image in [dog, *scenes(99) * 5]])
    content = encoded(dog, quality=90)

    def best(call) -> float:
        times = []
        for _ in range(20):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    decoding = best(lambda: Image.open(io.BytesIO(content)).load())
    assert len(benchmark) == 496 and best(lambda: benchmark.shows(content)) < decoding
