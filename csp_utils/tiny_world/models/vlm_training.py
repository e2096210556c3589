"""Train the tiny base VLM: first its vision tower, then its language model.

1. Vision tower and merger learn which nouns and colours each merged image token shows. The words' own embeddings are
   the classifier, as CLIP towers are aligned with text: token . embedding(" anchor") is the logit of "anchor".
2. The tower is frozen and its image tokens are computed once. The language model learns the lessons of
   :mod:`csp_utils.tiny_world.models.vlm_lessons`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers import Qwen2VLForConditionalGeneration as Model
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from csp_utils.base.files import whole_folder
from csp_utils.tiny_world.models.fit import Settings, fit
from csp_utils.tiny_world.models.packing import IMAGE_TOKENS, Packer, Texts, block_mask
from csp_utils.tiny_world.models.vlm import new_vlm, save_vlm
from csp_utils.tiny_world.models.vlm_lessons import DRILL_WORDS, Lessons
from csp_utils.tiny_world.world.grain import add_grain, lost_things
from csp_utils.tiny_world.world.scenes import CELL, COLORS, NOUNS, SIZE, Scene, draw_scene

WORDS = [*NOUNS, *COLORS, "lying", "standing", "touching", "grainy"]
"""What the vision tower learns to see."""

LEVELS = 12
"""Thresholds of the lost share of the signal. While the tower is trained, a linear layer that is thrown away afterwards
tells from each token which thresholds are passed. So the tokens hold a rank order of clarity, not only "grainy" or not.
"""

PHASES = {"look-ups": 0.1, "lists": 0.4, "questions": 0.1, "judging": 0.15}
"""Shares of the language model's steps, in this order; the rest is mixed. A step of the first two, which the lower half
of the layers learns alone, takes a fifth of the time of a later one."""


def patches(images: np.ndarray) -> torch.Tensor:
    """Cut images, uint8 (B, 112, 112, 3), into patches as Qwen2VLImageProcessor does: float32 (B * 64, 1176)."""
    x = torch.from_numpy(np.ascontiguousarray(images)).float() / 255
    x = (x - torch.tensor(OPENAI_CLIP_MEAN)) / torch.tensor(OPENAI_CLIP_STD)
    g = SIZE // CELL
    x = x.permute(0, 3, 1, 2).reshape(-1, 3, g, 2, 14, g, 2, 14).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return x.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).reshape(-1, 3 * 2 * 14 * 14)


def image_tokens(model: Model, images: np.ndarray) -> torch.Tensor:
    """Compute the merged image tokens, float32 (B, 16, hidden), of images, uint8 (B, 112, 112, 3)."""
    grid = torch.tensor([[1, SIZE // 14, SIZE // 14]] * len(images))
    return model.model.visual(patches(images), grid_thw=grid).view(len(images), IMAGE_TOKENS, -1)


def token_truth(scene: Scene) -> np.ndarray:
    """Tell which words each merged token shows, float32 (16, words): 1 yes, 0 no, NaN too little to say.

    The last word, "grainy", is left at 0: :func:`lost_tokens` has its values.
    """
    out = np.zeros((IMAGE_TOKENS, len(WORDS)), np.float32)
    covers = [_by_token(thing.mask) / thing.mask.mean() / IMAGE_TOKENS for thing in scene.things]
    for thing, cover in zip(scene.things, covers, strict=True):
        words = [thing.noun, thing.color, "lying" if thing.lying else "standing"]
        for w in (WORDS.index(word) for word in words):
            out[:, w] = np.where(cover > 0.25, 1, np.where((cover > 0.05) & (out[:, w] != 1), np.nan, out[:, w]))
    touching = {i for pair in scene.touching for i in pair}
    unclear = {i for pair in scene.unclear for i in pair} - touching
    w = WORDS.index("touching")
    for i, cover in enumerate(covers):
        value = 1 if i in touching else np.nan if i in unclear else 0
        out[:, w] = np.where(cover > 0.25, np.maximum(out[:, w], value), out[:, w])
    return out


def lost_tokens(scene: Scene, lost: np.ndarray) -> np.ndarray:
    """Average the lost share of the signal over each merged token, float32 (16,).

    The average is over the pixels of objects, where a token shows any, otherwise over all of its pixels.
    """
    shown = np.any([thing.mask for thing in scene.things], axis=0)
    count = _by_token(shown)
    objects = _by_token(lost * shown) / np.maximum(count, 1e-6)
    return np.where(count > 0.02, objects, _by_token(lost)).astype(np.float32)


def _by_token(values: np.ndarray) -> np.ndarray:
    """Average (112, 112) values over the pixels of each merged token: (16,)."""
    return values.reshape(4, CELL, 4, CELL).mean(axis=(1, 3)).ravel()


def train_tower(model: Model, tokenizer: Tokenizer, scenes: list[Scene], settings: Settings, batch: int = 48) -> None:
    """Train ``model.model.visual`` and the embeddings of :data:`WORDS` in place (stage 1)."""
    rng = np.random.default_rng([settings.seed, 21])
    truth = {s.name: token_truth(s) for s in scenes}
    embed = model.get_input_embeddings().weight
    ids = torch.tensor([tokenizer(" " + w, add_special_tokens=False)["input_ids"][0] for w in WORDS])
    with torch.no_grad():
        embed.normal_(0, 0.3)  # of the size of image tokens, so that the language model can match both at once
        model.model.visual.merger.mlp[-1].bias.zero_()
    scale, bias = torch.nn.Parameter(torch.tensor(1.0)), torch.nn.Parameter(torch.full((len(WORDS),), -3.0))
    level = torch.nn.Linear(embed.shape[1], LEVELS)
    limits = (torch.arange(LEVELS) + 0.5) / LEVELS
    weights = [*model.model.visual.parameters(), embed, scale, bias, *level.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1.5e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=settings.steps + 1, pct_start=0.1)

    def loss_of(step: int) -> torch.Tensor:
        chosen = [scenes[i] for i in rng.integers(len(scenes), size=batch)]
        images, lost = zip(*(add_grain(s, rng) for s in chosen), strict=True)
        target = torch.from_numpy(np.stack([truth[s.name] for s in chosen]))
        target[..., -1] = torch.from_numpy(np.stack([lost_tokens(*pair) for pair in zip(chosen, lost, strict=True)]))
        tokens = image_tokens(model, np.stack(images))
        logits = tokens @ embed[ids].T * scale + bias
        known = ~target.isnan() & (torch.arange(len(WORDS)) < len(WORDS) - 1)
        loss = F.binary_cross_entropy_with_logits(logits[known], target[known], pos_weight=torch.tensor(3.0))
        loss = loss + 0.3 * F.binary_cross_entropy_with_logits(logits[..., -1], target[..., -1])
        above = (target[..., -1:] > limits).float()
        loss = loss + F.binary_cross_entropy_with_logits(level(tokens), above)
        return loss + 0.01 * (tokens.pow(2).mean() - 0.25).clamp(min=0)  # no larger than the embeddings

    fit("vlm tower", schedule, loss_of, settings)


def scene_tokens(
    model: Model, scenes: list[Scene], copies: int, seed: int, batch: int = 128
) -> tuple[torch.Tensor, list[list[np.ndarray]]]:
    """Compute the image tokens of every scene ``copies`` times: first without grain, then each time with other grain.

    Returns:
        tokens: float16 (copies, scenes, 16, hidden).
        lost: ``lost[copy][i]`` is the share of the signal lost in each thing of scene i, from ``grain.lost_things``.
    """
    tokens, lost = [], []
    with torch.no_grad():
        for copy in range(copies):
            rng = np.random.default_rng([seed, 22, copy])
            images, parts = zip(*(add_grain(s, rng, 0.0 if copy == 0 else 0.9) for s in scenes), strict=True)
            batches = [np.stack(images[i : i + batch]) for i in range(0, len(images), batch)]
            tokens.append(torch.cat([image_tokens(model, part).half() for part in batches]))
            lost.append([lost_things(s, part) for s, part in zip(scenes, parts, strict=True)])
    return torch.stack(tokens), lost


def start_by_similarity(model: Model) -> None:
    """Make every attention head start by comparing tokens: W_q = W_k, and W_o W_v near the identity.

    Trained transformers look like that ("Mimetic initialization of self-attention layers", Trockman and Kolter 2023).
    It spares the language model a long search for "the token that looks like this word".
    """
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            a = layer.self_attn
            width = a.q_proj.weight.shape[0]
            same = torch.nn.init.orthogonal_(torch.empty(width, width))
            a.q_proj.weight.copy_(same)
            a.k_proj.weight.copy_(same)
            value = torch.nn.init.orthogonal_(torch.empty(width, width))
            a.v_proj.weight.copy_(value * 0.5)
            a.o_proj.weight.copy_(value.T * 0.5)


@contextmanager
def lower_half(model: Model, enabled: bool) -> Iterator[None]:
    """Run the language model with the lower half of its layers alone, if enabled."""
    language = model.model.language_model
    layers = language.layers
    if enabled:
        language.layers = layers[: len(layers) // 2]
    try:
        yield
    finally:
        language.layers = layers


def forward(
    model: Model, packer: Packer, tokens: torch.Tensor, texts: list[Texts], only: frozenset[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the language model on packed texts.

    Args:
        tokens: image tokens, float (B, 16, hidden).
        texts: those about each image; ``only``: the ids that can be labels, see :meth:`Packer.pack`.

    Returns:
        logits (M, vocabulary) and labels (M,) of the labelled positions.
    """
    packed = packer.pack(texts, only)
    ids, labels = torch.from_numpy(packed.ids), torch.from_numpy(packed.labels)
    embeds = model.get_input_embeddings()(ids)
    embeds = embeds.masked_scatter((ids == packer.image_id)[..., None], tokens.to(embeds.dtype))
    hidden = model.model.language_model(
        inputs_embeds=embeds,
        position_ids=torch.from_numpy(packed.positions),
        attention_mask=block_mask(torch.from_numpy(packed.block)),
        use_cache=False,
    ).last_hidden_state
    labelled = labels != -100
    return model.lm_head(hidden[labelled]), labels[labelled]


