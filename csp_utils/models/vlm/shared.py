"""The fast engine: the image, and whatever else prompts have in common at their beginning, is computed once.

All prompts about an image are one tree of tokens (:mod:`csp_utils.models.vlm.token_tree`), read in one pass; replies and the
answers to be scored grow on it as further branches, over the same cache. Every token stands at the position, and sees
the tokens, that it would have in a sequence of its own, so that the numbers are those of the plain engine but for
rounding.

Families of the Qwen2-VL kind, whose positions and cache are known here; the others go the plain way.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np

from csp_utils.data.views import open_shown, shown_area
from csp_utils.models.vlm.plain import first_probabilities
from csp_utils.models.vlm.reply import Draw, Prompt, Reply
from csp_utils.models.vlm.token_tree import TokenTree, sequence_log_probabilities, token_tree

ANSWER_NODES = 1024
"""Tokens of answers that are scored in one pass; more need more memory for their attention mask and logits."""


def why_not_shared(model: Any) -> str | None:
    """Why ``model`` cannot be asked in this way; None if it can."""
    config = model.config.get_text_config()
    attention = getattr(config, "_attn_implementation", None)
    if model.config.model_type not in ("qwen2_vl", "qwen2_5_vl"):
        return f"models of type {model.config.model_type} are not supported"
    if attention not in ("sdpa", "eager"):
        return f"its attention, {attention}, takes no tree mask"
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", [])):
        return "it has layers with a sliding window"
    return None


@dataclass
class _Row:
    """The prompts about one image."""

    tree: TokenTree
    positions: np.ndarray
    """int64 (3, N): Qwen2-VL's temporal, height and width positions."""
    pixels: Any
    grid: Any


@dataclass
class _Branch:
    """A reply in the making: where it grows, and what was said so far."""

    prompt: int
    row: int
    seen: np.ndarray
    """int64: the cache columns of its last token and of all before it."""
    position: int
    """Of its last token; text has one position on all three axes."""
    draw: Draw | None = None
    tokens: list[int] = field(default_factory=list)


