"""Give the tokens of a reply different advantages: reweighting by visual certainty, and the choice of top tokens.

Both return factors of the trainer's advantages, (B, T), so that no loss has to be written anew. This module imports
torch. Source: VL-Calibration (arXiv 2604.09529), token-level advantage reweighting; the choice of tokens is in its
published code alone, which has it from VPPO.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from csp_utils.vlcal.certainty import SMALLEST_STD, visual_certainty


class TokenSignals(NamedTuple):
    """What the factors are computed from: four (B, T) tensors in one frame."""

    kl: Tensor
    """KL of each token, nats (:func:`csp_utils.vlcal.certainty.token_kl`, k3 in paper and code alike)."""
    entropy: Tensor
    """Entropy or surprisal of each token, nats."""
    mask: Tensor
    """bool: positions that hold a sampled token. Values elsewhere do not matter."""
    description: Tensor
    """bool: positions of the description."""


def token_certainty(signals: TokenSignals) -> Tensor:
    """Compute the visual certainty of each token relative to its reply, S(t), as a number from 0 to 1.

    It is the sigmoid of the z-score of log KL - log entropy over all tokens of the reply, with the sample's standard
    deviation. A reply of one token, or of equal ones, has 0.5: no token stands out. (In the published code the
    deviation of a single token is not a number.)

    Returns:
        float32 (B, T); 0.5 outside the mask.
    """
    mask = signals.mask.bool()
    scores = torch.where(mask, visual_certainty(signals.kl, signals.entropy), 0.0).double()
    number = mask.sum(-1, keepdim=True)
    mean = scores.sum(-1, keepdim=True) / number.clamp(min=1)
    deviation = torch.where(mask, scores - mean, 0.0)
    std = (deviation.square().sum(-1, keepdim=True) / (number - 1).clamp(min=1)).sqrt()
    return torch.where(std < SMALLEST_STD, 0.0, deviation / std.clamp(min=SMALLEST_STD)).sigmoid().float()


def token_weights(advantages: Tensor, signals: TokenSignals, strength: float = 0.1) -> Tensor:
    """Compute the factors of token-level advantage reweighting: 1 + λ (1 - 2 S(t)).

    In a reply that turned out badly, words of the description that rest on the image are blamed less, and words that
    were made up are blamed more.

    Args:
        advantages: (B, T) or, one per reply, (B, 1).
        strength: λ; the factors lie in 1 - λ .. 1 + λ.

    Returns:
        float32 (B, T); 1 for tokens outside the description and where the advantage is not negative.
    """
    weights = 1.0 + strength * (1.0 - 2.0 * token_certainty(signals))
    return torch.where(signals.description.bool() & (advantages < 0), weights, 1.0)


def top_tokens(kl: Tensor, mask: Tensor, share: float) -> Tensor:
    """Choose the tokens of highest KL of each reply: the smallest whole number that is at least ``share`` of them.

    Args:
        kl: (B, T) nats; values outside the mask do not matter.
        mask: (B, T) bool or 0/1, positions that hold a sampled token.
        share: above 0 and at most 1. Of tokens with equal KL, the first are chosen.

    Returns:
        bool (B, T).
    """
    mask = mask.bool()
    # 0.07 * 100 is a little more than 7 in floating point, and must not choose an eighth token
    number = torch.ceil(mask.sum(-1, keepdim=True).double() * share - 1e-9)
    order = torch.where(mask, kl.float(), -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return (order.argsort(dim=-1) < number) & mask


def top_token_weights(kl: Tensor, mask: Tensor, share: float) -> Tensor:
    """Compute factors that restrict a token-averaged policy loss to the top tokens of the micro-batch.

    The factor is 0 for the other tokens and n / n_chosen for these. So the mean over all n tokens (``loss_type dapo``)
    becomes the mean over the chosen ones, which is the published code's loss. Arguments as of :func:`top_tokens`.

    Returns:
        float32 (B, T); 1 everywhere for ``share`` 1.
    """
    if share == 1:
        return torch.ones_like(kl, dtype=torch.float32)
    chosen = top_tokens(kl, mask, share)
    return chosen.float() * (mask.bool().sum() / chosen.sum().clamp(min=1))
