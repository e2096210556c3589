"""SAM of segment-anything: find the mask of the object in a box (paper, section 3.2).

One loader serves every size. A checkpoint folder holds one checkpoint: ``*.safetensors``, or the official
``sam_vit_*.pth``. Unless the checkpoint's name contains an official size, the folder also holds a ``config.json``:
either ``{"model_type": "vit_h"}`` or the keys of :data:`KEYS`.
"""

import json
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from csp_utils.base.errors import UserError
from csp_utils.base.files import check_manifest
from csp_utils.models.weights import load_weights, one_file

if TYPE_CHECKING:
    import torch
    from segment_anything import SamPredictor

KEYS = {
    "image_size": "side of the encoder's square input, pixels",
    "patch_size": "side of a patch, pixels",
    "encoder_embed_dim": "width of the image encoder",
    "encoder_depth": "its layers",
    "encoder_num_heads": "its attention heads",
    "encoder_global_attn_indexes": "its layers with global attention; the others use windows",
    "window_size": "side of a window, patches",
    "prompt_embed_dim": "width of the prompt encoder and of the mask decoder",
    "mask_in_chans": "width of the prompt encoder's mask branch",
    "decoder_depth": "layers of the mask decoder",
    "decoder_mlp_dim": "width of its feed-forward layers",
    "decoder_num_heads": "its attention heads",
    "iou_head_hidden_dim": "width of the head that predicts a mask's IoU",
}
"""The keys of a ``config.json`` for a SAM of another than the official sizes."""


def read_config(folder: Path | str) -> dict[str, Any]:
    """Read the configuration of a checkpoint folder: ``config.json``, or the size in the official checkpoint's name.

    Raises UserError if neither is there, or if a key is missing.
    """
    folder = Path(folder)
    path = folder / "config.json"
    if not path.is_file():
        checkpoint = one_file(folder, ("*.safetensors", "*.pth"), "checkpoint")
        if size := re.search(r"vit_[hlb]", checkpoint.name):
            return {"model_type": size[0]}
        raise UserError(f"{path} is missing and {checkpoint.name} names no size (vit_h, vit_l, vit_b); add one.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        lacking = [] if "model_type" in config else [key for key in KEYS if key not in config]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no configuration that can be read ({error}); restore it.") from error
    if lacking:
        raise UserError(f"{path} lacks {lacking[0]} ({KEYS[lacking[0]]}); restore it.")
    return config


def build_sam(config: dict[str, Any]) -> "torch.nn.Module":
    """Build a SAM with random weights, on the CPU, in evaluation mode.

    Args:
        config: as :func:`read_config` returns it.
    """
    import torch
    from segment_anything import sam_model_registry
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    if "model_type" in config:
        if config["model_type"] not in sam_model_registry:
            raise UserError(f"SAM has no size {config['model_type']!r}; it has {', '.join(sam_model_registry)}.")
        return sam_model_registry[config["model_type"]]()
    side, patch, width = config["image_size"], config["patch_size"], config["prompt_embed_dim"]
    # The fixed arguments are those of segment_anything.build_sam.
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=side,
            patch_size=patch,
            embed_dim=config["encoder_embed_dim"],
            depth=config["encoder_depth"],
            num_heads=config["encoder_num_heads"],
            global_attn_indexes=config["encoder_global_attn_indexes"],
            window_size=config["window_size"],
            out_chans=width,
            mlp_ratio=4,
            qkv_bias=True,
            use_rel_pos=True,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=width,
            image_embedding_size=(side // patch, side // patch),
            input_image_size=(side, side),
            mask_in_chans=config["mask_in_chans"],
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=config["decoder_depth"],
                embedding_dim=width,
                mlp_dim=config["decoder_mlp_dim"],
                num_heads=config["decoder_num_heads"],
            ),
            transformer_dim=width,
            iou_head_depth=3,
            iou_head_hidden_dim=config["iou_head_hidden_dim"],
        ),
    ).eval()


