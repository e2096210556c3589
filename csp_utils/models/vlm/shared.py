"""The shared engine, our fast one: the image and every other common prefix of prompts is computed once.

All prompts about an image form one prefix tree of tokens (:mod:`csp_utils.models.vlm.token_tree`). One prefill computes
its key/value cache; replies, and the answers to be scored, extend the tree and use the same cache. Each token has the
position, and attends to the tokens, that it would have in its own sequence, so the results equal those of the plain
engine up to rounding.

The engine supports Qwen2-VL and Qwen2.5-VL, because it must know the model's position ids and cache.
"""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np

from csp_utils.data.views import open_shown, shown_areas
from csp_utils.models.vlm.plain import first_probabilities
from csp_utils.models.vlm.refusals import check_length, fitting
from csp_utils.models.vlm.reply import Asking, Decoded, Draw, Prompt, Reply, reply_of
from csp_utils.models.vlm.token_tree import TokenTree, sequence_log_probabilities, token_tree

SUPPORTED = ("qwen2_vl", "qwen2_5_vl")
"""Model types of config.json whose position ids and cache are known here."""
ANSWER_NODES = 1024
"""Most answer tokens scored in one forward pass; it bounds the memory of the attention mask and of the logits."""


def why_not_shared(model: Any) -> str | None:
    """Return the reason why the shared engine cannot run ``model``, or None if it can."""
    config = model.config.get_text_config()
    attention = getattr(config, "_attn_implementation", None)
    if model.config.model_type not in SUPPORTED:
        return f"models of type {model.config.model_type} are not supported"
    if attention not in ("sdpa", "eager"):
        return f"its attention, {attention}, takes no tree mask"
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", [])):
        return "it has layers with a sliding window"
    return None


@dataclass
class _Row:
    """One row of a batch: the prefix tree of all prompts about one image, and the image."""

    tree: TokenTree
    positions: np.ndarray
    """int64 (3, N): Qwen2-VL's temporal, height and width position of each node."""
    pixels: Any
    """Patches of the image, as Qwen2-VL's processor returns pixel_values."""
    grid: Any
    """Number of patches in time, height and width, as the processor returns image_grid_thw."""


@dataclass
class _Branch:
    """An unfinished reply: its place in the cache, and its tokens so far."""

    prompt: int
    """Index of its prompt in the batch."""
    row: int
    """Index of its row in the batch."""
    seen: np.ndarray
    """int64: cache columns of its last token and of all tokens before it."""
    position: int
    """Position id of its last token; text has the same position on all three axes."""
    draw: Draw | None = None
    """Its random numbers; None for the greedy reply."""
    tokens: list[int] = field(default_factory=list)
    """The reply's tokens so far."""
    ended: bool = False
    """Whether a token has ended the reply."""