class SharedEngine:
    """Asks all prompts about an image together. The arguments are :class:`csp_utils.models.vlm.plain.PlainEngine`'s."""

    def __init__(self, model: Any, template: Any, ends: list[int], first_tokens: dict[str, list[int]]):
        self.model, self.template, self._ends, self._first_tokens = model, template, ends, first_tokens
        whole = model.get_base_model() if hasattr(model, "get_base_model") else model  # LoRA's layers are inside it
        self._body, self._head = whole.model, whole.get_output_embeddings()
        # What the template writes after a question. It is checked against the template itself for every image.
        self._after = template.template_meta.prompt[-1].partition("{{QUERY}}")[2]
        self._answer_tree = lru_cache(8)(self._tree_of_answers)

    def batches(self, prompts: Sequence[Prompt], batch_size: int) -> list[list[int]]:
        """Which prompts share a batch: those about one image, ``batch_size`` at most, and more images if they fit."""
        area = {prompt.image: shown_area(prompt.image) for prompt in prompts}
        order = sorted(range(len(prompts)), key=lambda i: (area[prompts[i].image], str(prompts[i].image), i))
        batches: list[list[int]] = []
        for _, group in groupby(order, key=lambda i: prompts[i].image):
            about = list(group)
            for at in range(0, len(about), batch_size):
                row = about[at : at + batch_size]
                if batches and len(batches[-1]) + len(row) <= batch_size:
                    batches[-1] += row
                else:
                    batches.append(row)
        return batches

    def encode(self, prompts: Sequence[Prompt]) -> list[_Row]:
        """One row for each image, in the order of ``prompts`` (those about one image stand together)."""
        return [self._row(list(group)) for _, group in groupby(prompts, key=lambda prompt: prompt.image)]

    def _row(self, prompts: list[Prompt]) -> _Row:
        first = {"messages": [{"role": "user", "content": f"<image>{prompts[0].text}"}],
                 "images": [open_shown(prompts[0].image)]}
        encoded = self.template.encode(first)
        ids = encoded["input_ids"]
        after_image = len(ids) - ids[::-1].index(self.template.image_token_id) + 1  # past the end-of-vision token
        texts = [prompt.text + self._after for prompt in prompts]
        tails = self.template.tokenizer(texts, add_special_tokens=False)["input_ids"]
        if ids[after_image:] != tails[0]:
            raise RuntimeError("this template does not write a question as the shared engine does; use engine: plain")
        tree = token_tree([ids[:after_image] + tail for tail in tails])
        return _Row(tree, self._positions(tree, ids, encoded["image_grid_thw"]), encoded["pixel_values"],
                    encoded["image_grid_thw"])

    def _positions(self, tree: TokenTree, ids: list[int], grid: Any) -> np.ndarray:
        """int64 (3, N): the model's own for the first prompt (``ids``); every other token follows the one before."""
        import torch

        own = self._body.get_rope_index(torch.tensor([ids]), image_grid_thw=grid)[0][:, 0].numpy()
        positions = np.empty((3, len(tree.tokens)), dtype=np.int64)
        positions[:, : len(ids)] = own  # the first sequence's nodes come first
        for node in range(len(ids), len(tree.tokens)):
            positions[:, node] = positions[:, tree.parents[node]] + 1
        return positions

    def reply(self, rows: list[_Row], prompts: Sequence[Prompt], max_new_tokens: int, temperature: float
              ) -> list[Reply]:
        """The replies to one batch."""
        import torch
        from transformers import DynamicCache

        with torch.inference_mode():
            cache = DynamicCache()
            leaves, logits = self._read(cache, rows, prompts)
            first = first_probabilities(logits, self._first_tokens)
            answers = self._score(cache, leaves, logits, prompts, len(rows))
            branches, starts = [], []
            for i, leaf in enumerate(leaves):
                for draw in (None, *(Draw(seed, temperature) for seed in prompts[i].seeds)):
                    branches.append(_Branch(i, leaf.row, leaf.seen, leaf.position, draw))
                    starts.append(i)
            self._decode(cache, branches, logits[starts], max_new_tokens, len(rows))
        said: list[list[str]] = [[] for _ in prompts]
        for branch in branches:
            said[branch.prompt].append(self.template.decode_generate_ids(branch.tokens))
        return [Reply(said[i][0], first[i], answers[i], tuple(said[i][1:])) for i in range(len(prompts))]

    def _read(self, cache: Any, rows: list[_Row], prompts: Sequence[Prompt]) -> tuple[list[_Branch], Any]:
        """Reads the prompts: where the reply to each begins, and float32 logits (P, V) of its first token."""
        import torch

        width = max(len(row.tree.tokens) for row in rows)
        tokens = np.full((len(rows), width), self.template.tokenizer.pad_token_id)
        positions = np.zeros((3, len(rows), width), dtype=np.int64)
        seen = np.tile(np.eye(width, dtype=bool), (len(rows), 1, 1))  # padding sees itself: no row may be empty
        leaves = []
        for at, row in enumerate(rows):
            n = len(row.tree.tokens)
            tokens[at, :n], positions[:, at, :n] = row.tree.tokens, row.positions
            seen[at, :n, :n] = row.tree.ancestors()
            leaves += [_Branch(len(leaves) + i, at, np.flatnonzero(seen[at, end]), int(row.positions[:, end].max()))
                       for i, end in enumerate(row.tree.ends)]
        device = self.model.device
        images = {"pixel_values": torch.cat([row.pixels for row in rows]).to(device),
                  "image_grid_thw": torch.cat([row.grid for row in rows]).to(device)}
        hidden = self._forward(cache, tokens, positions, seen, **images)
        ends = np.concatenate([row.tree.ends for row in rows])
        return leaves, self._head(hidden[[leaf.row for leaf in leaves], ends]).float()

    def _extend(self, cache: Any, grown: list[tuple[_Branch, TokenTree]], n_rows: int) -> tuple[Any, list[np.ndarray]]:
        """Reads a tree of further tokens behind each branch.

        Returns:
            the hidden states (nodes of all trees, width), and the cache columns of each tree's nodes.
        """
        length = cache.get_seq_length()
        used, places = [0] * n_rows, []
        for branch, tree in grown:
            places.append(used[branch.row] + np.arange(len(tree.tokens)))
            used[branch.row] += len(tree.tokens)
        width = max(used)
        tokens = np.full((n_rows, width), self.template.tokenizer.pad_token_id)
        positions = np.zeros((n_rows, width), dtype=np.int64)
        seen = np.zeros((n_rows, width, length + width), dtype=bool)
        seen[:, np.arange(width), length + np.arange(width)] = True
        for (branch, tree), place in zip(grown, places, strict=True):
            row, own = branch.row, slice(place[0], place[-1] + 1)
            tokens[row, own], positions[row, own] = tree.tokens, branch.position + 1 + tree.depths
            seen[row, own, length + place[0] : length + place[-1] + 1] = tree.ancestors()
            seen[row, own][:, branch.seen] = True
        hidden = self._forward(cache, tokens, np.stack([positions] * 3), seen)
        where = np.concatenate([[branch.row] * len(tree.tokens) for branch, tree in grown])
        return hidden[where, np.concatenate(places)], [length + place for place in places]

    def _score(self, cache: Any, leaves: list[_Branch], logits: Any, prompts: Sequence[Prompt], n_rows: int
               ) -> list[tuple[float, ...]]:
        """Probability of each answer of each prompt: of its tokens, and of the reply's end behind them."""
        import torch

        trees = {i: self._answer_tree(prompt.answers) for i, prompt in enumerate(prompts) if prompt.answers}
        turn: dict[int, int] = {}  # the prompts of different rows by turns, so that passes are wide in every row
        rank = {}
        for i in trees:
            rank[i] = turn[leaves[i].row] = turn.get(leaves[i].row, 0) + 1
        chunks: list[list[int]] = []
        size = ANSWER_NODES
        for i in sorted(trees, key=lambda i: (rank[i], i)):
            if size + len(trees[i].tokens) > ANSWER_NODES:
                chunks.append([])
                size = 0
            chunks[-1].append(i)
            size += len(trees[i].tokens)
        found: list[tuple[float, ...]] = [()] * len(prompts)
        length = cache.get_seq_length()
        for chunk in chunks:
            hidden, columns = self._extend(cache, [(leaves[i], trees[i]) for i in chunk], n_rows)
            cache.crop(length)  # nothing grows on the answers
            at = 0
            for i, own in zip(chunk, columns, strict=True):
                tree, states = trees[i], hidden[at : at + len(own)]
                at += len(own)
                log = torch.log_softmax(torch.cat([logits[i : i + 1], self._head(states).float()]), dim=-1)
                said = log[torch.as_tensor(tree.parents + 1), torch.as_tensor(tree.tokens)].double().cpu().numpy()
                ended = log[torch.as_tensor(tree.ends + 1)][:, self._ends].logsumexp(-1).double().cpu().numpy()
                found[i] = tuple(np.exp(sequence_log_probabilities(tree, said) + ended).tolist())
        return found

    def _decode(self, cache: Any, branches: list[_Branch], logits: Any, max_new_tokens: int, n_rows: int) -> None:
        """Lets each branch grow until it has ended or has ``max_new_tokens`` tokens; ``logits`` are float32 (B, V)."""
        growing = branches
        for step in range(1, max_new_tokens + 1):
            likeliest = logits.argmax(-1).tolist()
            going_on = []
            for i, branch in enumerate(growing):
                token = likeliest[i] if branch.draw is None else branch.draw.token(logits[i])
                if token not in self._ends:
                    branch.tokens.append(token)
                    going_on.append(branch)
            growing = going_on
            if not growing or step == max_new_tokens:
                return
            grown = [(branch, token_tree([branch.tokens[-1:]])) for branch in growing]
            hidden, columns = self._extend(cache, grown, n_rows)
            for branch, own in zip(growing, columns, strict=True):
                branch.seen, branch.position = np.append(branch.seen, own), branch.position + 1
            logits = self._head(hidden).float()

    def _forward(self, cache: Any, tokens: np.ndarray, positions: np.ndarray, seen: np.ndarray, **images: Any) -> Any:
        """Hidden states (rows, width, hidden size) of ``tokens`` (rows, width); ``cache`` grows by them.

        Args:
            positions: int64 (3, rows, width).
            seen: bool (rows, width, cached + width): the tree attention mask.
        """
        import torch

        device, dtype = self.model.device, self.model.dtype
        hides = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=device)
        mask = torch.where(torch.from_numpy(seen).to(device), torch.zeros_like(hides), hides)[:, None]
        out = self._body(
            input_ids=torch.from_numpy(tokens).to(device), position_ids=torch.from_numpy(positions).to(device),
            attention_mask=mask, past_key_values=cache, use_cache=True, **images,
        )  # fmt: skip
        return out.last_hidden_state

    def _tree_of_answers(self, answers: tuple[str, ...]) -> TokenTree:
        """The answers as the tokenizer writes them; ms-swift's templates tokenize a reply by itself, too."""
        return token_tree(self.template.tokenizer(list(answers), add_special_tokens=False)["input_ids"])
