"""Token-by-token decoding without ``generate()``, for three older remote-code models.

transformers' ``generate()`` cannot drive these models. We call ``model(...)`` once per token and pass the model's own
key/value cache (tuples of tensors) back in, so that a new token costs one position and not the whole text. On the first
batch we compare a cached step with a pass over the whole text. If the two disagree, a message says so, and every later
token is computed from the whole text, without a cache.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from csp_utils.base.errors import first_line
from csp_utils.models.vlm.reply import TOLERANCE

if TYPE_CHECKING:
    import torch


class Cache:
    """Whether the key/value cache of a model works.

    Attributes:
        works: None until the first batch has tested it.
    """

    def __init__(self) -> None:
        self.works: bool | None = None

    def refuse(self, why: str) -> None:
        """Stop using the cache and print the reason."""
        self.works = False
        print(f"The model's own cache is not used ({why}): all of a text is read anew for every token.")


class Passes:
    """The forward passes over one batch.

    Args:
        model: of transformers.
        inputs: turns encoded rows into the model's arguments, with left padding.
        rows: encoded prompts of ms-swift, with input_ids.
        cache: shared by all batches of the model.
    """

    def __init__(self, model: Any, inputs: Callable[[list[dict]], dict[str, Any]], rows: list[dict], cache: Cache):
        self._model, self._inputs, self._cache = model, inputs, cache
        self._rows = [dict(row) for row in rows]
        self._past: tuple | None = None
        self._mask: torch.Tensor | None = None

    def start(self) -> "torch.Tensor":
        """Run the prefill: logits (B, V) of the first token of each reply."""
        inputs = self._inputs(self._rows)
        if self._cache.works is not False and (out := self._with_cache(**inputs)) is not None:
            past = getattr(out, "past_key_values", None)
            if isinstance(past, tuple) and past:
                self._past, self._mask = past, inputs["attention_mask"]
            else:
                self._cache.refuse("it gives none that can be handed back")
            return out.logits[:, -1]
        return self._model(**inputs, use_cache=False).logits[:, -1]

    def go_on(self, tokens: Mapping[int, int]) -> "torch.Tensor":
        """Append one token to each unfinished row and compute the logits (B, V) of the next one.

        Args:
            tokens: row index -> its last token. Rows that have ended are absent; their logits are meaningless.
        """
        for row, token in tokens.items():
            self._rows[row]["input_ids"] = self._rows[row]["input_ids"] + [token]
        step = None if self._past is None else self._step(tokens)
        if step is not None and self._cache.works is None:
            step = self._checked(step, self._whole(tokens), list(tokens))
        return self._whole(tokens) if step is None else step

    def _with_cache(self, **inputs: Any) -> Any:
        """Call the model with its cache. If an untested cache raises, refuse it and return None."""
        import torch

        try:
            return self._model(**inputs, use_cache=True)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:  # remote code raises any
            if self._cache.works or isinstance(error, torch.OutOfMemoryError):
                raise
            self._cache.refuse(first_line(error))
            return None

    def _step(self, tokens: Mapping[int, int]) -> "torch.Tensor | None":
        """Compute the next logits from the cache, one position a row; None if the cache was refused."""
        import torch

        filler = next(iter(tokens.values()))  # for rows that have ended: their logits are ignored
        new = [[tokens.get(row, filler)] for row in range(len(self._rows))]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(new), 1)], dim=1)
        out = self._with_cache(input_ids=torch.tensor(new, device=self._mask.device), attention_mask=self._mask,
                               past_key_values=self._past)  # fmt: skip
        self._past = out and out.past_key_values
        return out and out.logits[:, -1]

    def _whole(self, tokens: Mapping[int, int]) -> "torch.Tensor":
        """Compute the next logits of the unfinished rows from their whole text, without a cache."""
        rows = list(tokens)
        logits = self._model(**self._inputs([self._rows[row] for row in rows]), use_cache=False).logits[:, -1]
        every = logits.new_zeros(len(self._rows), logits.shape[-1])
        every[rows] = logits
        return every

    def _checked(self, step: "torch.Tensor", whole: "torch.Tensor", rows: list[int]) -> "torch.Tensor":
        """Compare the cached logits with those of the whole text, and remember whether the cache works.

        Returns ``step`` if the probabilities agree within :data:`TOLERANCE`, else ``whole``.
        """
        one, other = (logits[rows].float().softmax(-1) for logits in (step, whole))
        far = (one - other).abs().max().item()
        self._cache.works = far <= TOLERANCE[str(self._model.dtype).removeprefix("torch.")]
        if self._cache.works:
            return step
        self._cache.refuse(f"with it a probability differs by {far:.3g}")
        self._past = None
        return whole
