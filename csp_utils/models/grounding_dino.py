"""GroundingDINO of groundingdino-py: where in a picture is what a word names (paper, section 3.2)?

One loader serves every size. A checkpoint folder holds

* one configuration: ``config.json``, or the official ``GroundingDINO_*.py`` (``name = literal`` lines, read without
  being executed). Beside the official keys it may hold ``swin`` (``embed_dim``, ``depths``, ``num_heads`` ... of the
  Swin backbone, which groundingdino-py otherwise fixes by name) and ``image_size`` / ``image_max_size`` (pixels of the
  shorter / longer side that the network sees; 800 / 1333 in the official demo);
* one checkpoint: ``*.safetensors``, or the official ``*.pth``;
* if ``text_encoder_type`` names a folder in it, the text encoder's BERT configuration and vocabulary. Its weights
  are in the checkpoint.
"""

import ast
import contextlib
import io
import json
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
from PIL import Image

from csp_utils.base.errors import UserError
from csp_utils.base.files import check_manifest
from csp_utils.models.weights import load_weights, one_file

if TYPE_CHECKING:
    import torch

IMAGE_SIZE, IMAGE_MAX_SIZE = 800, 1333
"""Pixels of the shorter and (at most) of the longer side, as in groundingdino.util.inference.load_image."""

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""ImageNet's mean and standard deviation of each channel, for values in 0..1."""

LEFT_OVER = {"label_enc.weight", "bert.embeddings.position_ids"}
"""Entries of the official checkpoints that the released model no longer has: training only, and an old BERT buffer."""


@dataclass(frozen=True)
class Detector:
    """A GroundingDINO that is ready to be asked."""

    model: "torch.nn.Module"
    image_size: int
    """Pixels of the shorter side of what the network sees."""
    image_max_size: int
    """Most pixels of the longer side."""

    @property
    def device(self) -> "torch.device":
        """Where the weights are."""
        return next(self.model.parameters()).device


@dataclass(frozen=True)
class Detection:
    """The boxes found for one (image, caption), best first."""

    boxes: np.ndarray
    """float32 (n, 4): x0, y0, x1, y1 in pixels of the given image, inside it."""
    scores: np.ndarray
    """float32 (n,), in 0..1: the largest sigmoid over the caption's tokens."""
    phrases: list[str]
    """n phrases: the caption's tokens that score above the text threshold."""


def read_config(folder: Path | str) -> dict[str, Any]:
    """The configuration in a checkpoint folder, as a dictionary; nothing in it is executed."""
    path = one_file(Path(folder), ("config.json", "*.py"), "configuration")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return json.loads(text)
        lines = [node for node in ast.parse(text).body if isinstance(node, ast.Assign)]
        return {node.targets[0].id: ast.literal_eval(node.value) for node in lines}
    except (ValueError, SyntaxError, AttributeError) as error:
        raise UserError(f"{path} is no configuration that can be read ({error}); restore or download it.") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's words to the authors of groundingdino-py, and without the name that it prints."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", message="torch.meshgrid")
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


@contextlib.contextmanager
def _sized_parts(config: dict[str, Any]) -> Iterator[None]:
    """Lets groundingdino-py build a backbone of the configured size, and a text encoder without weights.

    Its ``build_backbone`` knows Swin transformers by name alone, but hands further arguments on; its text encoder
    would fetch BERT's weights, which the checkpoint replaces anyway.
    """
    from groundingdino.models.GroundingDINO.backbone import backbone
    from groundingdino.util import get_tokenlizer
    from transformers import BertConfig, BertModel

    build_swin = backbone.build_swin_transformer

    def sized_swin(name: str, pretrain_img_size: int, **arguments: Any) -> "torch.nn.Module":
        return build_swin(name, pretrain_img_size, **{**arguments, **config.get("swin", {})})

    with (
        mock.patch.object(backbone, "build_swin_transformer", sized_swin),
        mock.patch.object(
            get_tokenlizer, "get_pretrained_language_model", lambda name: BertModel(BertConfig.from_pretrained(name))
        ),
        _quiet(),
    ):
        yield


def build_grounding_dino(config: dict[str, Any], folder: Path | str) -> "torch.nn.Module":
    """A GroundingDINO with random weights, on the CPU, in evaluation mode.

    Args:
        config: what :func:`read_config` gives.
        folder: where ``text_encoder_type`` is looked for first; if it is no folder there, it is a name on the hub.
    """
    from groundingdino.models import build_model
    from groundingdino.util.slconfig import SLConfig

    text_encoder = Path(folder) / config["text_encoder_type"]
    # The official configuration asks for activation checkpointing. Without gradients it changes nothing but makes
    # torch warn in each layer that there are none.
    config = {**config, "use_checkpoint": False, "use_transformer_ckpt": False}
    if text_encoder.is_dir():
        config["text_encoder_type"] = str(text_encoder)
    try:
        with _sized_parts(config):
            return build_model(SLConfig(config)).eval()
    except OSError as error:
        name = config["text_encoder_type"]
        raise UserError(f"The text encoder {name} of {folder} is neither there nor on the hub's disk cache; download "
                        f"its config.json and vocabulary into {text_encoder}.") from error  # fmt: skip


