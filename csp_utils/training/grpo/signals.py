"""Compute the signals of a micro-batch from the log-probabilities of both passes, and the factors of its advantages.

All tensors are in the frame of ms-swift's trainer: B replies, T positions, a mask of those that hold a sampled token.
This module imports torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from csp_utils.vlcal.advantages import TokenSignals, token_weights, top_token_weights
from csp_utils.vlcal.certainty import description_mask, full_kl, reply_mean, surprisal, token_kl, visual_certainty
from csp_utils.vlcal.choices import Choices
from csp_utils.vlcal.spans import part_tokens, token_strings

EQUAL = 1e-5
"""Total rewards of a group that differ by less count as equal: float32 has that error."""


class Passes(NamedTuple):
    """What both passes of a micro-batch gave; a pass that was not needed gave None."""

    logp: Tensor
    """(B, T) log-probabilities of the sampled tokens with the true images."""
    masked_logp: Tensor | None
    """(B, T) the same with the perturbed images."""
    entropies: Tensor | None
    """(B, T) entropy of each position with the true images."""
    divergence: Tensor | None
    """(B, T) exact KL at the tokens of the descriptions, for the choice kl "full"."""


class Signals(NamedTuple):
    """The signals of a micro-batch."""

    tokens: TokenSignals
    kl: Tensor
    """(B,) D_KL of each description, nats; NaN without a description, or without perturbed images."""
    entropy: Tensor
    """(B,) H of each description, nats; NaN without a description."""


def find_descriptions(tokenizer: Any, input_ids: Tensor, mask: Tensor) -> Tensor:
    """Mark the sampled tokens of the descriptions.

    Args:
        tokenizer: a Hugging Face tokenizer.
        input_ids: (B, L) prompts and replies; the last T positions are those of ``mask``.
        mask: (B, T) bool.

    Returns:
        bool (B, T).
    """
    sampled = [ids[at].tolist() for ids, at in zip(input_ids[:, -mask.shape[1] :], mask, strict=True)]
    return description_mask([part_tokens(token_strings(tokenizer, ids)) for ids in sampled], mask)


@contextmanager
def description_logits(model: torch.nn.Module, description: Tensor, temperature: float) -> Iterator[list[Tensor]]:
    """Keep, of a forward pass of ``model``, the logits that predict the tokens of the descriptions.

    Args:
        description: bool (B, T), the last T positions of the sequences.
        temperature: the logits are divided by it, as those that are sampled from.

    Yields:
        a list that has one tensor (n, V) after the pass, n tokens in the order of ``description``.
    """
    kept: list[Tensor] = []

    def keep(module: torch.nn.Module, arguments: tuple, output: Any) -> None:
        logits = output.logits[:, -description.shape[1] - 1 : -1]  # position i - 1 predicts token i
        kept.append(logits[description] / temperature)  # a copy, because ms-swift then divides in place

    handle = model.register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


def scatter_kl(logits: Tensor, masked_logits: Tensor, description: Tensor) -> Tensor:
    """Return the exact KL in the frame of the micro-batch: float32 (B, T), 0 outside the descriptions."""
    found = torch.zeros(description.shape, dtype=torch.float32, device=description.device)
    found[description] = full_kl(logits, masked_logits)
    return found


def signals_of(passes: Passes, mask: Tensor, description: Tensor, choices: Choices) -> Signals:
    """Compute the signals of a micro-batch.

    The token factors take the k3 estimate whatever ``choices.kl`` is, as in the published code: they compare tokens of
    one reply, all of which were sampled.

    Args:
        mask: (B, T) bool, positions that hold a sampled token.
        description: (B, T) bool, those of the descriptions.
    """
    entropy = surprisal(passes.logp) if choices.entropy == "surprisal" else passes.entropies.float()
    kl = described = torch.full_like(entropy, torch.nan)
    if passes.masked_logp is not None:
        kl = token_kl(passes.logp, passes.masked_logp)
        described = passes.divergence if choices.kl == "full" else kl
        if choices.kl == "released":
            described = token_kl(passes.logp, passes.masked_logp, choices.kl)
    return Signals(TokenSignals(kl, entropy, mask, description), reply_mean(described, description),
                   reply_mean(entropy, description))  # fmt: skip


def scores_of(signals: Signals, choices: Choices) -> Tensor:
    """Return the visual certainty of each reply: float32 (B,), NaN without a description."""
    return visual_certainty(signals.kl, signals.entropy, choices.certainty)


def without_rounding(advantages: Tensor, totals: Tensor, generations: int) -> Tensor:
    """Set the advantages of groups to 0 in which all replies have equal rewards.

    The mean of equal float32 numbers can miss them by a rounding error, which ms-swift divides by a standard deviation
    of 0 + 1e-4: eight rewards of -2.4 get the advantage -0.0024. Where no group has anything to learn from, Adam would
    scale that to a step of full size.

    Args:
        advantages, totals: (N,) of the replies of whole groups, which follow each other.
        generations: replies a group.
    """
    groups = totals.view(-1, generations)
    equal = (groups.amax(-1) - groups.amin(-1) < EQUAL).repeat_interleave(generations)
    return torch.where(equal, 0.0, advantages)


def factors_of(advantages: Tensor, signals: Signals, choices: Choices) -> Tensor:
    """Return the factors of the advantages of a micro-batch: token weights times the choice of top tokens.

    Args:
        advantages: (B, T), the reply's advantage at each of its tokens.

    Returns:
        float32 (B, T); 1 everywhere if both are switched off.
    """
    factors = torch.ones_like(advantages, dtype=torch.float32)
    if choices.strength > 0:
        factors = factors * token_weights(advantages, signals.tokens, choices.strength)
    if choices.top_tokens < 1:
        factors = factors * top_token_weights(signals.tokens.kl, signals.tokens.mask, choices.top_tokens)
    return factors
