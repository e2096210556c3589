"""The same weights in Hugging Face's ports of GroundingDINO and SAM give the same boxes and masks.

The ports were written anew by other people, so that a mistake in how we load, preprocess, batch or read either model
would show. What the ports do differently is named, and shown, in the tests about differences.
"""

import shutil
from pathlib import Path

import groundingdino
import numpy as np
import pytest
import torch
from conftest import ROOT
from hf_ports import grounding_dino as dino_port
from hf_ports import renamed_sam
from hf_ports import sam as sam_port
from PIL import Image
from segment_anything import SamPredictor
from transformers import (
    BertConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    SamConfig,
    SamImageProcessor,
    SamModel,
    SamProcessor,
)
from transformers.models.grounding_dino import modeling_grounding_dino

from csp_utils.models import grounding_dino, sam
from csp_utils.tiny_world.world.scenes import draw_scene

OFFICIAL = Path(groundingdino.__file__).parent / "config" / "GroundingDINO_SwinT_OGC.py"
ASSETS = ROOT / "assets" / "tiny_world"


@pytest.fixture(scope="module")
def detector():
    return grounding_dino.load_grounding_dino(ASSETS / "grounding_dino")


@pytest.fixture
def port(detector, monkeypatch):
    """The port finds the ends of phrases by the numbers that bert-base-uncased gives them; ours are others."""
    monkeypatch.setattr(modeling_grounding_dino, "SPECIAL_TOKENS", detector.model.specical_tokens)
    return dino_port(grounding_dino.read_config(ASSETS / "grounding_dino"), detector.model)


@pytest.fixture(scope="module")
def predictor():
    return sam.load_sam(ASSETS / "sam")


def scenes() -> list[tuple[Image.Image, list[str], list[tuple[float, ...]]]]:
    """(picture, what is asked for, boxes) of unseen scenes: three squares, a wide and a tall one."""
    shapes = [None, None, None, (180, 120), (90, 140)]
    out = []
    for i, shape in enumerate(shapes):
        scene = draw_scene("test", 8000 + i)
        image = Image.fromarray(scene.image)
        scale = np.array(shape or image.size) / image.size
        boxes = [tuple(np.array(thing.box) * np.tile(scale, 2)) for thing in scene.things]
        out.append((image.resize(shape) if shape else image, [*scene.nouns, "red moon"], boxes))
    return out


def ask_port(port, tokenizer, pixels: torch.Tensor, keyword: str):
    tokens = tokenizer([grounding_dino.caption_of(keyword)], return_tensors="pt")
    with torch.no_grad():
        return port(pixel_values=pixels, **tokens), tokens["input_ids"]


def test_the_port_of_grounding_dino_finds_the_same(detector, port):
    """Through its own image processor, one (image, keyword) at a time; ours in batches."""
    processor = GroundingDinoImageProcessor(size={"shortest_edge": 112, "longest_edge": 187})
    read = GroundingDinoProcessor(processor, detector.model.tokenizer).post_process_grounded_object_detection
    pairs = [(image, word) for image, words, _ in scenes() for word in words]
    found = grounding_dino.detect(detector, [image for image, _ in pairs], [word for _, word in pairs])
    n_boxes = 0
    for (image, word), mine in zip(pairs, found, strict=True):
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        output, ids = ask_port(port, detector.model.tokenizer, pixels, word)
        theirs = read(output, ids, threshold=0.35, text_threshold=0.25, target_sizes=[image.size[::-1]])[0]
        order = torch.argsort(theirs["scores"], descending=True, stable=True)
        limits = torch.tensor([*image.size, *image.size])
        np.testing.assert_allclose(mine.scores, theirs["scores"][order], atol=2e-6)
        np.testing.assert_allclose(mine.boxes, theirs["boxes"][order].clamp(min=0).minimum(limits), atol=1e-3)
        assert mine.phrases == [theirs["text_labels"][i].replace(".", "").strip() for i in order]
        n_boxes += len(mine.boxes)
    assert n_boxes >= 10


