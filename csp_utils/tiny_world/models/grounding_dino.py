"""Train and score a GroundingDINO of a few million parameters on the tiny world, from random weights.

Model class, preprocessing and files are those of the full-size model; only the sizes differ. The loss is DETR's set
loss in GroundingDINO's form (sigmoid focal loss of the token scores, L1 and GIoU loss of the boxes, queries matched to
objects by the Hungarian algorithm), on every decoder layer and on the encoder's proposals. We add a loss on *all* image
tokens, not only on the proposals: does this token lie on the named object? It is first applied right after the
backbone, then at the encoder's output, and cuts the training from hours to minutes.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

from csp_utils.base.files import whole_folder, write_json
from csp_utils.models.grounding_dino import Detection, build_grounding_dino, detect, load_grounding_dino
from csp_utils.tiny_world.models.fit import Settings, fit, warm_cosine, write_weights
from csp_utils.tiny_world.models.grounding_lessons import Lessons, Taps, set_loss, token_loss
from csp_utils.tiny_world.world.scenes import COLORS, NOUNS, Thing, draw_scene

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
    "swin": {"patch_size": 7, "embed_dim": 32, "depths": [2, 4, 1, 1], "num_heads": [4, 8, 8, 8],
             "window_size": 4, "drop_path_rate": 0.0},
    "image_size": 112, "image_max_size": 187,
}  # fmt: skip
"""The official Swin-T configuration with smaller sizes. The longer side may be 1.67 times the shorter, as there. With
patches of 7 pixels, a window of four patches is a cell of the scenes' grid; with patches of 4 or 8 pixels, learning the
nouns took twice as long."""

TEXT_ENCODER = {
    "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128,
    "max_position_embeddings": 256, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
"""Sizes of the BERT that reads the caption."""

LISTED = (16, 4, 1)
"""How many nouns the captions of a batch list."""

SHARES = ((0.8, 0.1, 0.1), (0.4, 0.2, 0.4), (0.1, 0.1, 0.8))
"""Share of the batches of each of :data:`LISTED`, in each third of the training. Lists come first, because they teach
the nouns; single nouns, the pipeline's way of asking, come last."""

PEAK_RATE = 5e-4
"""Highest learning rate of the whole model. Before, backbone and text encoder alone learn twice as fast."""

BOX_THRESHOLD = 0.35
"""Score from which a box counts in the quality measures: the pipeline's default, and that of GroundingDINO's demo."""


def write_skeleton(folder: Path) -> None:
    """Write a checkpoint folder without weights: configuration, BERT configuration, vocabulary."""
    from transformers import BertConfig, BertTokenizerFast

    write_json(CONFIG, folder / "config.json")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *NOUNS, *COLORS]
    text_encoder = folder / "text_encoder"
    text_encoder.mkdir(parents=True, exist_ok=True)
    vocabulary = text_encoder / "vocab.txt"
    vocabulary.write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab_file=str(vocabulary), do_lower_case=True).save_pretrained(text_encoder)
    BertConfig(vocab_size=len(words), **TEXT_ENCODER).save_pretrained(text_encoder)


def initialize(model: torch.nn.Module) -> None:
    """Change the random first weights so that a small model learns in minutes.

    The library's first weights suit wide, pretrained models. In narrow layers, weights of size 0.02 would let almost no
    signal through, and all positions within a window would look alike for a thousand steps. Identity matrices let the
    transformer pass on what :func:`align` has taught the backbone.
    """
    with torch.no_grad():
        for module in [*model.backbone.modules(), *model.bert.modules()]:
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, torch.nn.Embedding):
                torch.nn.init.normal_(module.weight, std=0.2)
            if hasattr(module, "relative_position_bias_table"):
                torch.nn.init.normal_(module.relative_position_bias_table)
        for name, module in model.transformer.named_modules():
            if name.endswith(("value_proj", "output_proj", "enc_output")):
                torch.nn.init.eye_(module.weight)
        # Scores have no bias that could start them low, so they start small.
        model.transformer.decoder.norm.weight.mul_(0.2)
        model.transformer.enc_output_norm.weight.mul_(0.2)


