"""Trains a SAM of about a million parameters on the tiny world, from random weights.

The model class, the preprocessing and the folder are those of the full-size model; only numbers differ. Each prompt is
an object's box, moved about as a detector would move it; the target is the object's visible mask. The loss is SAM's
own: focal and dice on the mask, squared error on the predicted IoU.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torchvision.ops import sigmoid_focal_loss

from csp_utils.base.files import whole_folder, write_json
from csp_utils.models.grounding_dino import detect, load_grounding_dino
from csp_utils.models.sam import build_sam, load_sam, segment, union
from csp_utils.tiny_world.models.grounding_dino import found_things
from csp_utils.tiny_world.world.scenes import SIZE, draw_scene

CONFIG: dict[str, Any] = {
    "image_size": 224, "patch_size": 8, "encoder_embed_dim": 96, "encoder_depth": 3, "encoder_num_heads": 4,
    "encoder_global_attn_indexes": [2], "window_size": 7, "prompt_embed_dim": 96, "mask_in_chans": 8,
    "decoder_depth": 2, "decoder_mlp_dim": 192, "decoder_num_heads": 4, "iou_head_hidden_dim": 64,
}  # fmt: skip
"""28 x 28 image tokens, so that the decoder's masks (four times that) have the 112 x 112 pixels of a scene."""


def mask_loss(logits: torch.Tensor, masks: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """SAM's loss, mean over objects and mask tokens.

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
    """Boxes (n, 4), pixels, with every edge moved by a normal of 5 % of that side, at most 15 %."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + sides * (0.05 * torch.randn(boxes.shape, generator=rng)).clamp(-0.15, 0.15)


def prepare(index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training scene ``index``: pixels uint8 (3, 224, 224), boxes (n, 4) in those pixels, masks uint8 (n, 112, 112)."""
    scene, side = draw_scene("train", index), CONFIG["image_size"]
    big = Image.fromarray(scene.image).resize((side, side), Image.BILINEAR)  # as segment_anything resizes
    boxes = torch.tensor([t.box for t in scene.things]) * (side / SIZE)
    masks = torch.from_numpy(np.stack([t.mask for t in scene.things]).astype(np.uint8))
    return torch.from_numpy(np.array(big)).permute(2, 0, 1), boxes, masks


def train(
    folder: Path | str,
    steps: int,
    seed: int = 0,
    log: Callable[[str], None] = print,
    images: int = 2,
    n_scenes: int = 6000,
    learning_rate: float = 1e-3,
    save_every: int | None = None,
) -> None:
    """Trains a model and writes its folder, whole.

    Args:
        folder: takes ``config.json`` and ``model.safetensors`` (half precision).
        steps: optimiser steps.
        seed: of the weights and of the batches; the same seed gives the same model on the same machine.
        log: called with a line of text now and then.
        images: scenes a step; every object of a scene is a prompt.
        n_scenes: training scenes to draw from.
        learning_rate: peak; 50 steps of warm-up, then a cosine to a hundredth.
        save_every: writes the folder every so many steps as well.
    """
    torch.manual_seed(seed)
    sam = build_sam(CONFIG).train()
    with torch.no_grad():  # the library starts positions at zero; learning them from there costs minutes
        for name, weight in sam.image_encoder.named_parameters():
            if "pos_embed" in name or "rel_pos" in name:
                torch.nn.init.normal_(weight, std=0.2)
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(sam.parameters(), lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / 50, 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, s / max(1, steps))))),
    )
    cache: dict[int, tuple[torch.Tensor, ...]] = {}
    began, recent = time.monotonic(), []
    for step in range(1, steps + 1):
        chosen = torch.randint(n_scenes, (images,), generator=rng).tolist()
        for index in chosen:
            if index not in cache:
                cache[index] = prepare(index)
        pixels = torch.stack([sam.preprocess(cache[index][0].float()) for index in chosen])
        embeddings = sam.image_encoder(pixels)
        logits, quality, masks = [], [], []
        for index, embedding in zip(chosen, embeddings, strict=True):
            sparse, dense = sam.prompt_encoder(points=None, boxes=jitter(cache[index][1], rng), masks=None)
            low, iou = sam.mask_decoder(
                embedding[None], sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output=False
            )  # the three tokens that only multimask_output=True returns stay as they are: a box is not ambiguous
            logits.append(low)
            quality.append(iou)
            masks.append(cache[index][2].float())
        loss = mask_loss(torch.cat(logits), torch.cat(masks), torch.cat(quality))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(sam.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append(loss.item())
        if step % 50 == 0 or step == steps:
            log(f"step {step}/{steps}: loss {np.mean(recent[-50:]):.3f}, {(time.monotonic() - began) / 60:.1f} min")
        if save_every and step % save_every == 0:
            save(sam, folder)
    save(sam, folder)


def save(sam: torch.nn.Module, folder: Path | str) -> None:
    """Writes a checkpoint folder, whole; weights in half precision."""
    with whole_folder(folder) as temporary:
        write_json(CONFIG, temporary / "config.json")
        half = {name: value.half() for name, value in sam.state_dict().items()}
        safetensors.torch.save_file(half, temporary / "model.safetensors")


def quality(
    folder: Path | str,
    grounding_dino: Path | str,
    n_scenes: int = 100,
    split: str = "test",
    box_threshold: float = 0.35,
    device: str = "cpu",
) -> dict[str, float]:
    """What a trained SAM reaches on the first scenes of a split, prompted with the boxes that a GroundingDINO predicts.

    Returns:
        mean_mask_iou_from_predicted_boxes: over the objects that a box finds (IoU at least 0.5), the mean IoU of the
            box's mask with the object's visible mask;
        mean_keyword_mask_iou: over all (scene, noun) with such an object, the mean IoU of the union of all boxes' masks
            with the union of the objects' visible masks: what the pipeline uses, misses included.
    """
    predictor, detector = load_sam(folder, device), load_grounding_dino(grounding_dino, device)
    single, whole = [], []
    for index in range(n_scenes):
        scene = draw_scene(split, index)
        picture = Image.fromarray(scene.image)
        found = detect(detector, [picture] * len(scene.nouns), scene.nouns, box_threshold)
        masks, _ = segment(predictor, picture, np.concatenate([f.boxes for f in found]))
        for noun, one in zip(scene.nouns, found, strict=True):
            mine, masks = masks[: len(one.boxes)], masks[len(one.boxes) :]
            things = scene.find(noun)
            single += [iou(mine[j], things[i].mask) for i, j, box in found_things(one, things) if box >= 0.5]
            whole.append(iou(union(mine, (SIZE, SIZE)), union([t.mask for t in things], (SIZE, SIZE))))
    return {
        "mean_mask_iou_from_predicted_boxes": float(np.mean(single)) if single else 0.0,
        "mean_keyword_mask_iou": float(np.mean(whole)),
    }


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boolean masks; 1 if both are empty."""
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0
