"""Stages 01 to 03 in a row with the tiny models, on images as users have them."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from stage_tools import photographs, rlaif_row, run_stage

from csp_utils.base.files import read_parquet
from csp_utils.base.run import RunPaths
from csp_utils.data.benchmarks import QUESTION_COLUMNS, write_pope
from csp_utils.data.images import load_image
from csp_utils.data.rlaif_v import read_rlaif_v, write_rlaif_v
from csp_utils.noise import diffusion
from csp_utils.stages.extract import Extract
from csp_utils.stages.mask import Mask
from csp_utils.stages.perturb import Perturb
from csp_utils.tiny_world.world.scenes import draw_scene

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "assets" / "tiny_world"


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def odd_images() -> list[tuple[bytes, str, str]]:
    """(file, noun, answer): scenes as grayscale, with transparency, CMYK, palette, turned by EXIF, large and narrow."""
    turned = Image.Exif()
    turned[0x0112] = 6
    scenes = [draw_scene("test", 7000 + i) for i in range(6)]
    drawn = [Image.fromarray(scene.image) for scene in scenes]
    narrow = Image.new("RGB", (600, 40), (120, 130, 110))
    narrow.paste(drawn[0].resize((40, 40)), (280, 0))
    files = [
        encode(drawn[0].convert("L"), "PNG"), encode(drawn[1].convert("RGBA"), "PNG"),
        encode(drawn[2].convert("CMYK"), "JPEG", quality=95), encode(drawn[3].convert("P"), "GIF"),
        encode(drawn[4].transpose(Image.Transpose.ROTATE_90), "JPEG", exif=turned, quality=95),
        encode(drawn[5].resize((500, 400)), "PNG"), encode(narrow, "PNG"),
    ]  # fmt: skip
    nouns = [scene.nouns[0] for scene in scenes] + [scenes[0].nouns[0]]
    return [(file, noun, f"Yes, there is a {noun} in the image.") for file, noun in zip(files, nouns, strict=True)]


def run(images: list[tuple[bytes, str, str]], folder: Path, threshold: float) -> tuple:
    """Stages 01, 02 and 03; what each leaves."""
    paths = RunPaths("r", folder)
    write_rlaif_v(paths["data/rlaif_v/train.parquet"], [
        rlaif_row(i, file, question=f"Is there a {noun} in the image?", chosen=answer)
        for i, (file, noun, answer) in enumerate(images)
    ])  # fmt: skip
    data = read_rlaif_v(paths["data/rlaif_v/train.parquet"])
    run_stage(Extract(keyword_model=str(ASSETS / "keyword_lm"), device="cpu", batch_size=8), paths)
    run_stage(Mask(box_threshold=threshold, least_score=min(threshold, 0.15), sam=str(ASSETS / "sam"),
                   grounding_dino=str(ASSETS / "grounding_dino")), paths)  # fmt: skip
    run_stage(Perturb(levels=[30]), paths)
    keywords, found, funnel, table = (read_parquet(paths[f"{name}.parquet"])
                                      for name in ("keywords", "masks", "funnel", "perturbed/rows"))  # fmt: skip
    assert funnel["n"].iloc[0] == len(images) and len(table) == found["drop_reason"].isna().sum()
    for row in table.itertuples():
        (source,) = found[found["row_id"] == row.row_id].itertuples()
        before, mask = diffusion.image_and_mask(source, data.image_bytes(source.row_id))
        after = np.asarray(load_image(paths["perturbed/images"] / f"{row.row_id}_c030.png"))
        assert after.shape == before.shape == (source.height, source.width, 3)
        assert np.array_equal(after[~mask], before[~mask]) and not np.array_equal(after, before)
    return keywords, found, table


def test_a_training_image_of_pope_is_found_by_its_content(tmp_path):
    """Another name, another size and another encoding; formerly only COCO's number in the name was compared."""
    scenes = [Image.fromarray(draw_scene("test", 7100 + i).image) for i in range(3)]
    questions = pd.DataFrame([("pope_random", str(i + 1), f"COCO_val2014_{i:012d}.jpg", "Is there a dog in the image?",
                               "no", "existence") for i in range(2)], columns=QUESTION_COLUMNS)  # fmt: skip
    every = [questions.assign(split=f"pope_{kind}") for kind in ("random", "popular", "adversarial")]
    write_pope(tmp_path / "pope", pd.concat(every))
    (tmp_path / "pope" / "images").mkdir()
    for i, scene in enumerate(scenes[:2]):
        (tmp_path / "pope" / "images" / f"COCO_val2014_{i:012d}.jpg").write_bytes(encode(scene, "JPEG", quality=90))
    files = [encode(scenes[1].resize((200, 200)), "JPEG", quality=60), encode(scenes[2], "PNG"), b"no image"]
    names = ["any_name", "COCO_val2014_000000000000.jpg", "x.png"]  # the second has the number of another image
    paths = RunPaths("r", tmp_path)
    write_rlaif_v(paths["data/rlaif_v/train.parquet"], [
        rlaif_row(i, file, image_path=name, question="Is there a star in the image?", chosen="Yes, there is a star.")
        for i, (file, name) in enumerate(zip(files, names, strict=True))
    ])  # fmt: skip
    p = Extract(n_rows=None, pope=str(tmp_path / "pope"), keyword_model=str(ASSETS / "keyword_lm"), device="cpu")
    said = run_stage(p, paths)
    table = read_parquet(paths["keywords.parquet"])
    assert table["drop_reason"].fillna("").tolist() == ["benchmark_image", "", ""]
    assert [None if pd.isna(x) else x for x in table["in_benchmark"]] == [True, False, None]
    assert any("For 1 of 3 rows it cannot be told" in line for line in said)


@pytest.mark.slow
def test_images_of_every_kind_pass(tmp_path):
    images = odd_images()
    keywords, found, _ = run(images, tmp_path, threshold=0.35)
    assert keywords["keyword"].tolist() == [noun for _, noun, _ in images]
    assert tuple(found[["width", "height"]].iloc[5]) == (500, 400) and found["width"].iloc[6] == 600
    assert found["drop_reason"].iloc[:6].isna().sum() >= 4  # the models know such scenes, if in colour


@pytest.mark.slow
def test_photographs_pass(tmp_path):
    """The tiny models know nothing of what is in them; the stages take them, and name what they leave out."""
    images = [(file.read_bytes(), noun, f"The {noun} is red.") for file in photographs() for noun in ("star", "horse")]
    _, found, _ = run(images, tmp_path, threshold=0.0)
    assert set(found["drop_reason"].dropna()) <= {"no_keyword", "mask_too_large", "empty_mask"}