def test_the_port_of_sam_draws_the_same_masks(predictor):
    """Through its own processors; a pixel may differ only where the mask's logit is 0 but for rounding."""
    config = sam.read_config(ASSETS / "sam")
    port = sam_port(config, predictor.model, layer_norm_eps=1e-5)
    side = config["image_size"]
    processor = SamProcessor(SamImageProcessor(
        size={"longest_edge": side}, pad_size={"height": side, "width": side}))  # fmt: skip
    processor.target_size = side
    n_masks = 0
    for image, _, boxes in scenes():
        mine, quality = sam.segment(predictor, image, np.array(boxes))
        given = processor(image, input_boxes=[[list(map(float, box)) for box in boxes]], return_tensors="pt")
        with torch.no_grad():
            output = port(pixel_values=given["pixel_values"], input_boxes=given["input_boxes"].float(),
                          multimask_output=False)  # fmt: skip
        (logits,) = processor.image_processor.post_process_masks(
            output.pred_masks, given["original_sizes"], given["reshaped_input_sizes"], binarize=False
        )
        logits = logits[:, 0].numpy()
        assert mine.any(axis=(1, 2)).all() and not mine.all(axis=(1, 2)).any()
        assert (np.abs(logits[mine != (logits > 0)]) < 1e-3).all()
        np.testing.assert_allclose(quality, output.iou_scores[0, :, 0], atol=1e-5)
        n_masks += len(mine)
    assert n_masks >= 10


# ------------------------------------------------------------------------------------------------- known differences


def test_difference_the_ports_ends_of_phrases_are_fixed_numbers(detector, port, monkeypatch):
    """101, 102, 1012 and 1029 of bert-base-uncased, so that a model with another vocabulary gives nonsense."""
    assert modeling_grounding_dino.SPECIAL_TOKENS == detector.model.specical_tokens
    image, words, _ = scenes()[0]
    pixels = grounding_dino.preprocess(image, 112, 187)[None]
    right, _ = ask_port(port, detector.model.tokenizer, pixels, words[0])
    monkeypatch.setattr(modeling_grounding_dino, "SPECIAL_TOKENS", [101, 102, 1012, 1029])
    wrong, _ = ask_port(port, detector.model.tokenizer, pixels, words[0])
    assert (right.pred_boxes - wrong.pred_boxes).abs().max() > 0.1


def test_difference_the_port_lets_a_box_come_closer_to_the_edge(detector, monkeypatch):
    """groundingdino-py keeps a box's numbers in 0.001..0.999 when a layer refines it, the port in 0.00001..0.99999."""
    monkeypatch.setattr(modeling_grounding_dino, "SPECIAL_TOKENS", detector.model.specical_tokens)
    config = grounding_dino.read_config(ASSETS / "grounding_dino")
    model = grounding_dino.load_grounding_dino(ASSETS / "grounding_dino").model
    with torch.no_grad():
        model.transformer.enc_out_bbox_embed.layers[-1].bias[:] = torch.tensor([-12.0, 12.0, -2.0, -2.0])
    port = dino_port(config, model)
    image, words, _ = scenes()[0]
    pixels = grounding_dino.preprocess(image, 112, 187)[None]
    with torch.no_grad(), grounding_dino._quiet():
        ours = model(pixels, captions=[grounding_dino.caption_of(words[0])])
    theirs, _ = ask_port(port, model.tokenizer, pixels, words[0])
    assert (ours["pred_boxes"] - theirs.pred_boxes).abs().max() > 1e-4
    logit = torch.special.logit
    monkeypatch.setattr(torch.special, "logit", lambda x, eps: logit(x, eps={1e-5: 1e-3}[eps]))
    theirs, _ = ask_port(port, model.tokenizer, pixels, words[0])
    torch.testing.assert_close(ours["pred_boxes"], theirs.pred_boxes, atol=2e-6, rtol=0)
    torch.testing.assert_close(ours["pred_logits"], theirs.logits, atol=2e-5, rtol=0)


@pytest.mark.parametrize("size, theirs", [((640, 480), None), ((333, 500), None), ((1200, 300), (333, 1333))])
def test_difference_the_port_scales_long_pictures_to_another_size(size, theirs):
    """Up to 1333:800 the pixels are the same bit by bit; beyond, its longer side is 1333, the official demo's 1332."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
    mine = grounding_dino.preprocess(image, grounding_dino.IMAGE_SIZE, grounding_dino.IMAGE_MAX_SIZE)
    port = GroundingDinoImageProcessor()(image, return_tensors="pt")["pixel_values"][0]
    if theirs is None:
        assert torch.equal(mine, port)
    else:
        assert port.shape[1:] == theirs and mine.shape[1:] == (333, 1332)


def test_difference_the_ports_layer_norms_divide_by_a_little_less(predictor):
    """1e-6 beside the variance in SAM's mask decoder, not 1e-5: logits of up to 20 move by less than 0.001."""
    config = sam.read_config(ASSETS / "sam")
    image, _, boxes = scenes()[0]
    predictor.set_image(np.asarray(image))
    corners = predictor.transform.apply_boxes_torch(torch.tensor(boxes, dtype=torch.float32), image.size[::-1])
    logits = predictor.predict_torch(None, None, corners, None, False, True)[2][:, 0]
    far = {}
    for eps in (1e-5, 1e-6):
        port = sam_port(config, predictor.model, eps)
        with torch.no_grad():
            output = port(image_embeddings=predictor.features, input_boxes=corners[None], multimask_output=False)
        far[eps] = (output.pred_masks[0, :, 0] - logits).abs().max().item()
    predictor.reset_image()
    assert far[1e-5] < far[1e-6] < 1e-3