def load_grounding_dino(folder: Path | str, device: str = "cpu") -> Detector:
    """Loads the model in ``folder``, whatever its size.

    Raises UserError if a file is missing, damaged, not the one that MANIFEST.json lists, or does not fit.
    """
    folder = Path(folder)
    config = read_config(folder)
    check_manifest(folder)
    checkpoint = one_file(folder, ("*.safetensors", "*.pth"), "checkpoint")
    model = build_grounding_dino(config, folder)
    load_weights(model, checkpoint, LEFT_OVER)
    return as_detector(model.to(device), config)


def as_detector(model: "torch.nn.Module", config: dict[str, Any]) -> Detector:
    """Pairs a model with the image sizes of its configuration."""
    return Detector(model, config.get("image_size", IMAGE_SIZE), config.get("image_max_size", IMAGE_MAX_SIZE))


def caption_of(keyword: str) -> str:
    """A keyword as GroundingDINO wants it: lower case, with a full stop at the end."""
    caption = keyword.lower().strip()
    return caption if caption.endswith(".") else caption + "."


def preprocess(image: Image.Image, image_size: int, image_max_size: int) -> "torch.Tensor":
    """What the network sees of an RGB image: float32 (3, h, w), resized and normalised as in the official demo."""
    from groundingdino.datasets import transforms
    from torchvision.transforms import functional

    resized, _ = transforms.resize(image, None, image_size, image_max_size)
    return functional.normalize(functional.to_tensor(resized), MEAN, STD)


def detect(
    detector: Detector,
    images: Sequence[Image.Image],
    keywords: Sequence[str],
    box_threshold: float = 0.35,
    text_threshold: float = 0.25,
    batch_size: int = 8,
) -> list[Detection]:
    """Finds each keyword in its image.

    Pairs share a batch if their images have one size after resizing and their captions one pattern of special tokens.
    So nothing is padded, and every pair gets what ``groundingdino.util.inference.predict`` gives it alone:
    groundingdino-py's text layers hand the attention mask of one caption to another if the patterns differ.

    Args:
        images: n RGB images of any size.
        keywords: n keywords, one for each image; the same image may come several times.
        box_threshold: a query is kept if its best token's sigmoid is above this.
        text_threshold: the phrase holds the tokens whose sigmoid is above this.
        batch_size: most pairs in one pass.

    Returns:
        n detections, in the order given.
    """
    import torch

    # The same picture under several keywords is resized once.
    seen = {id(image): preprocess(image, detector.image_size, detector.image_max_size) for image in images}
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    special = set(detector.model.specical_tokens)  # sic
    for i, (image, keyword) in enumerate(zip(images, keywords, strict=True)):
        pattern = tuple(token in special for token in detector.model.tokenizer(caption_of(keyword))["input_ids"])
        groups[tuple(seen[id(image)].shape) + pattern].append(i)
    found: dict[int, Detection] = {}
    for members in groups.values():
        for start in range(0, len(members), batch_size):
            part = members[start : start + batch_size]
            captions = [caption_of(keywords[i]) for i in part]
            pixels = torch.stack([seen[id(images[i])] for i in part]).to(detector.device)
            with torch.no_grad(), _quiet():
                output = detector.model(pixels, captions=captions)
            scores, boxes = output["pred_logits"].sigmoid().float().cpu(), output["pred_boxes"].float().cpu()
            for i, caption, s, b in zip(part, captions, scores, boxes, strict=True):
                found[i] = _keep(detector, caption, s, b, images[i].size, box_threshold, text_threshold)
    return [found[i] for i in range(len(images))]


def _keep(
    detector: Detector,
    caption: str,
    scores: "torch.Tensor",
    boxes: "torch.Tensor",
    size: tuple[int, int],
    box_threshold: float,
    text_threshold: float,
) -> Detection:
    """The queries above the threshold. ``scores`` (queries, 256); ``boxes`` (queries, 4), centre and size in 0..1."""
    import torch
    from groundingdino.util.utils import get_phrases_from_posmap
    from torchvision.ops import box_convert

    best = scores.max(dim=1).values
    order = torch.argsort(best, descending=True, stable=True)
    order = order[best[order] > box_threshold]
    tokenizer = detector.model.tokenizer
    tokens = tokenizer(caption)
    phrases = [
        get_phrases_from_posmap(scores[q] > text_threshold, tokens, tokenizer).replace(".", "").strip() for q in order
    ]
    limits = torch.tensor([*size, *size], dtype=torch.float32)
    pixels = (box_convert(boxes[order], "cxcywh", "xyxy") * limits).clamp(min=0).minimum(limits)
    return Detection(pixels.numpy(), best[order].numpy(), phrases)