def make_schedule(model: torch.nn.Module, peak_rate: float, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Make AdamW and its schedule. Biases of relative positions learn ten times as fast as other weights."""
    fast, slow = [], []
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            (fast if "relative_position_bias_table" in name else slow).append(weight)
    groups = [{"params": slow, "weight_decay": 1e-4}, {"params": fast, "lr": 10 * peak_rate, "weight_decay": 0.0}]
    return warm_cosine(torch.optim.AdamW(groups, lr=peak_rate), steps)


def early_scores(
    model: torch.nn.Module, pixels: torch.Tensor, captions: list[str]
) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Score the image tokens before the transformer: the product of the backbone's features with the captions' tokens.

    Returns:
        scores, float (b, image tokens, tokens of the captions), and (height, width) of each level.
    """
    from groundingdino.models.GroundingDINO import bertwarper
    from groundingdino.util.misc import nested_tensor_from_tensor_list

    features, _ = model.backbone(nested_tensor_from_tensor_list(list(pixels)))
    levels = [project(f.tensors) for project, f in zip(model.input_proj, features, strict=True)]
    image = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)
    words = model.tokenizer(captions, return_tensors="pt")
    mask, positions, _ = bertwarper.generate_masks_with_special_tokens_and_transfer_map(
        words, model.specical_tokens, model.tokenizer
    )
    text = model.bert(words["input_ids"], mask, words["token_type_ids"], positions)["last_hidden_state"]
    return image @ model.feat_map(text).transpose(1, 2) / 16, [tuple(level.shape[-2:]) for level in levels]


def align(model: torch.nn.Module, lessons: Lessons, settings: Settings) -> None:
    """Train backbone and text encoder alone: which image token shows which noun?"""

    def loss_of(step: int) -> torch.Tensor:
        pixels, captions, targets, _ = lessons.batch(len(NOUNS), images=4)
        return token_loss(*early_scores(model, pixels, captions), targets)

    fit("grounding_dino backbone", make_schedule(model, 2 * PEAK_RATE, settings.steps), loss_of, settings)


def train(folder: Path | str, settings: Settings, captions: int = 12) -> None:
    """Train a model and write its folder: ``config.json``, ``text_encoder/`` and ``model.safetensors``.

    Args:
        settings: ``steps`` are those of the whole model. Before them, backbone and text encoder alone take twice as
            many, each a quarter of the work.
        captions: captions a batch.
    """
    torch.manual_seed(settings.seed)
    lessons, steps = Lessons(settings.n_scenes, captions, settings.seed), settings.steps

    def loss_of(step: int) -> torch.Tensor:
        third = min(2, 3 * (step + 1) // (steps + 1))
        listed = LISTED[int(lessons.rng.choice(len(LISTED), p=SHARES[third]))]
        pixels, text, targets, taps.repeat = lessons.batch(listed)
        model(pixels, captions=text)
        loss = token_loss(taps.token_logits, taps.spatial_shapes, targets)
        return loss + sum(set_loss(*layer, targets) for layer in taps.layers())

    with whole_folder(folder) as temporary:
        write_skeleton(temporary)
        model = build_grounding_dino(CONFIG, temporary).train()
        initialize(model)
        align(model, lessons, replace(settings, steps=2 * steps))
        taps = Taps(model)
        fit("grounding_dino", make_schedule(model, PEAK_RATE, steps), loss_of, settings)
        # Some weights have several names; one is enough.
        state = {value.data_ptr(): (name, value) for name, value in reversed(model.state_dict().items())}
        write_weights(dict(state.values()), temporary / "model.safetensors")


def found_things(detection: Detection, things: list[Thing]) -> list[tuple[int, int, float]]:
    """Assign boxes to things one to one, with the largest sum of IoU: (thing, box, IoU) of each pair."""
    if not things or not len(detection.boxes):
        return []
    overlap = box_iou(torch.tensor([t.box for t in things]), torch.from_numpy(detection.boxes)).numpy()
    return [(i, j, float(overlap[i, j])) for i, j in zip(*linear_sum_assignment(-overlap), strict=True)]


def quality(folder: Path | str, n_scenes: int = 100, split: str = "test") -> dict[str, float]:
    """Measure a model on the first scenes of a split, with every noun of the tiny world as the caption.

    A box finds an object if :func:`found_things` pairs them with an IoU of at least 0.5.

    Returns:
        recall_at_0.5: share of the objects that a box finds.
        absent_no_box: share without any box among all pairs of a scene and a noun that is not in it.
        mean_box_iou: mean IoU of the boxes that find an object.
        precision_at_0.5: share of the boxes that find an object.
    """
    detector = load_grounding_dino(folder, "cpu")
    overlaps, n_things, n_boxes, absent = [], 0, 0, []
    for index in range(n_scenes):
        scene = draw_scene(split, index)
        image = Image.fromarray(scene.image)
        for noun, found in zip(NOUNS, detect(detector, [image] * len(NOUNS), NOUNS, BOX_THRESHOLD), strict=True):
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