# ------------------------------------------------------------------------------------------------ the official sizes


@pytest.mark.parametrize("size, width, depth, heads, whole", [
    ("vit_b", 768, 12, 12, [2, 5, 8, 11]), ("vit_l", 1024, 24, 16, [5, 11, 17, 23]),
    ("vit_h", 1280, 32, 16, [7, 15, 23, 31]),
])  # fmt: skip
def test_sam_has_the_weights_of_the_published_port_in_every_official_size(size, width, depth, heads, whole):
    """Names and shapes, without numbers: the port with these settings is what facebook/sam-vit-* are read into."""
    vision = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads,
              "global_attn_indexes": whole}  # fmt: skip
    with torch.device("meta"):
        model, port = sam.build_sam({"model_type": size}), SamModel(SamConfig(vision_config=vision))
    named = renamed_sam(model.state_dict())
    assert {key: value.shape for key, value in named.items()} == {
        key: value.shape for key, value in port.state_dict().items()}  # fmt: skip


@pytest.mark.slow
def test_grounding_dino_swin_t_is_the_published_port_in_its_official_size(tmp_path, monkeypatch):
    """Random weights: their names and shapes are those of the port's defaults, and so are all 900 boxes."""
    shutil.copy(OFFICIAL, tmp_path)
    shutil.copytree(ASSETS / "grounding_dino" / "text_encoder", tmp_path / "bert-base-uncased")
    BertConfig().save_pretrained(tmp_path / "bert-base-uncased")  # its size; the vocabulary is the tiny one
    torch.manual_seed(0)
    config = grounding_dino.read_config(tmp_path)
    model = grounding_dino.build_grounding_dino(config, tmp_path)
    with torch.no_grad():
        for weight in model.parameters():  # as built, the box heads end in zeros
            weight += 0.02 * torch.randn_like(weight)
    with torch.device("meta"):
        published = GroundingDinoForObjectDetection(GroundingDinoConfig()).state_dict()
    monkeypatch.setattr(modeling_grounding_dino, "SPECIAL_TOKENS", model.specical_tokens)
    port = dino_port(config, model)
    assert {key: value.shape for key, value in port.state_dict().items()} == {
        key: value.shape for key, value in published.items()}  # fmt: skip
    image, words, _ = scenes()[0]
    pixels = grounding_dino.preprocess(image.resize((160, 120)), 320, 533)[None]
    with torch.no_grad(), grounding_dino._quiet():
        ours = model(pixels, captions=[grounding_dino.caption_of(words[0])])
    theirs, _ = ask_port(port, model.tokenizer, pixels, words[0])
    assert ours["pred_boxes"].shape == (1, 900, 4) and ours["pred_boxes"].std(1).min() > 0.02
    same = (ours["pred_boxes"] - theirs.pred_boxes).abs().amax(-1) < 1e-4
    assert same.sum() >= 896  # of 900 proposals two or four have the same score to rounding; the machine orders them
    torch.testing.assert_close(ours["pred_logits"][same], theirs.logits[same], atol=1e-2, rtol=1e-4)


@pytest.mark.slow
def test_sam_of_the_official_widths_draws_the_masks_of_the_port():
    """Random weights, 1024 pixels, ViT-B's windows and heads; 2 of its 12 layers, one over the whole image."""
    config = {"image_size": 1024, "patch_size": 16, "encoder_embed_dim": 768, "encoder_depth": 2,
              "encoder_num_heads": 12, "encoder_global_attn_indexes": [1], "window_size": 14, "prompt_embed_dim": 256,
              "mask_in_chans": 16, "decoder_depth": 2, "decoder_mlp_dim": 2048, "decoder_num_heads": 8,
              "iou_head_hidden_dim": 256}  # fmt: skip
    torch.manual_seed(0)
    model = sam.build_sam(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    port = sam_port(config, model, layer_norm_eps=1e-5)
    image, _, boxes = scenes()[3]
    predictor = SamPredictor(model)
    predictor.set_image(np.asarray(image))
    corners = predictor.transform.apply_boxes_torch(torch.tensor(boxes, dtype=torch.float32), image.size[::-1])
    _, quality, logits = predictor.predict_torch(None, None, corners, None, False, True)
    given = SamImageProcessor()(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = port(pixel_values=given, input_boxes=corners[None], multimask_output=False)
    assert logits.std() > 0.1
    torch.testing.assert_close(output.pred_masks[0], logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.iou_scores[0], quality, atol=1e-4, rtol=1e-4)