class SharedEngine:
    """Runs all prompts about an image together. Arguments as for :class:`csp_utils.models.vlm.plain.PlainEngine`."""

    def __init__(self, model: Any, template: Any, ends: list[int], first_tokens: dict[str, list[int]],
                 lock: AbstractContextManager | None = None):
        self.model, self.template, self._ends, self._first_tokens = model, template, ends, first_tokens
        whole = model.get_base_model() if hasattr(model, "get_base_model") else model  # without the LoRA wrapper
        self._body, self._head = whole.model, whole.get_output_embeddings()
        # The template's text after a question. _row checks it against the template's own encoding for every image.
        self._after = template.template_meta.prompt[-1].partition("{{QUERY}}")[2]
        self._answer_tree = lru_cache(8)(self._tree_of_answers)
        self._lock = lock or threading.Lock()

    def batches(self, prompts: Sequence[Prompt], batch_size: int) -> list[list[int]]:
        """Divide prompts (by index) into batches: all about one image together, and several images if they fit."""
        area = shown_areas(prompt.image for prompt in prompts)
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
        """Encode one row per image, in the order of ``prompts``, in which prompts about one image are neighbours."""
        return [self._row(list(group)) for _, group in groupby(prompts, key=lambda prompt: prompt.image)]

    def _row(self, prompts: list[Prompt]) -> _Row:
        """Encode the prompts about one image. Raises RuntimeError if the template writes a question in another way."""
        first = {"messages": [{"role": "user", "content": f"<image>{prompts[0].text}"}],
                 "images": [open_shown(prompts[0].image)]}
        with self._lock, fitting(prompts[0], self.template):
            encoded = self.template.encode(first)
        ids = encoded["input_ids"]
        after_image = len(ids) - ids[::-1].index(self.template.image_token_id) + 1  # after the end-of-vision token
        texts = [prompt.text + self._after for prompt in prompts]
        with self._lock:
            tails = self.template.tokenizer(texts, add_special_tokens=False)["input_ids"]
        if ids[after_image:] != tails[0]:
            raise RuntimeError("this template does not write a question as the shared engine does; use engine: plain")
        check_length(prompts, (after_image + len(tail) for tail in tails), self.template.max_length)
        tree = token_tree([ids[:after_image] + tail for tail in tails])
        return _Row(tree, self._positions(tree, ids, encoded["image_grid_thw"]), encoded["pixel_values"],
                    encoded["image_grid_thw"])

    def _positions(self, tree: TokenTree, ids: list[int], grid: Any) -> np.ndarray:
        """Compute the position ids, int64 (3, N).

        The model computes those of the first prompt (``ids``). Every other token is text: one more than its parent.
        """
        import torch

        own = self._body.get_rope_index(torch.tensor([ids]), image_grid_thw=grid)[0][:, 0].numpy()
        positions = np.empty((3, len(tree.tokens)), dtype=np.int64)
        positions[:, : len(ids)] = own  # token_tree numbers the first sequence's nodes first
        for node in range(len(ids), len(tree.tokens)):
            positions[:, node] = positions[:, tree.parents[node]] + 1
        return positions

    def reply(self, rows: list[_Row], prompts: Sequence[Prompt], asking: Asking) -> list[Reply]:
        """Answer one batch."""
        import torch
        from transformers import DynamicCache

        with torch.inference_mode():
            cache = DynamicCache()
            leaves, logits = self._prefill(cache, rows, prompts)
            first = first_probabilities(logits, self._first_tokens)
            answers = self._score(cache, leaves, logits, prompts, len(rows))
            branches, starts = [], []
            for i, leaf in enumerate(leaves):
                for draw in (None, *(Draw(seed, asking.temperature) for seed in prompts[i].seeds)):
                    branches.append(_Branch(i, leaf.row, leaf.seen, leaf.position, draw))
                    starts.append(i)
            self._decode(cache, branches, logits[starts], asking.max_new_tokens, len(rows))
        texts: list[list[Decoded]] = [[] for _ in prompts]
        with self._lock:
            for branch in branches:
                text = self.template.decode_generate_ids(branch.tokens)
                texts[branch.prompt].append(Decoded(text, branch.ended))
        return [reply_of(texts[i][0], first[i], answers[i], texts[i][1:]) for i in range(len(prompts))]

    def _prefill(self, cache: Any, rows: list[_Row], prompts: Sequence[Prompt]) -> tuple[list[_Branch], Any]:
        """Compute the key/value cache of all prompts in one forward pass.

        Returns:
            for each of the P prompts, the empty branch on which its reply will grow, and float32 logits (P, V) of the
            reply's first token.
        """
        import torch

        width = max(len(row.tree.tokens) for row in rows)
        tokens = np.full((len(rows), width), self.template.tokenizer.pad_token_id)
        positions = np.zeros((3, len(rows), width), dtype=np.int64)
        seen = np.tile(np.eye(width, dtype=bool), (len(rows), 1, 1))  # padding sees itself: an empty row gives NaN
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
        """Append a tree of tokens to each branch, in one forward pass. The cache grows by it.

        Returns:
            hidden states (nodes of all trees, hidden size), and the cache columns of each tree's nodes.
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
        """Compute the probability of each prompt's answers as the whole reply, its end token included."""
        import torch

        trees = {i: self._answer_tree(prompt.answers) for i, prompt in enumerate(prompts) if prompt.answers}
        turn: dict[int, int] = {}  # alternate the rows, so that each pass has work in all of them
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
            cache.crop(length)  # no reply continues an answer
            at = 0
            for i, own in zip(chunk, columns, strict=True):
                tree, states = trees[i], hidden[at : at + len(own)]
                at += len(own)
                log = torch.log_softmax(torch.cat([logits[i : i + 1], self._head(states).float()]), dim=-1)
                tokens = log[torch.as_tensor(tree.parents + 1), torch.as_tensor(tree.tokens)].double().cpu().numpy()
                ended = log[torch.as_tensor(tree.ends + 1)][:, self._ends].logsumexp(-1).double().cpu().numpy()
                found[i] = tuple(np.exp(sequence_log_probabilities(tree, tokens) + ended).tolist())
        return found

    def _decode(self, cache: Any, branches: list[_Branch], logits: Any, max_new_tokens: int, n_rows: int) -> None:
        """Decode each of the B branches until it ends or has ``max_new_tokens`` tokens.

        Args:
            logits: float32 (B, V), of each branch's first token.
        """
        growing = branches
        for step in range(1, max_new_tokens + 1):
            likeliest = logits.argmax(-1).tolist()
            going_on = []
            for i, branch in enumerate(growing):
                token = likeliest[i] if branch.draw is None else branch.draw.token(logits[i])
                branch.ended = token in self._ends
                if not branch.ended:
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
        """Run the language model on ``tokens`` (rows, width) and extend ``cache`` by them.

        Args:
            positions: position ids, int64 (3, rows, width).
            seen: tree attention mask, bool (rows, width, cached + width).

        Returns:
            hidden states (rows, width, hidden size).
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
        """Build the prefix tree of the answers, tokenized on their own, as ms-swift's templates tokenize a reply."""
        with self._lock:
            return token_tree(self.template.tokenizer(list(answers), add_special_tokens=False)["input_ids"])
