"""GroundingDINO of groundingdino-py: find the boxes of what a keyword names (paper, section 3.2).

One loader serves every size. A checkpoint folder holds

* one configuration: ``config.json``, or the official ``GroundingDINO_*.py`` (lines ``name = literal``; the file is
  parsed, not executed). Two keys are ours. ``swin`` has ``embed_dim``, ``depths``, ``num_heads`` ... of the Swin
  backbone; without it, groundingdino-py takes them from the backbone's name. ``image_size`` and ``image_max_size`` are
  the pixels of the network input's shorter and longer side (800 and 1333 in the official demo);
* one checkpoint: ``*.safetensors``, or the official ``*.pth``;
* the configuration and the vocabulary of the text encoder (BERT), if ``text_encoder_type`` names a folder in it. The
  text encoder's weights are in the checkpoint.
"""

import ast
import contextlib
import io
import json
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from csp_utils.base.errors import UserError
from csp_utils.base.files import check_manifest
from csp_utils.data.images import too_thin
from csp_utils.models.weights import load_weights, one_file

if TYPE_CHECKING:
    import torch

IMAGE_SIZE, IMAGE_MAX_SIZE = 800, 1333
"""Pixels of the network input's shorter side, and most pixels of its longer side, as in the official demo."""

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""ImageNet's mean and standard deviation of the channels R, G, B, for values in 0..1."""

LEFT_OVER = {"label_enc.weight", "bert.embeddings.position_ids"}
"""Entries of the official checkpoints that the released model has no use for: one for training, one old BERT buffer."""


@dataclass(frozen=True)
class Detector:
    """A loaded GroundingDINO, and the size of its input."""

    model: "torch.nn.Module"
    image_size: int
    """Pixels of the input's shorter side."""
    image_max_size: int
    """Most pixels of the input's longer side."""

    @property
    def device(self) -> "torch.device":
        """The device of the weights."""
        return next(self.model.parameters()).device


@dataclass(frozen=True)
class Detection:
    """The boxes found for one (image, keyword), highest score first."""

    boxes: np.ndarray
    """float32 (n, 4): x0, y0, x1, y1 in pixels of the original image, clipped to it."""
    scores: np.ndarray
    """float32 (n,), in 0..1: the largest sigmoid over the caption's tokens."""
    phrases: list[str]
    """n phrases: the caption's tokens whose score is above the text threshold."""


