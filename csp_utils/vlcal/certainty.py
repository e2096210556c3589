"""Visual certainty: how much a description rests on the image, and how sure the model is of its words.

The signals of VL-Calibration (arXiv 2604.09529), as functions of tensors in the frame of ms-swift's trainer: B replies
of a micro-batch, T positions, a mask of the positions that hold a sampled token. All are without gradient by use: the
trainer computes them from log-probabilities of passes under ``no_grad``. This module imports torch.

Every function that has a choice names the paper's formula and that of the published code, which differ
(:mod:`csp_utils.vlcal.choices`).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from csp_utils.vlcal.choices import Certainty

EPSILON = 1e-8
"""Added to KL and entropy before their logarithm, as in the published code."""

MOST_LOG_RATIO, MOST_KL = 20.0, 10.0
"""Bounds of a log-ratio (nats, either sign) and of the KL of one token (nats), as in the published code."""

SMALLEST_STD = 1e-6
"""With a smaller standard deviation all scores count as equal."""


# ------------------------------------------------------------------------------------------------------ of each token


def token_kl(logp: Tensor, masked_logp: Tensor, how: Literal["k3", "released"] = "k3") -> Tensor:
    """Estimate, from the sampled tokens alone, how far a perturbed image changes the next-token distribution.

    With p and q the probabilities of the token under the true and the perturbed image: "k3" is q/p - 1 - log(q/p),
    whose mean over tokens sampled from p is KL(p || q) (Schulman 2020), the divergence of the paper's formula.
    "released" is p log(p/q), which is what the published code averages; it is no estimate of a divergence, and near 0
    wherever p is small.

    Args:
        logp, masked_logp: log p and log q, of any equal shape. The log-ratio is limited to +-20.

    Returns:
        float32 of that shape, limited to 0..10 nats. The limit makes the mean of k3 a little too small.
    """
    difference = (logp.float() - masked_logp.float()).clamp(-MOST_LOG_RATIO, MOST_LOG_RATIO)
    if how == "k3":
        return (torch.expm1(-difference) + difference).clamp(0.0, MOST_KL)
    if how == "released":
        return (logp.float().exp() * difference).clamp(0.0, MOST_KL)
    raise ValueError(f"{how!r} is not computed from sampled tokens; for \"full\" use full_kl")


def full_kl(logits: Tensor, masked_logits: Tensor) -> Tensor:
    """Compute KL(p || q) of each position exactly, over the whole vocabulary (the paper's formula).

    Args:
        logits, masked_logits: (..., V) with the true and the perturbed image, of any float type.

    Returns:
        float32 (...), at least 0, not limited; infinite where q excludes what p allows.
    """
    log_p, log_q = logits.float().log_softmax(-1), masked_logits.float().log_softmax(-1)
    terms = log_p.exp() * (log_p - log_q)
    return torch.where(log_p.isneginf(), 0.0, terms).sum(-1).clamp(min=0.0)


def full_entropy(logits: Tensor) -> Tensor:
    """Compute the entropy of each position's distribution, in nats (the paper's formula).

    Args:
        logits: (..., V), of any float type.

    Returns:
        float32 (...), 0 .. log V.
    """
    log_p = logits.float().log_softmax(-1)
    return torch.where(log_p.isneginf(), 0.0, -log_p.exp() * log_p).sum(-1).clamp(min=0.0)


def surprisal(logp: Tensor) -> Tensor:
    """Return -log p of the sampled tokens, which the published code takes for the entropy. Its mean is the entropy."""
    return -logp.float()


def description_mask(spans: Sequence[range | None], mask: Tensor) -> Tensor:
    """Mark the tokens of the descriptions in the frame of a micro-batch.

    Args:
        spans: for each of the B replies, positions among its sampled tokens
            (:func:`csp_utils.vlcal.spans.part_tokens`); None without a description.
        mask: (B, T) bool or 0/1, the positions that hold a sampled token, wherever the padding is.

    Returns:
        bool (B, T). Raises ValueError if a span reaches beyond the reply's tokens.
    """
    marked = torch.zeros_like(mask, dtype=torch.bool)
    for row, span in enumerate(spans):
        if span is not None:
            at = mask[row].nonzero().flatten()
            if span.stop > len(at):
                raise ValueError(f"span {span} of reply {row} reaches beyond its {len(at)} tokens")
            marked[row, at[span.start : span.stop]] = True
    return marked


# ------------------------------------------------------------------------------------------------------ of each reply


def reply_mean(values: Tensor, where: Tensor) -> Tensor:
    """Average values over the marked positions of each reply: D_KL or H of its description.

    Args:
        values: (B, T) floats; what they are elsewhere does not matter, NaN included.
        where: (B, T) bool.

    Returns:
        float32 (B,), NaN for a reply without a marked position.
    """
    return torch.where(where, values.float(), 0.0).sum(-1) / where.sum(-1)


def visual_certainty(kl: Tensor, entropy: Tensor, use: Certainty = "both") -> Tensor:
    """Compute S_vis = log(D_KL + e) - log(H + e), for replies or for single tokens (e is :data:`EPSILON`).

    It is high if the words depend on the image (large KL) and the model is sure of them (small entropy).

    Args:
        kl, entropy: nats, at least 0, of any equal shape; NaN where there is no description.
        use: "kl" keeps the first term alone, "entropy" the second one.

    Returns:
        float32 of that shape; NaN stays NaN.
    """
    terms = {"kl": (kl.float() + EPSILON).log(), "entropy": -(entropy.float() + EPSILON).log()}
    if use == "both":
        return terms["kl"] + terms["entropy"]
    return terms[use]


def soft_labels(scores: Tensor, how: Literal["z_score", "rank"] = "z_score") -> Tensor:
    """Turn the scores of all replies of an update into labels from 0 to 1, the targets of the visual confidence.

    Labels are relative: their mean is about 0.5 whatever the scores are. So the scores have to be those of the whole
    update, gathered from all processes in one order, and each process then takes its own slice.

    Args:
        scores: (n,) visual certainty; NaN without a description.
        how: "z_score" is the sigmoid of (score - mean) / standard deviation, over the scores that are finite, with the
            population's deviation; 0.5 for all if that is below 1e-6. "rank" is rank / (n - 1), as the published code
            does with KL or entropy alone; of equal scores the first has the higher rank, and a single score gets 1.

    Returns:
        float32 (n,); NaN where the score is not finite.
    """
    labels = torch.full_like(scores, torch.nan, dtype=torch.float32)
    finite = scores.isfinite()
    known = scores[finite].double()  # a sum over thousands of replies must not depend on how they are split
    if not len(known):
        return labels
    if how == "rank":
        order = known.argsort(descending=True, stable=True)
        ranks = torch.empty_like(known)
        ranks[order] = torch.linspace(1.0, 0.0, len(known), dtype=known.dtype, device=known.device)
        labels[finite] = ranks.float()
        return labels
    std = known.std(correction=0)
    normalized = torch.zeros_like(known) if std < SMALLEST_STD else (known - known.mean()) / std
    labels[finite] = normalized.sigmoid().float()
    return labels
