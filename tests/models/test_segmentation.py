"""SAM: loading any size, one mask a box, the tiny model's training loss."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything import SamPredictor

from csp_utils.base.errors import UserError
from csp_utils.models import sam
from csp_utils.tiny_world.models import sam as train_sam
from csp_utils.tiny_world.models.fit import Settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint folder after one training step."""
    path = tmp_path_factory.mktemp("sam") / "sam"
    train_sam.train(path, Settings(steps=1, n_scenes=1, log=lambda line: None), images=1)
    return path


@pytest.fixture(scope="module")
def predictor(folder):
    return sam.load_sam(folder)


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))


def test_a_saved_model_is_the_trained_one_in_half_precision(folder, predictor):
    torch.manual_seed(0)
    fresh = sam.build_sam(train_sam.CONFIG)
    loaded = predictor.model.state_dict()
    assert loaded.keys() == fresh.state_dict().keys()
    assert all(v.dtype == torch.float32 for v in loaded.values())
    moved = [k for k, v in fresh.state_dict().items() if not torch.allclose(v.half().float(), loaded[k])]
    assert moved, "training changed nothing"


def test_training_is_deterministic(folder, tmp_path):
    train_sam.train(tmp_path / "again", Settings(steps=1, n_scenes=1, log=lambda line: None), images=1)
    assert (tmp_path / "again/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_masks_have_the_pictures_size_and_chunks_do_not_matter(predictor, picture):
    boxes = np.array([[1, 2, 30, 40], [20, 5, 80, 55], [0, 0, 90, 60]], np.float32)
    whole, quality = sam.segment(predictor, picture, boxes)
    apart, quality_apart = sam.segment(predictor, picture, boxes, chunk=1)
    assert whole.shape == (3, 60, 90) and whole.dtype == bool and quality.shape == (3,)
    assert (whole == apart).mean() > 0.999  # rounding may move a pixel on the edge
    np.testing.assert_allclose(quality, quality_apart, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 2, 16])
def test_masks_are_those_of_segment_anythings_own_predictor_box_by_box(chunk):
    """With random weights in every layer, pictures of several sizes; a pixel may differ only if its logit is 0."""
    torch.manual_seed(3)
    model = sam.build_sam(train_sam.CONFIG)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    mine, own = SamPredictor(model), SamPredictor(model)
    rng = np.random.default_rng(1)
    covered = []
    for width, height in ((112, 112), (90, 60), (50, 130), (640, 480)):
        image = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        corners = rng.random((5, 2, 2)).astype(np.float32) * (width, height)
        boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
        masks, quality = sam.segment(mine, image, boxes, chunk)
        own.set_image(np.asarray(image))
        for box, mask, predicted_iou in zip(boxes, masks, quality, strict=True):
            logits, iou, _ = own.predict(box=box, multimask_output=False, return_logits=True)
            assert (np.abs(logits[0][mask != (logits[0] > model.mask_threshold)]) < 1e-4 * np.abs(logits).max()).all()
            np.testing.assert_allclose(predicted_iou, iou[0], rtol=1e-4, atol=1e-5)
            covered.append(mask.mean())
    assert min(covered) < 0.45 and max(covered) > 0.55 and len(set(covered)) > 10, "these weights draw nothing"


def test_no_box_gives_no_mask(predictor, picture):
    masks, quality = sam.segment(predictor, picture, np.zeros((0, 4), np.float32))
    assert masks.shape == (0, 60, 90) and quality.shape == (0,)


def test_the_encoder_runs_once_an_image(predictor, picture, monkeypatch):
    calls = []
    monkeypatch.setattr(predictor, "set_image", lambda image, own=predictor.set_image: (calls.append(1), own(image)))
    sam.segment(predictor, picture, np.tile([5, 5, 50, 50], (40, 1)), chunk=7)
    assert len(calls) == 1


def test_the_size_is_read_from_the_official_name(tmp_path):
    (tmp_path / "sam_vit_l_0b3195.pth").touch()
    assert sam.read_config(tmp_path) == {"model_type": "vit_l"}


@pytest.mark.parametrize("content, names", [
    ("{", "restore"), ('{"model_type": "vit_x"}', "vit_x"), ('{"image_size": 224}', "patch_size"),
])  # fmt: skip
def test_a_wrong_configuration_is_one_sentence(tmp_path, content, names):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=names):
        sam.build_sam(sam.read_config(tmp_path))


@pytest.mark.parametrize("damage", ["truncated", "other size", "missing"])
def test_a_wrong_checkpoint_is_one_sentence(folder, tmp_path, damage):
    config = json.loads((folder / "config.json").read_text())
    weights = (folder / "model.safetensors").read_bytes()
    if damage == "other size":
        config["encoder_depth"] += 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    if damage != "missing":
        (tmp_path / "model.safetensors").write_bytes(weights[:5000] if damage == "truncated" else weights)
    with pytest.raises(UserError) as error:
        sam.load_sam(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_the_mask_loss_is_small_for_the_truth_and_large_for_its_opposite():
    masks = torch.zeros(2, 8, 8)
    masks[:, 2:5, 2:6] = 1
    right = (masks[:, None] * 2 - 1) * 20
    assert train_sam.mask_loss(right, masks, torch.ones(2, 1)) < 0.01
    assert train_sam.mask_loss(-right, masks, torch.ones(2, 1)) > 2


def test_jitter_moves_every_edge_a_little():
    boxes = torch.tensor([[10.0, 20.0, 50.0, 40.0]]).repeat(200, 1)
    shift = (train_sam.jitter(boxes, torch.Generator().manual_seed(0)) - boxes).abs()
    assert (shift > 0).all() and (shift.amax(0) <= torch.tensor([6.0, 3.0, 6.0, 3.0]) + 1e-4).all()


@pytest.mark.slow
def test_the_official_size_builds():
    whole = sam.build_sam({"model_type": "vit_b"})
    assert whole.image_encoder.img_size == 1024 and sum(w.numel() for w in whole.parameters()) > 90e6
