"""Train and score the tiny causal language model that answers prompt A.1.

It is a ``Qwen2ForCausalLM`` of transformers with 0.9 million parameters; notebook 01 loads it as it loads any other
causal LM. Its training examples come from :mod:`csp_utils.tiny_world.models.keyword_lessons`. The loss counts the
keyword alone, not the prompt.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM, Qwen2TokenizerFast

from csp_utils.base.files import whole_folder
from csp_utils.models.keyword_lm import KeywordModel
from csp_utils.tiny_world.models import keyword_lessons as lessons
from csp_utils.tiny_world.models.fit import Settings, fit
from csp_utils.tiny_world.models.keyword_lessons import Row
from csp_utils.tiny_world.models.tokenizer import train_bpe
from csp_utils.words.prompts import KEYWORD_PROMPT, keyword_prompt

EOS = "<|endoftext|>"
VOCABULARY = 2048
BATCH = 32
PEAK_RATE = 2e-3
PREFIX = KEYWORD_PROMPT.split(" {question}")[0]
"""The common start of all prompts. Training computes it once a step and reuses its key/value cache for all rows."""

Example = tuple[list[int], int]
"""Tokens of a row after :data:`PREFIX`, and how many of them, at the end, are the keyword and :data:`EOS`."""


def make_tokenizer(rows: Iterable[Row]) -> PreTrainedTokenizerBase:
    """Train a tokenizer of :data:`VOCABULARY` tokens on prompt A.1 filled with ``rows``."""
    texts = [f"{keyword_prompt(question, answer)} {keyword}" for question, answer, keyword in rows]
    # All texts start with PREFIX; one in twenty is enough to give its words tokens of their own.
    bpe = train_bpe((t if i % 20 == 0 else t[len(PREFIX) :] for i, t in enumerate(texts)), VOCABULARY, special=[EOS])
    return Qwen2TokenizerFast(
        tokenizer_object=bpe, bos_token=None, eos_token=EOS, pad_token=EOS, unk_token=None, model_max_length=2048
    )


def make_model(tokenizer: PreTrainedTokenizerBase, seed: int) -> Qwen2ForCausalLM:
    """Make a new model: 4 layers of width 128, embeddings tied to the output layer.

    The attention's value and output matrices start near the identity, so that a token copies what it attends to (after
    the "mimetic" initialisation of Trockman and Kolter 2023). To copy a noun, the model then only has to learn where to
    look: it reaches in 130 batches of 32 the loss (3.2) for which a plain start needs 400 batches of 64.
    """
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=2048, rope_theta=10000.0, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(5)  # otherwise the copies drown the token's own embedding
        for layer in model.model.layers:
            for part in (layer.self_attn.v_proj, layer.self_attn.o_proj):
                part.weight.add_(0.3 * torch.eye(config.hidden_size))
    return model


def encode(tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> list[Example]:
    """Encode rows for :func:`keyword_loss`."""
    prompts = tokenizer([keyword_prompt(question, answer)[len(PREFIX) :] for question, answer, _ in rows])["input_ids"]
    keywords = tokenizer([f" {keyword}{EOS}" for *_, keyword in rows])["input_ids"]
    return [(prompt + keyword, len(keyword)) for prompt, keyword in zip(prompts, keywords, strict=True)]


def _batches(tokenizer: PreTrainedTokenizerBase, rows: Iterator[Row], seed: int) -> Iterator[list[Example]]:
    """Make batches of rows of similar length (so that little is padded), in random order."""
    rng = np.random.default_rng([seed, 43])
    while True:
        pool = sorted(encode(tokenizer, list(itertools.islice(rows, 16 * BATCH))), key=lambda row: len(row[0]))
        for start in rng.permutation(16) * BATCH:
            yield pool[start : start + BATCH]


def keyword_loss(model: Qwen2ForCausalLM, prefix: torch.Tensor, batch: list[Example]) -> torch.Tensor:
    """Average the cross-entropy of the tokens of keywords and :data:`EOS` after the whole prompt.

    Args:
        prefix: int64 (1, p), the tokens of :data:`PREFIX`.
        batch: from :func:`encode`.
    """
    width = max(len(ids) for ids, _ in batch)
    ids = torch.full((len(batch), width), model.config.pad_token_id)
    is_keyword = torch.zeros_like(ids, dtype=torch.bool)
    for i, (row, n) in enumerate(batch):  # padded on the right, where no earlier token attends to the padding
        ids[i, : len(row)] = torch.tensor(row)
        is_keyword[i, len(row) - n : len(row)] = True
    shared = model.model(prefix, use_cache=True).past_key_values.to_legacy_cache()
    wide = tuple(tuple(part.expand(len(batch), -1, -1, -1) for part in layer) for layer in shared)
    hidden = model.model(ids, past_key_values=DynamicCache.from_legacy_cache(wide)).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][is_keyword[:, 1:]])  # a token is predicted from the one before it
    return torch.nn.functional.cross_entropy(logits, ids[is_keyword])


def train(folder: str | Path, settings: Settings) -> None:
    """Train tokenizer and model and write them to ``folder`` (safetensors, float16), whole or not at all.

    ``settings.n_scenes`` is not used: at most 400 scenes give rows, since most examples are not about scenes.
    """
    steps, seed = settings.steps, settings.seed
    rows = lessons.scene_rows("models", min(400, max(8, steps)), 8, seed)
    texts = itertools.islice(lessons.stream(rows, seed + 1), 20_000 if steps >= 100 else 1_000)
    tokenizer = make_tokenizer(texts)
    model = make_model(tokenizer, seed).train()
    prefix = torch.tensor([tokenizer(PREFIX)["input_ids"]])
    batches = _batches(tokenizer, lessons.stream(rows, seed), seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    warm, rest = min(100, steps), max(1, int(0.4 * steps))

    def rate(step: int) -> float:  # up, high until the model has learnt to copy, then down to a twentieth
        return min((step + 1) / warm, 0.05 + 0.95 * min(1.0, (steps - step) / rest))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    fit("keyword_lm", schedule, lambda step: keyword_loss(model, prefix, next(batches)), settings)
    model.eval().half()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config.update(do_sample=False, **ends)
    with whole_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def quality(folder: str | Path, n_scenes: int = 100, split: str = "test", seed: int = 0) -> dict[str, float]:
    """Measure how often the model in ``folder``, asked as in notebook 01, names the right keyword.

    Returns:
        exact_match: share of right keywords over 4 rows of each of ``n_scenes`` scenes of ``split``.
        n: number of these rows, and of those of each measure below.
        exact_match_new_nouns: the same for known phrasings with nouns that training never shows.
        exact_match_new_phrasings: for phrasings that training never shows, with known nouns.
        exact_match_made_up: for words that do not exist.
    """
    model = KeywordModel(folder, device="cpu")
    rng = np.random.default_rng([seed, 44])
    tests = {"exact_match": lessons.scene_rows(split, n_scenes, 4, seed)}
    n = len(tests["exact_match"])
    tests["exact_match_new_nouns"] = [lessons.lesson(rng, lessons.NEW) for _ in range(n)]
    tests["exact_match_new_phrasings"] = [lessons.lesson(rng, lessons.KNOWN, lessons.NEW_LESSONS) for _ in range(n)]
    tests["exact_match_made_up"] = [lessons.lesson(rng, []) for _ in range(n)]
    out: dict[str, float] = {"n": n}
    for name, rows in tests.items():
        replies = model.extract([(question, answer) for question, answer, _ in rows])
        out[name] = float(np.mean([r.keyword == keyword for r, (*_, keyword) in zip(replies, rows, strict=True)]))
    return out
