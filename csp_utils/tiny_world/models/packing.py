"""Pack many questions about one image into one sequence, for training the tiny VLM.

All questions share one computation of the prompt's start and of the image. A block mask lets each question attend to
these and to itself, but not to other questions; its positions are those that it would have alone. The loss is that of
separate conversations, at a third of the cost. A test compares both.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from csp_utils.tiny_world.models.vlm import SYSTEM

IMAGE_TOKENS = 16
"""4 x 4 merged tokens for a scene of 112 x 112 pixels."""

Texts = list[tuple[str, str]]
"""Pairs of user text and assistant text about one image."""


@dataclass
class Packed:
    """A batch of B images with their questions, padded to length L."""

    ids: np.ndarray
    """int64 (B, L)"""
    labels: np.ndarray
    """int64 (B, L): the id to predict *at* this position (already shifted), or -100 for none."""
    positions: np.ndarray
    """int64 (3, B, L): Qwen2-VL's temporal, height and width positions."""
    block: np.ndarray
    """int64 (B, L): 0 for the shared start, 1, 2, ... for the questions, -1 for padding."""


class Packer:
    """Turn texts into :class:`Packed` batches with the tokenizer of :mod:`csp_utils.tiny_world.models.vlm`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._ids = cache(lambda text: tokenizer(text, add_special_tokens=False)["input_ids"])
        image = "<|vision_start|>" + "<|image_pad|>" * IMAGE_TOKENS + "<|vision_end|>"
        self.prefix = self._ids(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{image}")
        self.image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.start = self.prefix.index(self.image_id)
        grid = int(IMAGE_TOKENS**0.5)
        head = np.arange(self.start)
        rows, cols = np.divmod(np.arange(IMAGE_TOKENS), grid)
        tail = np.arange(len(self.prefix) - self.start - IMAGE_TOKENS) + self.start + grid
        self.prefix_positions = np.stack(
            [np.concatenate([head, self.start + part, tail]) for part in (np.zeros(IMAGE_TOKENS, int), rows, cols)]
        )
        self.next_position = int(self.prefix_positions.max()) + 1

    def pack(self, batch: list[Texts], only: frozenset[int] | None = None) -> Packed:
        """Pack the texts about each image into a row.

        Args:
            only: ids that can be labels (None: all ids of the assistant texts).
        """
        rows = []
        for texts in batch:
            ids, labels, block = list(self.prefix), [-100] * len(self.prefix), [0] * len(self.prefix)
            positions = [self.prefix_positions]
            for k, (user, assistant) in enumerate(texts, start=1):
                question = self._ids(f"{user}<|im_end|>\n<|im_start|>assistant\n")
                answer = self._ids(f"{assistant}<|im_end|>")
                tokens = question + answer[:-1]
                ids += tokens
                labels += [-100] * (len(question) - 1) + [t if only is None or t in only else -100 for t in answer]
                block += [k] * len(tokens)
                positions.append(np.tile(np.arange(len(tokens)) + self.next_position, (3, 1)))
            rows.append((ids, labels, block, np.concatenate(positions, axis=1)))
        b, length = len(rows), max(len(r[0]) for r in rows)
        out = Packed(
            np.zeros((b, length), np.int64), np.full((b, length), -100), np.zeros((3, b, length), np.int64),
            np.full((b, length), -1),
        )  # fmt: skip
        for i, (ids, labels, block, positions) in enumerate(rows):
            n = len(ids)
            out.ids[i, :n], out.labels[i, :n], out.block[i, :n], out.positions[:, i, :n] = ids, labels, block, positions
        return out


def block_mask(block: torch.Tensor) -> torch.Tensor:
    """Make the additive attention mask, float32 (B, 1, L, L), of ``block`` (B, L): causal, own block and start only."""
    length = block.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = (block[:, :, None] == block[:, None, :]) | (block[:, None, :] == 0)
    allowed = same & causal
    allowed |= torch.eye(length, dtype=torch.bool)  # padding attends to itself, so that no row is empty
    return torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[:, None]
