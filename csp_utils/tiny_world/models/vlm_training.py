"""Trains the tiny base VLM: first its eyes, then its language (see :mod:`csp_utils.tiny_world.models.vlm_lessons`).

1. Eyes. The vision tower and merger learn, for every merged image token, which nouns and colours it shows, *in the
   words' own embeddings* (as CLIP towers are aligned with text): token . embedding(" anchor") is the logit of "anchor".
2. Language. The tower is frozen, its tokens are computed once, and the language model learns the lessons.
"""

import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from csp_utils.base.files import whole_folder
from csp_utils.tiny_world.models.packing import IMAGE_TOKENS, Packer, block_mask
from csp_utils.tiny_world.models.vlm_lessons import DRILL_WORDS, Lessons
from csp_utils.tiny_world.world.grain import add_grain, lost_things
from csp_utils.tiny_world.world.scenes import CELL, COLORS, NOUNS, SIZE, Scene, draw_scene

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
WORDS = [*NOUNS, *COLORS, "lying", "standing", "grainy"]


def patches(images):
    """uint8 (B, 112, 112, 3) -> float32 tensor (B * 64, 1176): what Qwen2VLImageProcessor makes of the images."""
    import torch

    x = (torch.from_numpy(np.ascontiguousarray(images)).float() / 255 - torch.from_numpy(MEAN)) / torch.from_numpy(STD)
    g = SIZE // CELL
    x = x.permute(0, 3, 1, 2).reshape(-1, 3, g, 2, 14, g, 2, 14).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return x.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).reshape(-1, 3 * 2 * 14 * 14)


