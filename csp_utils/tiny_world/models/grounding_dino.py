"""Trains a GroundingDINO of a few million parameters on the tiny world, from random weights.

The model class, the preprocessing and the folder are those of the full-size model; only numbers differ. The loss is
DETR's set loss in GroundingDINO's form (sigmoid focal loss on the token scores, L1 and GIoU on the boxes, the queries
matched to the objects by the Hungarian algorithm), on every decoder layer and on the encoder's proposals. One thing is
added, because it cuts the training from hours to minutes: *all* image tokens are told whether they lie on the named
object, not only the proposals; first straight after the backbone, then at the encoder's output.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

from csp_utils.base.files import whole_folder, write_json
from csp_utils.models.grounding_dino import Detection, build_grounding_dino, detect, load_grounding_dino
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
"""The official Swin-T configuration with smaller numbers. The long side may be 1.67 times the short one, as there. A
window of four patches is a cell of the scenes' grid: with patches of 4 or 8 pixels the nouns took twice as long."""

TEXT_ENCODER = {
    "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128,
    "max_position_embeddings": 256, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
"""Sizes of the BERT that reads the keyword."""


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


def start(model: torch.nn.Module) -> None:
    """Changes the random weights so that a small model learns in minutes.

    The library's choices suit wide, pretrained models. Here, weights of 0.02 would make narrow layers pass next to
    nothing on, and positions within a window would all look alike for a thousand steps. Identities let the transformer
    hand on what :func:`align` has taught.
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


def optimizer_of(model: torch.nn.Module, learning_rate: float, steps: int) -> tuple[Any, Any]:
    """AdamW and its schedule: 50 steps of warm-up, a cosine to a hundredth; position biases move ten times as fast."""
    fast, slow = [], []
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            (fast if "relative_position_bias_table" in name else slow).append(weight)
    groups = [{"params": slow, "weight_decay": 1e-4}, {"params": fast, "lr": 10 * learning_rate, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    decay = lambda s: 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, s / max(1, steps))))  # noqa: E731
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / 50, decay(s)))


def eyes_and_words(
    model: torch.nn.Module, pixels: torch.Tensor, captions: list[str]
) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Scores of the image tokens before the transformer, by product with the words before it.

    Returns float (b, image tokens, tokens of the captions) and (height, width) of each level.
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


def fit(
    model: torch.nn.Module,
    loss_of: Callable[[int], torch.Tensor],
    steps: int,
    learning_rate: float,
    say: Callable[[str], None],
    keep: Callable[[int], None] = lambda step: None,
) -> None:
    """``steps`` steps on ``loss_of(step)``; calls ``keep(step)`` after each and ``say`` now and then."""
    optimizer, schedule = optimizer_of(model, learning_rate, steps)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    began, recent = time.monotonic(), []
    for step in range(1, steps + 1):
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        recent.append(loss.item())
        if step % 50 == 0 or step == steps:
            say(f"step {step}/{steps}: loss {np.mean(recent[-50:]):.3f}, {(time.monotonic() - began) / 60:.1f} min")
        keep(step)


def align(
    model: torch.nn.Module, lessons: Lessons, steps: int, learning_rate: float, say: Callable[[str], None]
) -> None:
    """First part of the training: backbone and text encoder alone learn which image token shows which noun."""

    def loss_of(step: int) -> torch.Tensor:
        pixels, captions, named, _ = lessons.batch(len(NOUNS), images=4)
        return token_loss(*eyes_and_words(model, pixels, captions), named)

    fit(model, loss_of, steps, learning_rate, lambda line: say("eyes and words, " + line))


def train(
    folder: Path | str,
    steps: int,
    seed: int = 0,
    log: Callable[[str], None] = print,
    captions: int = 12,
    n_scenes: int = 6000,
    learning_rate: float = 5e-4,
    save_every: int | None = None,
) -> None:
    """Trains a model and writes its folder, whole.

    Args:
        folder: takes ``config.json``, ``text_encoder/`` and ``model.safetensors`` (half precision).
        steps: steps of the whole model; before them, twice as many (and each a quarter of the work) of its eyes and
            words alone.
        seed: of the weights and of the batches; the same seed gives the same model on the same machine.
        log: called with a line of text now and then.
        captions: captions a batch.
        n_scenes: training scenes to draw from.
        learning_rate: peak for the whole model; eyes and words learn twice as fast.
        save_every: writes the folder every so many steps as well.
    """
    import tempfile

    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as skeleton:
        write_skeleton(Path(skeleton))
        model = build_grounding_dino(json.loads((Path(skeleton) / "config.json").read_text()), skeleton)
    start(model)
    model.train()
    lessons = Lessons(n_scenes, captions, seed)
    align(model, lessons, 2 * steps, 2 * learning_rate, log)
    taps = Taps(model)

    def loss_of(step: int) -> torch.Tensor:
        third = min(2, 3 * step // (steps + 1))
        listed = LISTED[int(lessons.rng.choice(len(LISTED), p=SHARES[third]))]
        pixels, text, named, taps.repeat = lessons.batch(listed)
        model(pixels, captions=text)
        loss = token_loss(taps.token_logits, taps.spatial_shapes, named)
        return loss + sum(set_loss(*layer, named) for layer in taps.layers())

    def keep(step: int) -> None:
        if save_every and step % save_every == 0:
            save(model, folder)

    try:
        fit(model, loss_of, steps, learning_rate, log, keep)
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
