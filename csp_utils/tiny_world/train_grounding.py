"""Trains a GroundingDINO of a few million parameters on the tiny world, from random weights.

The model class, the preprocessing and the folder are those of the full-size model; only numbers differ. The loss is
DETR's set loss in GroundingDINO's form (sigmoid focal loss on the token scores, L1 and GIoU on the boxes, the queries
matched to the objects by the Hungarian algorithm), on every decoder layer and on the encoder's proposals. One thing is
added, because it cuts the training from hours to minutes: *all* image tokens at the encoder's output are told whether
they lie on the named object, not only the proposals.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert, box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from csp_utils.artifacts import whole_folder, write_json
from csp_utils.grounding import MEAN, STD, Detection, build_grounding_dino, detect, load_grounding_dino
from csp_utils.tiny_world.scenes import COLORS, NOUNS, SIZE, Thing, draw_scene

CONFIG: dict[str, Any] = {
    "modelname": "groundingdino", "backbone": "swin_T_224_1k", "position_embedding": "sine",
    "pe_temperatureH": 20, "pe_temperatureW": 20, "return_interm_indices": [1, 2, 3], "backbone_freeze_keywords": None,
    "enc_layers": 1, "dec_layers": 2, "pre_norm": False, "dim_feedforward": 128, "hidden_dim": 256, "dropout": 0.0,
    "nheads": 8, "num_queries": 12, "query_dim": 4, "num_patterns": 0, "num_feature_levels": 3, "enc_n_points": 2,
    "dec_n_points": 2, "two_stage_type": "standard", "two_stage_bbox_embed_share": False,
    "two_stage_class_embed_share": False, "transformer_activation": "relu", "dec_pred_bbox_embed_share": True,
    "dn_box_noise_scale": 1.0, "dn_label_noise_ratio": 0.5, "dn_label_coef": 1.0, "dn_bbox_coef": 1.0,
    "embed_init_tgt": True, "dn_labelbook_size": 2000, "max_text_len": 256, "text_encoder_type": "text_encoder",
    "use_text_enhancer": True, "use_fusion_layer": True, "use_checkpoint": False, "use_transformer_ckpt": False,
    "use_text_cross_attention": True, "text_dropout": 0.0, "fusion_dropout": 0.0, "fusion_droppath": 0.0,
    "sub_sentence_present": True,
    "swin": {"patch_size": 8, "embed_dim": 32, "depths": [2, 4, 1, 1], "num_heads": [2, 4, 8, 8],
             "window_size": 7, "drop_path_rate": 0.0},
    "image_size": 112, "image_max_size": 187,
}  # fmt: skip
"""The official Swin-T configuration with smaller numbers. The long side may be 1.67 times the short one, as there."""

TEXT_ENCODER = {
    "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128,
    "max_position_embeddings": 256, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
"""Sizes of the BERT that reads the keyword."""


UNKNOWN = "zebra"
"""Stands for every word outside the vocabulary: it names nothing."""

LISTED = (16, 4, 1)
SHARES = ((0.8, 0.1, 0.1), (0.4, 0.2, 0.4), (0.1, 0.1, 0.8))
"""Nouns a caption lists, and the share of the batches of each kind in each third of the training."""


def write_skeleton(folder: Path) -> None:
    """Writes what a checkpoint folder holds besides the weights: configuration, BERT configuration, vocabulary."""
    from transformers import BertConfig, BertTokenizerFast

    write_json(CONFIG, folder / "config.json")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *NOUNS, *COLORS]
    text_encoder = folder / "text_encoder"
    text_encoder.mkdir(parents=True, exist_ok=True)
    vocabulary = text_encoder / "vocab.txt"
    vocabulary.write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab_file=str(vocabulary), do_lower_case=True).save_pretrained(text_encoder)
    BertConfig(vocab_size=len(words), **TEXT_ENCODER).save_pretrained(text_encoder)


class Taps:
    """Reads from a GroundingDINO's forward pass what training needs and its output leaves out.

    Hooks keep the last call's results: the decoder's layers, the encoder's proposals and its score of every token.
    ``repeat`` captions per image share one pass of the backbone.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.repeat = model, 1
        transformer = model.transformer
        self.hooks = [
            model.backbone.register_forward_hook(self._repeat),
            transformer.register_forward_hook(self._keep),
            transformer.enc_out_class_embed.register_forward_hook(self._tokens),
        ]

    def close(self) -> None:
        """Takes the hooks out."""
        for hook in self.hooks:
            hook.remove()

    def _repeat(self, _module: Any, _inputs: Any, output: Any) -> Any:
        from groundingdino.util.misc import NestedTensor

        def each(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.repeat_interleave(self.repeat, 0)

        features, positions = output
        return [NestedTensor(each(f.tensors), each(f.mask)) for f in features], [each(p) for p in positions]

    def _tokens(self, _module: Any, _inputs: Any, output: torch.Tensor) -> None:
        self.token_logits = output

    def _keep(self, _module: Any, inputs: tuple, output: tuple) -> None:
        self.hidden, self.references, self.encoder_hidden, self.encoder_boxes, _ = output
        self.text = inputs[6]
        self.spatial_shapes = [tuple(source.shape[-2:]) for source in inputs[0]]

    def layers(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(logits (b, queries, 256), boxes (b, queries, 4)) of the encoder's proposals and of each decoder layer."""
        from groundingdino.util.misc import inverse_sigmoid

        model = self.model
        out = [(model.transformer.enc_out_class_embed(self.encoder_hidden[-1], self.text), self.encoder_boxes[-1])]
        for hidden, reference, score, shift in zip(
            self.hidden, self.references[:-1], model.class_embed, model.bbox_embed, strict=True
        ):
            out.append((score(hidden, self.text), (shift(hidden) + inverse_sigmoid(reference)).sigmoid()))
        return out


@dataclass(frozen=True)
class Named:
    """What the captions of a batch name."""

    boxes: torch.Tensor
    """float (n, 4): centre and size in 0..1, of all captions' objects, caption after caption."""
    owner: torch.Tensor
    """int (n,): the caption that names the object."""
    token: torch.Tensor
    """int (n,): the position of its noun among the caption's tokens, [CLS] noun . noun . ... [SEP]."""
    n_tokens: int
    """Tokens of every caption."""


def set_loss(logits: torch.Tensor, boxes: torch.Tensor, named: Named) -> torch.Tensor:
    """DETR's set loss of one layer, per object.

    Args:
        logits: float (b, queries, 256); a matched query's score of the noun is to be high, all others low.
        boxes: float (b, queries, 4), centre and size in 0..1.
        named: the objects.
    """
    scores = logits[..., : named.n_tokens]
    query = match(scores.detach(), boxes.detach(), named)
    wanted = torch.zeros_like(scores)
    wanted[named.owner, query, named.token] = 1
    loss = 2 * sigmoid_focal_loss(scores, wanted, reduction="sum")
    mine = boxes[named.owner, query]
    loss = loss + 5 * F.l1_loss(mine, named.boxes, reduction="sum")
    corners = (box_convert(x, "cxcywh", "xyxy") for x in (mine, named.boxes))
    loss = loss + 2 * generalized_box_iou_loss(*corners, reduction="sum")
    return loss / max(1, len(named.boxes))


def match(scores: torch.Tensor, boxes: torch.Tensor, named: Named) -> torch.Tensor:
    """The query of each object, int (n,), by the Hungarian algorithm with DETR's costs."""
    p = scores[named.owner, :, named.token].sigmoid().clamp(1e-6, 1 - 1e-6)
    focal = 0.25 * (1 - p) ** 2 * -p.log() - 0.75 * p**2 * -(1 - p).log()
    mine, true = boxes[named.owner], named.boxes[:, None].expand(-1, boxes.shape[1], -1)
    giou_loss = generalized_box_iou_loss(*(box_convert(x, "cxcywh", "xyxy") for x in (mine, true)))
    cost = (2 * focal + 5 * (mine - true).abs().sum(-1) + 2 * giou_loss).numpy()
    owner, query = named.owner.numpy(), np.zeros(len(cost), np.int64)
    for caption in np.unique(owner):
        rows = np.flatnonzero(owner == caption)
        things, queries = linear_sum_assignment(cost[rows])
        query[rows[things]] = queries
    return torch.from_numpy(query)


def token_loss(logits: torch.Tensor, shapes: list[tuple[int, int]], named: Named) -> torch.Tensor:
    """Focal loss of every image token's score, per object: high for the noun in the middle half of an object's box.

    Args:
        logits: float (b, image tokens, 256), level after level.
        shapes: (height, width) of each level.
        named: the objects.
    """
    grids = [
        torch.stack(torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij"), -1)
        for h, w in shapes
    ]
    points = torch.cat([grid.reshape(-1, 2) for grid in grids]).flip(-1)  # x, y in 0..1
    distance = ((points - named.boxes[:, None, :2]).abs() / named.boxes[:, None, 2:]).amax(-1)
    thing, point = torch.nonzero(distance <= 0.25, as_tuple=True)
    scores = logits[..., : named.n_tokens]
    wanted = torch.zeros_like(scores)
    wanted[named.owner[thing], point, named.token[thing]] = 1
    wanted[named.owner, distance.argmin(1), named.token] = 1  # a token at least, however small the object
    return sigmoid_focal_loss(scores, wanted, reduction="sum") / max(1, len(named.boxes))


class Lessons:
    """Draws training batches: scenes with captions of things that are there and of things that are not.

    A caption lists several nouns ("moon. gear. ..."), as in GroundingDINO's own training on detection data, or one, as
    in the pipeline. Lists teach the nouns fast: with one noun a caption, boxes come first, nouns much later.
    Scene ``i`` is drawn when it is first used; ``n_scenes`` of them are kept.
    """

    def __init__(self, n_scenes: int, captions: int, seed: int) -> None:
        self.n_scenes, self.captions = n_scenes, captions
        self.rng = np.random.default_rng([seed, 7])
        self.cache: dict[int, tuple[torch.Tensor, dict[str, torch.Tensor]]] = {}

    def scene(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Image, uint8 (3, 112, 112), and the boxes (n, 4) of each noun in it, centre and size in 0..1."""
        if index not in self.cache:
            scene = draw_scene("train", index)
            boxes = {
                noun: box_convert(torch.tensor([t.box for t in scene.find(noun)]) / SIZE, "xyxy", "cxcywh")
                for noun in scene.nouns
            }
            self.cache[index] = torch.from_numpy(scene.image).permute(2, 0, 1).contiguous(), boxes
        return self.cache[index]

    def nouns(self, present: list[str], n: int) -> list[str]:
        """``n`` nouns in random order, about half of them present."""
        absent = [noun for noun in (*NOUNS, UNKNOWN) if noun not in present]
        n_present = min(len(present), max(math.ceil(n / 2), n - len(absent)))
        chosen = [*self.rng.permutation(present)[:n_present], *self.rng.permutation(absent)[: n - n_present]]
        return [str(noun) for noun in self.rng.permutation(chosen)]

    def batch(self, listed: int) -> tuple[torch.Tensor, list[str], Named, int]:
        """A batch whose captions list ``listed`` nouns each.

        Returns pixels (images, 3, 112, 112), normalised; the captions, image after image; what they name; captions
        per image: one list of nouns, or four single nouns.
        """
        each = min(4, self.captions) if listed == 1 else 1
        pixels, lists, boxes, owner, token = [], [], [], [], []
        for index in self.rng.integers(self.n_scenes, size=self.captions // each):
            image, things = self.scene(int(index))
            pixels.append(image)
            nouns = self.nouns(list(things), listed * each)
            for start in range(0, len(nouns), listed):
                for i, noun in enumerate(nouns[start : start + listed]):
                    n = len(things.get(noun, ()))
                    boxes += [things[noun]] if n else []
                    owner += [len(lists)] * n
                    token += [1 + 2 * i] * n
                lists.append(" ".join(noun + "." for noun in nouns[start : start + listed]))
        x = torch.stack(pixels).float() / 255
        x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        boxes = torch.cat([torch.zeros(0, 4), *boxes])
        return x, lists, Named(boxes, torch.tensor(owner).long(), torch.tensor(token).long(), 2 + 2 * listed), each


def train(
    folder: Path | str,
    steps: int,
    seed: int = 0,
    log: Callable[[str], None] = print,
    captions: int = 16,
    n_scenes: int = 6000,
    learning_rate: float = 4e-4,
    save_every: int | None = None,
) -> None:
    """Trains a model and writes its folder, whole.

    Args:
        folder: takes ``config.json``, ``text_encoder/`` and ``model.safetensors`` (half precision).
        steps: optimiser steps.
        seed: of the weights and of the batches; the same seed gives the same model on the same machine.
        log: called with a line of text now and then.
        captions: captions a batch.
        n_scenes: training scenes to draw from.
        learning_rate: peak; 100 steps of warm-up, then a cosine to a hundredth.
        save_every: writes the folder every so many steps as well.
    """
    import tempfile

    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as skeleton:
        write_skeleton(Path(skeleton))
        model = build_grounding_dino(json.loads((Path(skeleton) / "config.json").read_text()), skeleton)
    with torch.no_grad():  # scores start small: they have no bias that could start them low
        model.transformer.decoder.norm.weight.mul_(0.2)
        model.transformer.enc_output_norm.weight.mul_(0.2)
    model.train()
    lessons = Lessons(n_scenes, captions, seed)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / 100, 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, s / max(1, steps))))),
    )
    taps, began, recent = Taps(model), time.monotonic(), []
    try:
        for step in range(1, steps + 1):
            part = min(2, 3 * step // (steps + 1))  # which third of the training
            listed = LISTED[int(lessons.rng.choice(len(LISTED), p=SHARES[part]))]
            pixels, text, named, taps.repeat = lessons.batch(listed)
            model(pixels, captions=text)
            loss = token_loss(taps.token_logits, taps.spatial_shapes, named)
            loss = loss + sum(set_loss(*layer, named) for layer in taps.layers())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            recent.append(loss.item())
            if step % 50 == 0 or step == steps:
                minutes = (time.monotonic() - began) / 60
                log(f"step {step}/{steps}: loss {np.mean(recent[-50:]):.3f}, {minutes:.1f} min")
            if save_every and step % save_every == 0:
                save(model, folder)
    finally:
        taps.close()
    save(model, folder)


def save(model: torch.nn.Module, folder: Path | str) -> None:
    """Writes a checkpoint folder, whole; weights in half precision, those that go by several names once."""
    state = {value.data_ptr(): (name, value) for name, value in reversed(model.state_dict().items())}
    with whole_folder(folder) as temporary:
        write_skeleton(temporary)
        half = {n: v.half() if v.is_floating_point() else v for n, v in state.values()}
        safetensors.torch.save_file(half, temporary / "model.safetensors")


def found_things(detection: Detection, things: list[Thing]) -> list[tuple[int, int, float]]:
    """(thing, box, IoU) of the one-to-one assignment of boxes to things with the largest sum of IoU."""
    if not things or not len(detection.boxes):
        return []
    overlap = box_iou(torch.tensor([t.box for t in things]), torch.from_numpy(detection.boxes)).numpy()
    return [(i, j, float(overlap[i, j])) for i, j in zip(*linear_sum_assignment(-overlap), strict=True)]


def quality(
    folder: Path | str, n_scenes: int = 100, split: str = "test", box_threshold: float = 0.35, device: str = "cpu"
) -> dict[str, float]:
    """What a trained model reaches on the first scenes of a split, every noun of the world asked of each.

    Returns:
        recall_at_0.5: part of the objects that a box of their own finds (IoU at least 0.5);
        absent_no_box: part of the (scene, noun) without such an object that get no box;
        mean_box_iou: mean IoU of the boxes that find an object;
        precision_at_0.5: part of all boxes that find an object.
    """
    detector = load_grounding_dino(folder, device)
    overlaps, n_things, n_boxes, absent = [], 0, 0, []
    for index in range(n_scenes):
        scene = draw_scene(split, index)
        picture = Image.fromarray(scene.image)
        for noun, found in zip(NOUNS, detect(detector, [picture] * len(NOUNS), NOUNS, box_threshold), strict=True):
            things = scene.find(noun)
            n_things, n_boxes = n_things + len(things), n_boxes + len(found.boxes)
            overlaps += [iou for _, _, iou in found_things(found, things) if iou >= 0.5]
            absent += [] if things else [len(found.boxes) == 0]
    return {
        "recall_at_0.5": len(overlaps) / n_things,
        "absent_no_box": float(np.mean(absent)),
        "mean_box_iou": float(np.mean(overlaps)) if overlaps else 0.0,
        "precision_at_0.5": len(overlaps) / max(1, n_boxes),
    }
