"""Byte-level BPE as Qwen2's: the tokenizer of the tiny keyword model and of the tiny VLM."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX


def train_bpe(texts: Iterable[str], vocab_size: int, min_frequency: int = 0, special: Iterable[str] = ()) -> Tokenizer:
    """Train a BPE on texts, with Qwen2's normalization and splitting into words.

    The vocabulary holds all bytes, so any text can be encoded.

    Args:
        vocab_size: most tokens, special ones included.
        min_frequency: how often a pair must occur to be merged.
        special: tokens that stand first in the vocabulary and are never split.
    """
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=list(special), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ))  # fmt: skip
    return bpe