def read_config(folder: Path | str) -> dict[str, Any]:
    """Read the configuration of a checkpoint folder, without executing it.

    Raises UserError if it is missing or cannot be parsed.
    """
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
    """Suppress torch's warnings about groundingdino-py's code, and the lines that groundingdino-py prints."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", message="torch.meshgrid")
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def build_grounding_dino(config: dict[str, Any], folder: Path | str) -> "torch.nn.Module":
    """Build a GroundingDINO with random weights, on the CPU, in evaluation mode.

    Args:
        config: as :func:`read_config` returns it.
        folder: the checkpoint folder. ``text_encoder_type`` is a folder in it, or else a name on the hub.

    Raises:
        UserError: the text encoder's configuration or vocabulary is missing.
    """
    from groundingdino.models.GroundingDINO.groundingdino import GroundingDINO
    from groundingdino.models.GroundingDINO.transformer import build_transformer
    from groundingdino.util.slconfig import SLConfig

    # The official configuration turns activation checkpointing on. Without gradients it only makes torch warn.
    args = SLConfig({**config, "use_checkpoint": False, "use_transformer_ckpt": False})
    text_encoder = Path(folder) / config["text_encoder_type"]
    name = str(text_encoder) if text_encoder.is_dir() else config["text_encoder_type"]
    same = ("num_queries", "num_feature_levels", "nheads", "dec_pred_bbox_embed_share", "two_stage_type",
            "two_stage_bbox_embed_share", "two_stage_class_embed_share", "num_patterns", "dn_box_noise_scale",
            "dn_label_noise_ratio", "dn_labelbook_size", "sub_sentence_present", "max_text_len")  # fmt: skip
    try:
        with _quiet():
            backbone, transformer = _backbone(args, config.get("swin")), build_transformer(args)
            with _text_encoder(name) as encoder:
                # The fixed arguments are those of groundingdino-py's build_groundingdino.
                return GroundingDINO(backbone, transformer, aux_loss=True, iter_update=True, query_dim=4, dn_number=0,
                                     text_encoder_type=encoder, **{key: config[key] for key in same}).eval()
    except OSError as error:
        raise UserError(f"The text encoder {name} of {folder} is neither there nor on the hub's disk cache; download "
                        f"its config.json and vocabulary into {text_encoder}.") from error  # fmt: skip


def _backbone(args: Any, swin: dict[str, Any] | None) -> "torch.nn.Module":
    """Build the image backbone.

    Args:
        swin: sizes of the Swin transformer; None for those that groundingdino-py knows by the backbone's name.
    """
    from groundingdino.models.GroundingDINO.backbone.backbone import Joiner, build_backbone
    from groundingdino.models.GroundingDINO.backbone.position_encoding import build_position_encoding
    from groundingdino.models.GroundingDINO.backbone.swin_transformer import build_swin_transformer

    if swin is None:
        return build_backbone(args)
    indices = args.return_interm_indices
    body = build_swin_transformer(args.backbone, int(args.backbone.split("_")[-2]), out_indices=tuple(indices),
                                  dilation=False, use_checkpoint=args.use_checkpoint, **swin)  # fmt: skip
    backbone = Joiner(body, build_position_encoding(args))
    backbone.num_channels = body.num_features[4 - len(indices) :]
    return backbone


@contextlib.contextmanager
def _text_encoder(name: str) -> Iterator[str]:
    """Yield a temporary folder with the tokenizer of ``name`` and a BERT of its configuration with random weights.

    groundingdino-py insists on loading weights for its text encoder, but ours come with the checkpoint.
    """
    from transformers import AutoTokenizer, BertConfig, BertModel

    with tempfile.TemporaryDirectory() as folder:
        AutoTokenizer.from_pretrained(name).save_pretrained(folder)
        BertModel(BertConfig.from_pretrained(name)).save_pretrained(folder)
        yield folder


def load_grounding_dino(folder: Path | str, device: str = "cpu") -> Detector:
    """Load the model of a checkpoint folder.

    Raises UserError if a file is missing or damaged, differs from MANIFEST.json, or does not fit the configuration.
    """
    folder = Path(folder)
    config = read_config(folder)
    check_manifest(folder)
    checkpoint = one_file(folder, ("*.safetensors", "*.pth"), "checkpoint")
    model = build_grounding_dino(config, folder)
    load_weights(model, checkpoint, LEFT_OVER)
    sizes = config.get("image_size", IMAGE_SIZE), config.get("image_max_size", IMAGE_MAX_SIZE)
    return Detector(model.to(device), *sizes)


def caption_of(keyword: str) -> str:
    """Turn a keyword into GroundingDINO's caption: lower case, with a full stop at the end."""
    caption = keyword.lower().strip()
    return caption if caption.endswith(".") else caption + "."


def preprocess(image: Image.Image, image_size: int, image_max_size: int) -> "torch.Tensor":
    """Resize and normalise an RGB image as in the official demo: float32 (3, h, w)."""
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
    """Find each keyword in its image.

    A batch holds pairs whose resized images have the same size and whose captions have special tokens at the same
    positions. So nothing is padded, and the boxes of a pair are those that ``groundingdino.util.inference.predict``
    finds for it alone. (In a mixed batch, groundingdino-py's text layers use one caption's attention mask for another.)

    Args:
        images: n RGB images of any size.
        keywords: n keywords, one for each image. An image may occur several times.
        box_threshold: keep the queries whose best token score (sigmoid) is above this.
        text_threshold: a phrase consists of the tokens whose score is above this.
        batch_size: most pairs in one forward pass.

    Returns:
        n detections, in the order of ``images``.

    Raises:
        UserError: an image is too thin (:func:`csp_utils.data.images.too_thin`).
    """
    import torch

    if thin := [image.size for image in images if too_thin(image.size)]:
        raise UserError("An image of {} x {} pixels is too thin for GroundingDINO; crop it.".format(*thin[0]))
    # An image with several keywords is resized once.
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
                found[i] = _detection(detector, caption, (s, b), images[i].size, box_threshold, text_threshold)
    return [found[i] for i in range(len(images))]


def _detection(
    detector: Detector,
    caption: str,
    output: tuple["torch.Tensor", "torch.Tensor"],
    size: tuple[int, int],
    box_threshold: float,
    text_threshold: float,
) -> Detection:
    """Select the queries above ``box_threshold`` and convert their boxes to pixels.

    Args:
        output: token scores (queries, 256), and boxes (queries, 4) as centre and size in 0..1.
        size: width and height of the original image, pixels.
    """
    import torch
    from groundingdino.util.utils import get_phrases_from_posmap
    from torchvision.ops import box_convert

    scores, boxes = output
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
