"""Reduced precision of SAM's image encoder: what it changes, what it must not change, and when it is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from PIL import Image
from segment_anything import SamPredictor

from csp_utils.asking import stress
from csp_utils.base.errors import UserError
from csp_utils.base.run import RunPaths
from csp_utils.data.rle import decode_mask
from csp_utils.models import masks, sam
from csp_utils.stages.mask import Mask
from csp_utils.stages.stress import Stress
from csp_utils.tiny_world.models.sam import iou
from csp_utils.tiny_world.world.scenes import draw_scene

ASSETS = ROOT / "assets" / "tiny_world"


def models(torch_dtype: str) -> masks.Models:
    return masks.load_models(Mask(grounding_dino=str(ASSETS / "grounding_dino"), sam=str(ASSETS / "sam"),
                                  torch_dtype=torch_dtype, device="cpu"))  # fmt: skip


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene("test", 8200 + i) for i in range(6)]


def results_of(torch_dtype: str, scenes) -> list[masks.MaskResult]:
    """What the stage finds for the objects of the scenes."""
    images, words = [Image.fromarray(scene.image) for scene in scenes], [scene.nouns for scene in scenes]
    p = Mask(torch_dtype=torch_dtype)
    results = masks.look(models(torch_dtype), images, words, p, p.box_threshold)
    return [masks.decide(one, p) for of_image in results for one in of_image]


def test_float32_is_segment_anything_untouched_bit_by_bit(scenes):
    mine = models("float32").predictor
    own = SamPredictor(sam.build_sam(sam.read_config(ASSETS / "sam")))
    own.model.load_state_dict(mine.model.state_dict())
    assert "forward" not in vars(mine.model.image_encoder) and not mine.model.image_encoder._forward_hooks
    for scene in scenes:
        mine.set_image(scene.image)
        own.set_image(scene.image)
        assert torch.equal(mine.features, own.features) and mine.features.dtype == torch.float32


@pytest.mark.parametrize("torch_dtype, least, n_scenes", [("bfloat16", 0.97, 6), ("float16", 0.99, 2)])
def test_masks_stay_the_same_but_for_a_few_pixels(scenes, torch_dtype, least, n_scenes):
    full, reduced = results_of("float32", scenes[:n_scenes]), results_of(torch_dtype, scenes[:n_scenes])
    overlaps = []
    for a, b in zip(full, reduced, strict=True):
        assert (a.boxes, a.scores, a.phrases, a.drop_reason) == (b.boxes, b.scores, b.phrases, b.drop_reason)
        if a.rle_counts:
            overlaps.append(iou(*(decode_mask(one.rle_counts, one.width, one.height) for one in (a, b))))
    assert len(overlaps) >= 2 * n_scenes and min(overlaps) > least


@pytest.mark.parametrize("torch_dtype", ["bfloat16", "float16"])
def test_the_encoder_alone_multiplies_in_reduced_precision(scenes, torch_dtype):
    predictor = models(torch_dtype).predictor
    encoder, decoder = predictor.model.image_encoder, predictor.model.mask_decoder
    seen = {}
    for name, layer in (("encoder", encoder.blocks[-1].mlp.lin1), ("between", encoder.blocks[-1]),
                        ("decoder", decoder.transformer.layers[0].mlp.lin1)):  # fmt: skip
        layer.register_forward_hook(lambda layer, given, out, name=name: seen.update({name: out.dtype}))
    boxes = np.array([thing.box for thing in scenes[0].things], np.float32)
    sam.segment(predictor, Image.fromarray(scenes[0].image), boxes)
    assert seen == {"encoder": getattr(torch, torch_dtype), "between": torch.float32, "decoder": torch.float32}
    assert {weight.dtype for weight in predictor.model.parameters()} == {torch.float32}


def test_an_image_beyond_the_range_of_float16_is_one_sentence(scenes):
    """Large weights that a normalisation makes small again: float32 and bfloat16 do not mind, float16 overflows."""
    image, boxes = Image.fromarray(scenes[0].image), np.array([scenes[0].things[0].box], np.float32)
    drawn = {}
    for torch_dtype in ("float32", "bfloat16", "float16"):
        predictor = models(torch_dtype).predictor
        with torch.no_grad():
            predictor.model.image_encoder.neck[0].weight *= 1e6
        if torch_dtype == "float16":
            with pytest.raises(UserError, match="left the range of float16; set torch_dtype to bfloat16") as error:
                sam.segment(predictor, image, boxes)
            assert "\n" not in str(error.value)
            assert not predictor.is_image_set
        else:
            drawn[torch_dtype] = sam.segment(predictor, image, boxes)[0][0]
    assert iou(drawn["float32"], drawn["bfloat16"]) > 0.97


def test_the_stress_test_finds_its_objects_as_notebook_02_does(scenes, tmp_path, monkeypatch):
    """Its boxes, masks and precision are those of notebook 02's parameters."""
    Image.fromarray(scenes[0].image).save(tmp_path / "a.png")
    objects = pd.DataFrame([("a.png", "?", noun, str(tmp_path / "a.png"), None, noun) for noun in scenes[0].nouns],
                           columns=["image", "question", "object", "path", "other_path", "row_id"])  # fmt: skip
    monkeypatch.setattr(stress, "read_objects", lambda *_: objects)
    p = Stress(grounding_dino=str(ASSETS / "grounding_dino"), sam=str(ASSETS / "sam"), torch_dtype="bfloat16",
               pope=str(tmp_path), device="cpu")  # fmt: skip
    assert stress.load_models(p) is models("bfloat16")
    found = [one.rle_counts for one in results_of("bfloat16", scenes[:1])]
    assert any(found) and stress.find_masks(p, RunPaths("r", tmp_path))["rle_counts"].tolist() == found