def train_language(
    model: Model, tokenizer: Tokenizer, scenes: list[Scene], settings: Settings, batch: int = 24, n_texts: int = 6
) -> None:
    """Train the language model in place (stage 2); the vision tower stays as it is.

    Four phases (:data:`PHASES`) come before the mixed lessons. First, the lower half of the layers alone learns drills
    of lists, so that the upper half is free to use what the lower half finds: lists of colours, and, when a noun finds
    its image token, lists of everything. Then all layers learn drills with short questions. Then they learn
    to judge short answers. The learning rate falls over the second half of the steps.

    Args:
        batch: images a step.
        n_texts: lessons an image, except in drills.
    """
    steps, rng = settings.steps, np.random.default_rng([settings.seed, 23])
    ends = dict(zip(PHASES, np.cumsum(list(PHASES.values())), strict=True))
    packer, lessons = Packer(tokenizer), Lessons(scenes)
    drill_ids = frozenset(tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in DRILL_WORDS)
    start_by_similarity(model)
    tokens, lost = scene_tokens(model, scenes, 3, settings.seed)
    weights = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.01)

    def rate(step: int) -> float:
        return min(1, (step + 1) / 50) * min(1.0, max(0.02, (steps - step) / (0.5 * steps)))

    def loss_of(step: int) -> torch.Tensor:
        chosen, copies = rng.integers(len(scenes), size=batch), rng.integers(len(tokens), size=batch)
        views = [(scenes[i], lost[copy][i]) for i, copy in zip(chosen, copies, strict=True)]
        phase = next((name for name, end in ends.items() if step < end * steps), "mixed")
        drilling = phase in ("look-ups", "lists", "questions")
        if drilling:
            texts = [lessons.drill(*view, rng, phase) for view in views]
        else:
            texts = [lessons.sample(*view, n_texts, rng, judging=phase == "judging") for view in views]
        with lower_half(model, phase in ("look-ups", "lists")):
            seen = tokens[copies, chosen].float()
            return F.cross_entropy(*forward(model, packer, seen, texts, drill_ids if drilling else None))

    fit("vlm language", torch.optim.lr_scheduler.LambdaLR(optimizer, rate), loss_of, settings)


def train(folder: Path, settings: Settings, tower_steps: int) -> None:
    """Train a VLM and write its folder, whole or not at all.

    Args:
        settings: ``steps`` are those of the language model.
        tower_steps: steps of the vision tower.
    """
    scenes = [draw_scene("models", index, settings.seed) for index in range(settings.n_scenes)]
    with whole_folder(folder) as temporary:
        model, tokenizer = new_vlm(temporary, settings.seed)
        train_tower(model, tokenizer, scenes, replace(settings, steps=tower_steps))
        train_language(model, tokenizer, scenes, settings)
        save_vlm(model, temporary)
