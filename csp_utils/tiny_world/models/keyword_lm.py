"""Trains and scores the tiny causal language model that answers prompt A.1.

It is a ``Qwen2ForCausalLM`` of transformers, 0.9 million parameters, with a byte-level BPE tokenizer split as Qwen2's;
notebook 01 loads it by the calls that load any other causal LM. It learns from :mod:`keyword_lessons`, with the loss on
the keyword alone.
"""

import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from csp_utils.base.files import whole_folder
from csp_utils.tiny_world.models import keyword_lessons as lessons
from csp_utils.words.prompts import KEYWORD_PROMPT, keyword_prompt

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

EOS = "<|endoftext|>"
VOCABULARY = 2048
BATCH = 32
PEAK_RATE = 2e-3
PREFIX = KEYWORD_PROMPT.split(" {question}")[0]
"""What all prompts share: its keys and values are computed once a step, for all rows of the batch."""

# Qwen2's own pre-tokenisation: contractions, words with their leading space, single digits, punctuation, white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

Row = tuple[str, str, str]


def make_tokenizer(rows: Iterable[Row]) -> "PreTrainedTokenizerBase":
    """A byte-level BPE tokenizer of :data:`VOCABULARY` tokens, trained on prompt A.1 filled with ``rows``.

    Any text can be encoded: what the merges do not cover is spelt in bytes.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[EOS], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [f"{keyword_prompt(question, answer)} {keyword}" for question, answer, keyword in rows]
    # The prefix is the same in all; once in twenty is enough to give its words tokens of their own.
    bpe.train_from_iterator([t if i % 20 == 0 else t[len(PREFIX) :] for i, t in enumerate(texts)], trainer)
    return Qwen2TokenizerFast(
        tokenizer_object=bpe, bos_token=None, eos_token=EOS, pad_token=EOS, unk_token=None, model_max_length=2048
    )


def make_model(tokenizer: "PreTrainedTokenizerBase", seed: int) -> "Qwen2ForCausalLM":
    """A fresh model: 4 layers of width 128, embeddings tied to the output layer.

    Attention starts near the identity: what a token attends to is what it copies (after the "mimetic" initialisation of
    Trockman and Kolter 2023). To copy a noun the model has then only to learn where to look: a loss that a plain start
    reaches in 400 batches of 64 (3.2) takes it 130 batches of 32.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=2048, rope_theta=10000.0, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(5)  # else the copies drown the token's own embedding
        for layer in model.model.layers:
            for part in (layer.self_attn.v_proj, layer.self_attn.o_proj):
                part.weight.add_(0.3 * torch.eye(config.hidden_size))
    return model


def _encode(tokenizer: "PreTrainedTokenizerBase", rows: list[Row]) -> list[tuple[list[int], int]]:
    """Each row's tokens after :data:`PREFIX`, and how many of them, at the end, are the keyword and the end mark."""
    texts = [keyword_prompt(question, answer)[len(PREFIX) :] for question, answer, _ in rows]
    asked = tokenizer(texts)["input_ids"]
    told = tokenizer([f" {keyword}{EOS}" for *_, keyword in rows])["input_ids"]
    return [(a + t, len(t)) for a, t in zip(asked, told, strict=True)]


def _batches(tokenizer: "PreTrainedTokenizerBase", rows: Iterable[Row], seed: int) -> Iterable[list]:
    """Batches of rows of similar length (so that little is padded), in random order."""
    rng = np.random.default_rng([seed, 43])
    rows = iter(rows)
    while True:
        pool = sorted(_encode(tokenizer, list(itertools.islice(rows, 16 * BATCH))), key=lambda row: len(row[0]))
        for start in rng.permutation(16) * BATCH:
            yield pool[start : start + BATCH]