def load_sam(folder: Path | str, device: str = "cpu", torch_dtype: str = "float32") -> "SamPredictor":
    """Load the model of a checkpoint folder.

    Args:
        torch_dtype: precision of the image encoder; see :func:`encode_in`.

    Raises:
        UserError: a file is missing or damaged, differs from MANIFEST.json, or does not fit the configuration.
    """
    from segment_anything import SamPredictor

    folder = Path(folder)
    config = read_config(folder)
    check_manifest(folder)
    checkpoint = one_file(folder, ("*.safetensors", "*.pth"), "checkpoint")
    model = build_sam(config)
    load_weights(model, checkpoint)
    model.to(device)
    if torch_dtype != "float32":
        encode_in(torch_dtype, model)
    return SamPredictor(model)


def encode_in(torch_dtype: str, model: "torch.nn.Module") -> None:
    """Run the image encoder, nearly all of SAM's work, in ``bfloat16`` or ``float16`` by torch.autocast.

    Only the matrix products are in the short format. The weights, the residual stream, the encoder's output and the
    whole decoder stay float32, because an encoder converted to float16 as a whole gives useless masks with the official
    weights (facebookresearch/segment-anything, issue 540; issue 696 blames its LayerNorms). If the encoder still leaves
    the range of the format on an image, ``segment`` raises UserError.
    """
    import torch

    def as_float32(encoder: torch.nn.Module, pixels: tuple[torch.Tensor], features: torch.Tensor) -> torch.Tensor:
        if not features.isfinite().all():
            raise UserError(f"SAM's image encoder left the range of {torch_dtype}; set torch_dtype to bfloat16 or "
                            "float32 in the section that finds the masks.")  # fmt: skip
        return features.float()

    encoder = model.image_encoder
    encoder.forward = torch.autocast(model.device.type, getattr(torch, torch_dtype))(encoder.forward)
    encoder.register_forward_hook(as_float32)


def segment(
    predictor: "SamPredictor", image: Image.Image, boxes: np.ndarray, chunk: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Compute one mask for each box. The image is encoded once.

    Args:
        predictor: as :func:`load_sam` returns it.
        image: RGB, any size.
        boxes: float (n, 4), x0, y0, x1, y1 in pixels of ``image``; n may be 0.
        chunk: most boxes in one forward pass of the decoder; memory grows with it.

    Returns:
        masks, bool (n, height, width), and the predicted IoU of each, float32 (n,).
    """
    predictor.set_image(np.asarray(image))
    try:
        return _decode(predictor, boxes, image.size[::-1], chunk)
    finally:
        predictor.reset_image()  # so that no later call uses this image's features


def _decode(
    predictor: "SamPredictor", boxes: np.ndarray, size: tuple[int, int], chunk: int
) -> tuple[np.ndarray, np.ndarray]:
    """Decode the boxes on the encoded image; ``size`` is its height and width. Returns as :func:`segment`."""
    import torch

    masks, quality = np.zeros((len(boxes), *size), bool), np.zeros(len(boxes), np.float32)
    prompts = torch.as_tensor(np.asarray(boxes, np.float32), device=predictor.device)
    for start in range(0, len(boxes), chunk):
        part = slice(start, start + chunk)
        with torch.no_grad():
            found, iou, _ = predictor.predict_torch(
                point_coords=None,
                point_labels=None,
                boxes=predictor.transform.apply_boxes_torch(prompts[part], size),
                multimask_output=False,  # one mask a box: a box, unlike a point, is not ambiguous
            )
        masks[part], quality[part] = found[:, 0].cpu().numpy(), iou[:, 0].float().cpu().numpy()
    return masks, quality


def union(masks: Iterable[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Unite masks, bool (height, width) each; without masks, no pixel of ``size`` (height, width) is set."""
    out = np.zeros(size, bool)
    for mask in masks:
        out |= mask
    return out
