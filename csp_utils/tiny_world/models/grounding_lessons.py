"""What a GroundingDINO is taught on the tiny world: scenes, captions, and the loss of its answers at every layer."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss

from csp_utils.models.grounding_dino import MEAN, STD
from csp_utils.tiny_world.world.scenes import NOUNS, SIZE, draw_scene

UNKNOWN = "zebra"
"""Stands for every word outside the vocabulary: it names nothing."""


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

    def batch(self, listed: int, images: int | None = None) -> tuple[torch.Tensor, list[str], Named, int]:
        """A batch of ``images`` scenes (None: as many as it takes) whose captions list ``listed`` nouns each.

        Returns pixels (images, 3, 112, 112), normalised; the captions, image after image; what they name; captions
        per image: one list of nouns, or four single nouns.
        """
        each = min(4, self.captions) if listed == 1 else 1
        pixels, lists, boxes, owner, token = [], [], [], [], []
        for index in self.rng.integers(self.n_scenes, size=images or self.captions // each):
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
    """Loss of every image token's scores, per object: high for the noun in the middle half of an object's box.

    Focal loss over all tokens, and cross-entropy between the listed nouns for the token nearest to an object's centre:
    the first tells where something is, the second, sooner, what it is.

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
    nearest = distance[:, : shapes[0][0] * shapes[0][1]].argmin(1)  # of the finest level
    wanted[named.owner, nearest, named.token] = 1
    loss = sigmoid_focal_loss(scores, wanted, reduction="sum")
    nouns = scores[named.owner, nearest][:, 1:-1:2]  # [CLS] noun . noun . ... [SEP]
    return (loss + F.cross_entropy(nouns, named.token // 2, reduction="sum")) / max(1, len(named.boxes))


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

        score = self.model.class_embed[0]  # a product with the text: without weights, and so the same in all layers
        out = [(score(self.encoder_hidden[-1], self.text), self.encoder_boxes[-1])]
        for hidden, reference, shift in zip(self.hidden, self.references[:-1], self.model.bbox_embed, strict=True):
            out.append((score(hidden, self.text), (shift(hidden) + inverse_sigmoid(reference)).sigmoid()))
        return out
