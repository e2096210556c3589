"""Images that are rendered when they are opened: the pixels of the files, and nothing but a recipe on the disk."""

import sys

import numpy as np
import pytest
from PIL import Image
from stage_tools import rlaif_row, run_stage
from test_perturbation import world

from csp_utils.base.errors import UserError
from csp_utils.base.files import read_parquet, write_parquet
from csp_utils.base.run import RunPaths
from csp_utils.data.rlaif_v import read_rlaif_v, write_rlaif_v
from csp_utils.models.masks import SCHEMA
from csp_utils.noise import training_rows
from csp_utils.noise.rendered import MASKS, ORIGINALS, RECIPE, _source, is_rendered, open_image
from csp_utils.stages.perturb import Perturb


@pytest.fixture
def both(tmp_path, monkeypatch):
    """The same rows with files and rendered: (paths, table) of each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training_rows, "portable", lambda path: f"images/{path.name}")
    _, masks = world(tmp_path)
    for name in SCHEMA.names:
        masks[name] = masks[name] if name in masks else None
    write_parquet(masks[SCHEMA.names], "masks.parquet")
    found = []
    for images in ("files", "drawn"):
        paths = RunPaths(images, tmp_path / "outputs")
        p = Perturb(rlaif_v="train.parquet", masks_file="masks.parquet", images=images, draws_per_row=2, seed=3,
                    gamma=0.01, t_max=500)  # fmt: skip
        run_stage(p, paths)
        found.append((paths, read_parquet(paths["perturbed/rows.parquet"])))
    return found


def test_every_image_has_the_pixels_of_its_file(both):
    (files, table), (drawn, other) = both
    assert table.equals(other) and len(table) == 10
    assert files["perturbed/sft.jsonl"].read_bytes() == drawn["perturbed/sft.jsonl"].read_bytes()
    assert {file.name for file in drawn["perturbed/images"].iterdir()} == {RECIPE, MASKS, ORIGINALS}
    for name in (path.split("/")[-1] for path in table["image"]):
        assert is_rendered(drawn["perturbed/images"] / name) and not is_rendered(files["perturbed/images"] / name)
        expected = np.asarray(Image.open(files["perturbed/images"] / name))
        assert np.array_equal(np.asarray(open_image(drawn["perturbed/images"] / name)), expected)


def test_the_hugging_face_data_set_holds_images_or_their_names(both):
    from datasets import load_from_disk

    (files, _), (drawn, table) = both
    assert load_from_disk(files["perturbed/dataset"])[0]["image"].size == (20, 16)
    assert load_from_disk(drawn["perturbed/dataset"])["image"][:] == table["image"].tolist()


def test_an_image_of_no_row_is_one_sentence(both):
    _, (drawn, _) = both
    with pytest.raises(UserError, match="no image that .*RECIPE.json can draw"):
        open_image(drawn["perturbed/images"] / "999999_c050.png")
    with pytest.raises(UserError, match="is missing"):
        open_image(drawn["perturbed/images"] / "000000_c050.jpg")


def test_the_folder_depends_on_nothing_else(both, tmp_path):
    """Formerly the masks and the data were read when an image was opened, and a second look changed its pixels."""
    (_, table), (drawn, _) = both
    path = drawn["perturbed/images"] / table["image"][0].split("/")[-1]
    before = np.asarray(open_image(path))
    (tmp_path / "train.parquet").unlink()
    (tmp_path / "masks.parquet").unlink()
    _source.cache_clear()
    assert np.array_equal(np.asarray(open_image(path)), before)


@pytest.mark.parametrize("images", ["files", "drawn"])
def test_other_images_of_the_same_size_are_noticed(both, tmp_path, images):
    """Formerly only another size was noticed, and COCO is full of 640 x 480."""
    rows = read_rlaif_v("train.parquet")
    files = [rows.image_bytes(row_id) for row_id in rows.rows["row_id"]]
    write_rlaif_v("train.parquet", [rlaif_row(i, file) for i, file in enumerate(files[1:] + files[:1])])
    with pytest.raises(UserError, match="image of row 000000 is not the one"):
        run_stage(Perturb(rlaif_v="train.parquet", masks_file="masks.parquet", images=images),
                  RunPaths("other", tmp_path))  # fmt: skip


@pytest.mark.slow
def test_ms_swift_reads_the_rendered_image(both, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    from swift.template import vision_utils

    import csp_utils.training.swift_plugins.rendered_images  # noqa: F401

    (files, table), (drawn, _) = both
    name = table["image"][0].split("/")[-1]
    one, other = (vision_utils.load_image(str(paths["perturbed/images"] / name)) for paths in (files, drawn))
    assert np.array_equal(np.asarray(one), np.asarray(other)) and one.mode == other.mode == "RGB"