def see(model, images):
    """Merged image tokens, float32 (B, 16, hidden)."""
    import torch

    grid = torch.tensor([[1, SIZE // 14, SIZE // 14]] * len(images))
    return model.model.visual(patches(images), grid_thw=grid).view(len(images), IMAGE_TOKENS, -1)


def token_truth(scene: Scene) -> np.ndarray:
    """What each merged token shows, float32 (16, len(WORDS)): 1 yes, 0 no, NaN too little to say. The last is grain."""
    out = np.zeros((IMAGE_TOKENS, len(WORDS)), np.float32)
    for thing in scene.things:
        cover = thing.mask.reshape(4, CELL, 4, CELL).sum(axis=(1, 3)).ravel() / max(thing.mask.sum(), 1)
        words = [thing.noun, thing.color, "lying" if thing.lying else "standing"]
        for w in (WORDS.index(word) for word in words):
            out[:, w] = np.where(cover > 0.25, 1, np.where((cover > 0.05) & (out[:, w] != 1), np.nan, out[:, w]))
    return out


def lost_tokens(scene: Scene, lost: np.ndarray) -> np.ndarray:
    """Mean share of the signal lost in each merged token, float32 (16,): of its object's pixels, if it shows one."""
    shown = np.any([thing.mask for thing in scene.things], axis=0)
    count = _by_token(shown)
    objects = _by_token(lost * shown) / np.maximum(count, 1e-6)
    return np.where(count > 0.02, objects, _by_token(lost)).astype(np.float32)


def _by_token(values: np.ndarray) -> np.ndarray:
    """Mean of (112, 112) over the pixels of each merged token, (16,)."""
    return values.reshape(4, CELL, 4, CELL).mean(axis=(1, 3)).ravel()


def train_tower(model, tokenizer, scenes, steps: int, seed: int = 0, log: Callable = print, batch: int = 48) -> None:
    """Stage 1. Trains ``model.model.visual`` and the embeddings of WORDS in place."""
    import torch
    from torch.nn import functional as F

    rng = np.random.default_rng([seed, 21])
    truth = {s.name: token_truth(s) for s in scenes}
    embed = model.get_input_embeddings().weight
    ids = torch.tensor([tokenizer(" " + w, add_special_tokens=False)["input_ids"][0] for w in WORDS])
    with torch.no_grad():
        embed.normal_(0, 0.3)  # unit-sized words: the language model then matches words and tokens at once
        model.model.visual.merger.mlp[-1].bias.zero_()
    scale, bias = torch.nn.Parameter(torch.tensor(1.0)), torch.nn.Parameter(torch.full((len(WORDS),), -3.0))
    weights = [*model.model.visual.parameters(), embed, scale, bias]
    optimizer = torch.optim.AdamW(weights, lr=1.5e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=steps + 1, pct_start=0.1)
    started = time.time()
    for step in range(steps):
        chosen = [scenes[i] for i in rng.integers(len(scenes), size=batch)]
        images, lost = zip(*(add_grain(s, rng) for s in chosen), strict=True)
        target = torch.from_numpy(np.stack([truth[s.name] for s in chosen]))
        target[..., -1] = torch.from_numpy(np.stack([lost_tokens(*pair) for pair in zip(chosen, lost, strict=True)]))
        tokens = see(model, np.stack(images))
        logits = tokens @ embed[ids].T * scale + bias
        known = ~target.isnan()
        words = known & (torch.arange(len(WORDS)) < len(WORDS) - 1)
        loss = F.binary_cross_entropy_with_logits(logits[words], target[words], pos_weight=torch.tensor(3.0))
        loss = loss + 0.3 * F.binary_cross_entropy_with_logits(logits[..., -1], target[..., -1])
        loss = loss + 0.01 * (tokens.pow(2).mean() - 0.25).clamp(min=0)  # as large as words, no larger
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            with torch.no_grad():
                there, off = known & (target == 1), (logits[..., -1].sigmoid() - target[..., -1]).abs().mean()
                hit = (logits > 0)[there].float().mean()
            size, seconds = tokens.pow(2).mean().sqrt().item(), time.time() - started
            log(
                f"eyes {step:5d}  loss {loss.item():.4f}  recall {hit.item():.3f}  grain off by {off.item():.3f}  "
                f"size {size:.2f}  {seconds:.0f} s"
            )


def bank(model, scenes, copies: int, seed: int = 0, batch: int = 128):
    """Every scene as the trained eyes see it, ``copies`` times, each time with other grain (the first: none).

    Returns:
        tokens: float16 tensor (copies, N, 16, hidden).
        lost: ``lost[copy][i]`` is what :func:`grain.lost_things` says about scene i.
    """
    import torch

    out, lost = [], []
    with torch.no_grad():
        for copy in range(copies):
            rng = np.random.default_rng([seed, 22, copy])
            images, parts = zip(*(add_grain(s, rng, 0.0 if copy == 0 else 0.9) for s in scenes), strict=True)
            seen = [see(model, np.stack(images[i : i + batch])).half() for i in range(0, len(images), batch)]
            out.append(torch.cat(seen))
            lost.append([lost_things(s, part) for s, part in zip(scenes, parts, strict=True)])
    return torch.stack(out), lost


def start_by_similarity(model) -> None:
    """Let every attention head compare what it sees from the first step: W_q = W_k, and W_o W_v near the identity.

    Trained transformers look like that ("Mimetic initialization of self-attention layers", Trockman and Kolter 2023).
    Here it spares the language model the long search for "the token that looks like this word".
    """
    import torch

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
def depth(model, layers: int | None):
    """Within it, the language model has its first ``layers`` layers only (None: all)."""
    language = model.model.language_model
    whole = language.layers
    language.layers = whole[:layers]
    try:
        yield
    finally:
        language.layers = whole


def forward(model, packer: Packer, tokens, lessons, only: frozenset[int] | None = None):
    """Logits at the labelled positions (M, vocab) and their labels (M,); see :meth:`Packer.pack`."""
    import torch

    packed = packer.pack(lessons, only)
    ids = torch.from_numpy(packed.ids)
    embeds = model.get_input_embeddings()(ids)
    embeds = embeds.masked_scatter((ids == packer.image_id)[..., None], tokens.to(embeds.dtype))
    hidden = model.model.language_model(
        inputs_embeds=embeds,
        position_ids=torch.from_numpy(packed.positions),
        attention_mask=block_mask(torch.from_numpy(packed.block)),
        use_cache=False,
    ).last_hidden_state
    labels = torch.from_numpy(packed.labels)
    keep = labels != -100
    return model.lm_head(hidden[keep]), labels[keep]


def train_language(
    model,
    tokenizer,
    scenes,
    steps: int,
    seed: int = 0,
    log: Callable = print,
    batch: int = 24,
    questions: int = 6,
    lr: float = 1.5e-3,
    parts: tuple[float, float, float] = (0.22, 0.10, 0.20),
) -> None:
    """Stage 2. Trains the language model in place; the tower stays as it is.

    Three parts of the steps come before all lessons are mixed: drills that the lower half of the layers answers alone,
    so that the upper half is free to use what they find; drills with short questions; then judging of short answers.
    The learning rate decays over the last half.
    """
    import torch
    from torch.nn import functional as F

    rng = np.random.default_rng([seed, 23])
    packer, teacher = Packer(tokenizer), Lessons(scenes)
    answers = frozenset(tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in DRILL_WORDS)
    start_by_similarity(model)
    tokens, lost = bank(model, scenes, 3, seed)
    weights = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    rate = lambda s: min(1, (s + 1) / 50) * min(1.0, max(0.02, (steps - s) / (0.5 * steps)))  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    started, running = time.time(), 0.0
    for step in range(steps):
        pick = rng.integers(len(scenes), size=batch)
        looking, drilling, judging = (step < share * steps for share in np.cumsum(parts))
        grain = rng.integers(len(tokens), size=batch)
        views = [(scenes[i], lost[copy][i]) for i, copy in zip(pick, grain, strict=True)]
        if drilling:
            lessons = [teacher.drill(*view, rng, looking) for view in views]
        else:
            lessons = [teacher.draw(*view, questions, rng, first=judging) for view in views]
        with depth(model, len(model.model.language_model.layers) // 2 if looking else None):
            now = tokens[grain, pick].float()
            logits, labels = forward(model, packer, now, lessons, answers if drilling else None)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        running = loss.item() if step == 0 else 0.95 * running + 0.05 * loss.item()
        if step % 50 == 0 or step == steps - 1:
            log(f"language {step:5d}  loss {running:.4f}  {time.time() - started:.0f} s")


def train(
    folder: Path, tower_steps: int, steps: int, seed: int = 0, log: Callable = print, n_scenes: int = 6000
) -> None:
    """Train from nothing and write the whole checkpoint folder."""
    from csp_utils.tiny_world.models.vlm import new_vlm, save_vlm

    scenes = [draw_scene("train", index, seed) for index in range(n_scenes)]
    with whole_folder(folder) as temporary:
        model, tokenizer = new_vlm(temporary, seed)
        train_tower(model, tokenizer, scenes, tower_steps, seed, log)
        train_language(model, tokenizer, scenes, steps, seed, log)
        save_vlm(model, temporary)
