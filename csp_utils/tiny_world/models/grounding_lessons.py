"""Training batches of the tiny GroundingDINO (scenes and captions), and the losses of its layers."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss

from csp_utils.models.grounding_dino import MEAN, STD
from csp_utils.tiny_world.world.scenes import NOUNS, SIZE, draw_scene

UNKNOWN = "zebra"
"""Any word outside the vocabulary: it names nothing."""


@dataclass(frozen=True)
class Targets:
    """The objects that the captions of a batch name, caption after caption."""

    boxes: torch.Tensor
    """float (n, 4): centre and size, 0 to 1."""
    caption: torch.Tensor
    """int (n,): index of the caption that names the object."""
    token: torch.Tensor
    """int (n,): position of its noun among the caption's tokens, [CLS] noun . noun . ... [SEP]."""
    n_tokens: int
    """Number of tokens of every caption."""


def training_scene(index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Generate a training scene: image, uint8 (3, 112, 112), and each noun's boxes (n, 4), centre and size, 0 to 1."""
    scene = draw_scene("models", index)
    boxes = {
        noun: box_convert(torch.tensor([t.box for t in scene.find(noun)]) / SIZE, "xyxy", "cxcywh")
        for noun in scene.nouns
    }
    return torch.from_numpy(scene.image).permute(2, 0, 1).contiguous(), boxes


class Lessons:
    """Sample training batches: scenes with captions that name present and absent objects.

    A caption lists several nouns ("moon. gear. ..."), as in GroundingDINO's own training on detection data, or one, as
    in the pipeline. Lists teach the nouns quickly. With one noun a caption, the model learns boxes first and nouns much
    later.
    """

    def __init__(self, n_scenes: int, captions: int, seed: int) -> None:
        self.n_scenes, self.captions = n_scenes, captions
        self.rng = np.random.default_rng([seed, 7])
        self.scene = cache(training_scene)

    def nouns(self, present: list[str], n: int) -> list[str]:
        """Sample ``n`` nouns in random order, about half of them present."""
        absent = [noun for noun in (*NOUNS, UNKNOWN) if noun not in present]
        n_present = min(len(present), max(math.ceil(n / 2), n - len(absent)))
        chosen = [*self.rng.permutation(present)[:n_present], *self.rng.permutation(absent)[: n - n_present]]
        return [str(noun) for noun in self.rng.permutation(chosen)]

    def batch(self, listed: int, images: int | None = None) -> tuple[torch.Tensor, list[str], Targets, int]:
        """Sample a batch of ``images`` scenes (None: as many as give ``captions`` captions).

        Args:
            listed: nouns a caption. With one, an image has four captions, otherwise one.

        Returns:
            pixels, float (images, 3, 112, 112), normalized; the captions, image after image; the objects that they
            name; captions per image.
        """
        each = min(4, self.captions) if listed == 1 else 1
        pixels, captions, boxes, caption, token = [], [], [], [], []
        for index in self.rng.integers(self.n_scenes, size=images or self.captions // each):
            image, things = self.scene(int(index))
            pixels.append(image)
            nouns = self.nouns(list(things), listed * each)
            for start in range(0, len(nouns), listed):
                for i, noun in enumerate(nouns[start : start + listed]):
                    n = len(things.get(noun, ()))
                    boxes += [things[noun]] if n else []
                    caption += [len(captions)] * n
                    token += [1 + 2 * i] * n
                captions.append(" ".join(noun + "." for noun in nouns[start : start + listed]))
        x = torch.stack(pixels).float() / 255
        x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        boxes = torch.cat([torch.zeros(0, 4), *boxes])
        targets = Targets(boxes, torch.tensor(caption).long(), torch.tensor(token).long(), 2 + 2 * listed)
        return x, captions, targets, each


def set_loss(logits: torch.Tensor, boxes: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Compute DETR's set loss of one layer, per object.

    Args:
        logits: float (captions, queries, 256). The score of a noun's token shall be high for the matched query and low
            for all others.
        boxes: float (captions, queries, 4), centre and size, 0 to 1.
    """
    scores = logits[..., : targets.n_tokens]
    query = match(scores.detach(), boxes.detach(), targets)
    target = torch.zeros_like(scores)
    target[targets.caption, query, targets.token] = 1
    loss = 2 * sigmoid_focal_loss(scores, target, reduction="sum")
    predicted = boxes[targets.caption, query]
    loss = loss + 5 * F.l1_loss(predicted, targets.boxes, reduction="sum")
    corners = (box_convert(x, "cxcywh", "xyxy") for x in (predicted, targets.boxes))
    loss = loss + 2 * generalized_box_iou_loss(*corners, reduction="sum")
    return loss / max(1, len(targets.boxes))


def match(scores: torch.Tensor, boxes: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Assign a query to each object, int (n,), by the Hungarian algorithm with DETR's costs."""
    p = scores[targets.caption, :, targets.token].sigmoid().clamp(1e-6, 1 - 1e-6)
    focal = 0.25 * (1 - p) ** 2 * -p.log() - 0.75 * p**2 * -(1 - p).log()
    predicted, true = boxes[targets.caption], targets.boxes[:, None].expand(-1, boxes.shape[1], -1)
    giou_loss = generalized_box_iou_loss(*(box_convert(x, "cxcywh", "xyxy") for x in (predicted, true)))
    cost = (2 * focal + 5 * (predicted - true).abs().sum(-1) + 2 * giou_loss).numpy()
    owner, query = targets.caption.numpy(), np.zeros(len(cost), np.int64)
    for caption in np.unique(owner):
        rows = np.flatnonzero(owner == caption)
        things, queries = linear_sum_assignment(cost[rows])
        query[rows[things]] = queries
    return torch.from_numpy(query)


def token_loss(logits: torch.Tensor, shapes: list[tuple[int, int]], targets: Targets) -> torch.Tensor:
    """Compute the loss of all image tokens' scores, per object.

    An image token in the middle half of an object's box shall have a high score for the object's noun. The loss is
    focal loss over all tokens, plus cross-entropy between the listed nouns for the token nearest to an object's centre.
    The first teaches where something is; the second teaches, and sooner, what it is.

    Args:
        logits: float (captions, image tokens, 256), level after level.
        shapes: (height, width) of each level.
    """
    grids = [
        torch.stack(torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij"), -1)
        for h, w in shapes
    ]
    points = torch.cat([grid.reshape(-1, 2) for grid in grids]).flip(-1)  # x, y in 0..1
    distance = ((points - targets.boxes[:, None, :2]).abs() / targets.boxes[:, None, 2:]).amax(-1)
    thing, point = torch.nonzero(distance <= 0.25, as_tuple=True)
    scores = logits[..., : targets.n_tokens]
    target = torch.zeros_like(scores)
    target[targets.caption[thing], point, targets.token[thing]] = 1
    nearest = distance[:, : shapes[0][0] * shapes[0][1]].argmin(1)  # of the finest level
    target[targets.caption, nearest, targets.token] = 1
    loss = sigmoid_focal_loss(scores, target, reduction="sum")
    nouns = scores[targets.caption, nearest][:, 1:-1:2]  # [CLS] noun . noun . ... [SEP]
    return (loss + F.cross_entropy(nouns, targets.token // 2, reduction="sum")) / max(1, len(targets.boxes))


class Taps:
    """Read intermediate results of a GroundingDINO's forward pass, by hooks, and share the backbone between captions.

    After each call of the model, ``token_logits`` holds the encoder's score of every image token, ``spatial_shapes``
    the (height, width) of its levels, and :meth:`layers` returns scores and boxes of the encoder and of each decoder
    layer. The backbone sees each image once; its features are repeated for the image's ``repeat`` captions.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.repeat = model, 1
        transformer = model.transformer
        model.backbone.register_forward_hook(self._repeat)
        transformer.register_forward_hook(self._read)
        transformer.enc_out_class_embed.register_forward_hook(self._tokens)

    def _repeat(self, _module: Any, _inputs: Any, output: Any) -> Any:
        from groundingdino.util.misc import NestedTensor

        def each(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.repeat_interleave(self.repeat, 0)

        features, positions = output
        return [NestedTensor(each(f.tensors), each(f.mask)) for f in features], [each(p) for p in positions]

    def _tokens(self, _module: Any, _inputs: Any, output: torch.Tensor) -> None:
        self.token_logits = output

    def _read(self, _module: Any, inputs: tuple, output: tuple) -> None:
        self.hidden, self.references, self.encoder_hidden, self.encoder_boxes, _ = output
        self.text = inputs[6]
        self.spatial_shapes = [tuple(source.shape[-2:]) for source in inputs[0]]

    def layers(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return logits (captions, queries, 256) and boxes (captions, queries, 4) of encoder and decoder layers."""
        from groundingdino.util.misc import inverse_sigmoid

        score = self.model.class_embed[0]  # a product with the text, without weights, so it serves all layers
        out = [(score(self.encoder_hidden[-1], self.text), self.encoder_boxes[-1])]
        for hidden, reference, shift in zip(self.hidden, self.references[:-1], self.model.bbox_embed, strict=True):
            out.append((score(hidden, self.text), (shift(hidden) + inverse_sigmoid(reference)).sigmoid()))
        return out
