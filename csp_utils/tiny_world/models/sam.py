"""Train and score a SAM of about a million parameters on the tiny world, from random weights.

Model class, preprocessing and files are those of the full-size model; only the sizes differ. Each prompt is an object's
box with small random errors like a detector's; the target is the object's visible mask. The loss is SAM's own: focal
and dice loss of the mask, squared error of the predicted IoU.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.ops import sigmoid_focal_loss

from csp_utils.base.files import whole_folder, write_json
from csp_utils.models.grounding_dino import detect, load_grounding_dino
from csp_utils.models.sam import build_sam, load_sam, segment, union
from csp_utils.tiny_world.models.fit import Settings, fit, warm_cosine, write_weights
from csp_utils.tiny_world.models.grounding_dino import BOX_THRESHOLD, found_things
from csp_utils.tiny_world.world.scenes import SIZE, draw_scene

CONFIG: dict[str, Any] = {
    "image_size": 224, "patch_size": 8, "encoder_embed_dim": 96, "encoder_depth": 3, "encoder_num_heads": 4,
    "encoder_global_attn_indexes": [2], "window_size": 7, "prompt_embed_dim": 96, "mask_in_chans": 8,
    "decoder_depth": 2, "decoder_mlp_dim": 192, "decoder_num_heads": 4, "iou_head_hidden_dim": 64,
}  # fmt: skip
"""28 x 28 image tokens, so that the decoder's masks (four times that) have the 112 x 112 pixels of a scene."""


def mask_loss(logits: torch.Tensor, masks: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Compute SAM's loss, mean over objects and mask tokens.

    Args:
        logits: float (n, tokens, h, w).
        masks: float (n, h, w), 0 or 1.
        quality: float (n, tokens), the predicted IoU.
    """
    target = masks[:, None].expand_as(logits)
    focal = sigmoid_focal_loss(logits, target, alpha=-1, reduction="none").mean((2, 3))
    p = logits.sigmoid()
    dice = 1 - (2 * (p * target).sum((2, 3)) + 1) / (p.sum((2, 3)) + target.sum((2, 3)) + 1)
    with torch.no_grad():
        hit, true = logits > 0, target > 0.5
        iou = (hit & true).sum((2, 3)) / (hit | true).sum((2, 3)).clamp(min=1)
    return (20 * focal + dice + (quality - iou) ** 2).mean()


def jitter(boxes: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Move each edge of boxes (n, 4) by a normal error of 5 % of the box's side, at most 15 %."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + sides * (0.05 * torch.randn(boxes.shape, generator=rng)).clamp(-0.15, 0.15)


def training_scene(index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Generate a training scene: pixels uint8 (3, 224, 224), boxes (n, 4) in them, masks uint8 (n, 112, 112)."""
    scene, side = draw_scene("models", index), CONFIG["image_size"]
    big = Image.fromarray(scene.image).resize((side, side), Image.BILINEAR)  # as segment_anything resizes
    boxes = torch.tensor([t.box for t in scene.things]) * (side / SIZE)
    masks = torch.from_numpy(np.stack([t.mask for t in scene.things]).astype(np.uint8))
    return torch.from_numpy(np.array(big)).permute(2, 0, 1), boxes, masks


def loss_of_scenes(sam: torch.nn.Module, scenes: list[tuple[torch.Tensor, ...]], rng: torch.Generator) -> torch.Tensor:
    """Compute the loss of scenes from :func:`training_scene`; every object of a scene is a prompt."""
    embeddings = sam.image_encoder(torch.stack([sam.preprocess(pixels.float()) for pixels, _, _ in scenes]))
    logits, quality = [], []
    for (_, boxes, _), embedding in zip(scenes, embeddings, strict=True):
        sparse, dense = sam.prompt_encoder(points=None, boxes=jitter(boxes, rng), masks=None)
        low, iou = sam.mask_decoder(
            embedding[None], sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output=False
        )  # the weights of the three other mask tokens stay random: they serve ambiguous prompts, and a box is not one
        logits.append(low)
        quality.append(iou)
    return mask_loss(torch.cat(logits), torch.cat([masks.float() for _, _, masks in scenes]), torch.cat(quality))


def train(folder: Path | str, settings: Settings, images: int = 2) -> None:
    """Train a model and write its folder, whole or not at all: ``config.json`` and ``model.safetensors``.

    Args:
        images: scenes a step.
    """
    torch.manual_seed(settings.seed)
    sam = build_sam(CONFIG).train()
    with torch.no_grad():  # the library starts positions at zero, from where learning them takes minutes
        for name, weight in sam.image_encoder.named_parameters():
            if "pos_embed" in name or "rel_pos" in name:
                torch.nn.init.normal_(weight, std=0.2)
    rng = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(sam.parameters(), lr=1e-3, weight_decay=1e-4)

    scene = cache(training_scene)

    def loss_of(step: int) -> torch.Tensor:
        indices = torch.randint(settings.n_scenes, (images,), generator=rng).tolist()
        return loss_of_scenes(sam, [scene(index) for index in indices], rng)

    fit("sam", warm_cosine(optimizer, settings.steps), loss_of, settings)
    with whole_folder(folder) as temporary:
        write_json(CONFIG, temporary / "config.json")
        write_weights(sam.state_dict(), temporary / "model.safetensors")


def quality(
    folder: Path | str, grounding_dino: Path | str, n_scenes: int = 100, split: str = "test"
) -> dict[str, float]:
    """Measure a SAM on the first scenes of a split, prompted with the boxes that a GroundingDINO predicts.

    Returns:
        mean_mask_iou_from_predicted_boxes: over the objects that a box finds (IoU at least 0.5), the mean IoU of the
            box's mask with the object's visible mask.
        mean_keyword_mask_iou: over all pairs of a scene and a noun in it, the mean IoU of the union of all boxes' masks
            with the union of the objects' visible masks. This is what the pipeline uses; objects without a box count.
    """
    predictor, detector = load_sam(folder, "cpu"), load_grounding_dino(grounding_dino, "cpu")
    single, union_of_all = [], []
    for index in range(n_scenes):
        scene = draw_scene(split, index)
        image = Image.fromarray(scene.image)
        found = detect(detector, [image] * len(scene.nouns), scene.nouns, BOX_THRESHOLD)
        masks, _ = segment(predictor, image, np.concatenate([f.boxes for f in found]))
        for noun, one in zip(scene.nouns, found, strict=True):
            mine, masks = masks[: len(one.boxes)], masks[len(one.boxes) :]
            things = scene.find(noun)
            single += [iou(mine[j], things[i].mask) for i, j, box in found_things(one, things) if box >= 0.5]
            union_of_all.append(iou(union(mine, (SIZE, SIZE)), union([t.mask for t in things], (SIZE, SIZE))))
    return {
        "mean_mask_iou_from_predicted_boxes": float(np.mean(single)) if single else 0.0,
        "mean_keyword_mask_iou": float(np.mean(union_of_all)),
    }


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the intersection over union of two boolean masks; 1 if both are empty."""
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0