def keyword_loss(
    model: "Qwen2ForCausalLM", prefix: "torch.Tensor", batch: list[tuple[list[int], int]]
) -> "torch.Tensor":
    """Mean cross-entropy of the keywords' tokens (and end marks) after the whole prompt.

    Args:
        prefix: int64 (1, p), the tokens of :data:`PREFIX`.
        batch: as :func:`_encode` gives it.
    """
    import torch
    from transformers import DynamicCache

    width = max(len(ids) for ids, _ in batch)
    ids = torch.full((len(batch), width), model.config.pad_token_id)
    keyword = torch.zeros_like(ids, dtype=torch.bool)
    for i, (row, told) in enumerate(batch):  # padded on the right: no earlier token sees the padding
        ids[i, : len(row)] = torch.tensor(row)
        keyword[i, len(row) - told : len(row)] = True
    shared = model.model(prefix, use_cache=True).past_key_values.to_legacy_cache()
    wide = tuple(tuple(part.expand(len(batch), -1, -1, -1) for part in layer) for layer in shared)
    hidden = model.model(ids, past_key_values=DynamicCache.from_legacy_cache(wide)).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][keyword[:, 1:]])  # a token is predicted from the one before it
    return torch.nn.functional.cross_entropy(logits, ids[keyword])


def train(folder: str | Path, steps: int, seed: int = 0, log: Callable[[str], None] = print) -> None:
    """Trains tokenizer and model from nothing and writes them, whole, to ``folder`` (safetensors, float16).

    Deterministic for given ``steps`` and ``seed`` on one machine with the same number of threads.
    """
    import torch

    rows = lessons.scene_rows("train", min(400, max(8, steps)), 8, seed)
    examples = lessons.stream(rows, seed)
    tokenizer = make_tokenizer(itertools.islice(lessons.stream(rows, seed + 1), 20_000 if steps >= 100 else 1_000))
    model = make_model(tokenizer, seed)
    prefix = torch.tensor([tokenizer(PREFIX)["input_ids"]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    warm, rest = min(100, steps), max(1, int(0.4 * steps))

    def rate(step: int) -> float:  # up, held until the copying has been found, then down to a twentieth
        return min((step + 1) / warm, 0.05 + 0.95 * min(1.0, (steps - step) / rest))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    started, losses = time.monotonic(), []
    model.train()
    for step, batch in enumerate(itertools.islice(_batches(tokenizer, examples, seed), steps), start=1):
        loss = keyword_loss(model, prefix, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 0 or step == steps:
            log(f"keyword_lm step {step}/{steps} loss {np.mean(losses[-50:]):.3f} {time.monotonic() - started:.0f} s")
    model.eval().half()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config.update(do_sample=False, **ends)
    with whole_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def quality(folder: str | Path, n_scenes: int = 100, split: str = "test", seed: int = 0) -> dict[str, float]:
    """How well the model in ``folder`` answers, loaded and asked as notebook 01 does.

    Returns:
        exact_match on 4 rows of each of ``n_scenes`` scenes of ``split``, and n, their number; over as many texts each,
        exact_match_new_nouns (known phrasings, nouns that training never showed), exact_match_new_phrasings (nouns of
        the lessons), exact_match_made_up (words that do not exist).
    """
    from csp_utils.models.keyword_lm import KeywordModel

    model = KeywordModel(folder, device="cpu")
    rng = np.random.default_rng([seed, 44])
    tests = {"exact_match": lessons.scene_rows(split, n_scenes, 4, seed)}
    n = len(tests["exact_match"])
    tests["exact_match_new_nouns"] = [lessons.lesson(rng, lessons.NEW) for _ in range(n)]
    tests["exact_match_new_phrasings"] = [lessons.lesson(rng, lessons.KNOWN, lessons.NEW_LESSONS) for _ in range(n)]
    tests["exact_match_made_up"] = [lessons.lesson(rng, []) for _ in range(n)]
    out: dict[str, float] = {"n": n}
    for name, rows in tests.items():
        found = model.extract([(question, answer) for question, answer, _ in rows])
        out[name] = float(np.mean([f.keyword == keyword for f, (*_, keyword) in zip(found, rows, strict=True)]))
    return out


if __name__ == "__main__":
    import sys

    train(sys.argv[1], int(sys.argv[2]), log=lambda line: print(line, flush=True))
