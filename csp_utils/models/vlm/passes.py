"""Reading a batch token by token by calls of the model alone, for models that transformers' ``generate`` cannot drive.

Such a model still keeps keys and values as it was written to, in tuples: they are handed back to it, so that a token
costs one position and not the whole text. Whether that works is tried on the first batch, against the model reading all
of the text anew; if it does not, that is said, and all of the text is read for every token.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from csp_utils.base.errors import first_line
from csp_utils.models.vlm.reply import TOLERANCE

if TYPE_CHECKING:
    import torch


class Cache:
    """What is known of a model's cache.

    Attributes:
        works: None as long as it has not been tried.
    """

    def __init__(self) -> None:
        self.works: bool | None = None

    def refuse(self, why: str) -> None:
        """Says why it is not used."""
        self.works = False
        print(f"The model's own cache is not used ({why}): all of a text is read anew for every token.")


class Passes:
    """The passes over one batch.

    Args:
        model: transformers'.
        inputs: makes what ``model`` takes of encoded rows, padded on the left.
        rows: as ms-swift encodes them, with input_ids.
        cache: the model's, for all of its batches.
    """

    def __init__(self, model: Any, inputs: Callable[[list[dict]], dict[str, Any]], rows: list[dict], cache: Cache):
        self._model, self._inputs, self._cache = model, inputs, cache
        self._rows = [dict(row) for row in rows]
        self._past: tuple | None = None
        self._mask: torch.Tensor | None = None

    def start(self) -> "torch.Tensor":
        """Logits (B, V) of the first token of each reply."""
        inputs = self._inputs(self._rows)
        if self._cache.works is not False and (out := self._tried(**inputs)) is not None:
            past = getattr(out, "past_key_values", None)
            if isinstance(past, tuple) and past:
                self._past, self._mask = past, inputs["attention_mask"]
            else:
                self._cache.refuse("it gives none that can be handed back")
            return out.logits[:, -1]
        return self._model(**inputs, use_cache=False).logits[:, -1]

    def go_on(self, tokens: Mapping[int, int]) -> "torch.Tensor":
        """Logits (B, V) of the next token; those of rows that are not among ``tokens``, by row, mean nothing."""
        for row, token in tokens.items():
            self._rows[row]["input_ids"] = self._rows[row]["input_ids"] + [token]
        step = None if self._past is None else self._step(tokens)
        if step is not None and self._cache.works is None:
            step = self._compared(step, self._whole(tokens), list(tokens))
        return self._whole(tokens) if step is None else step

    def _tried(self, **inputs: Any) -> Any:
        """What the model gives with its cache; None if it cannot, before anything is known of it."""
        import torch

        try:
            return self._model(**inputs, use_cache=True)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:  # of code written for others
            if self._cache.works or isinstance(error, torch.OutOfMemoryError):
                raise
            self._cache.refuse(first_line(error))
            return None

    def _step(self, tokens: Mapping[int, int]) -> "torch.Tensor | None":
        import torch

        ended = next(iter(tokens.values()))  # any token will do for rows that have ended: nobody looks at them
        new = [[tokens.get(row, ended)] for row in range(len(self._rows))]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(new), 1)], dim=1)
        out = self._tried(input_ids=torch.tensor(new, device=self._mask.device), attention_mask=self._mask,
                          past_key_values=self._past)  # fmt: skip
        self._past = out and out.past_key_values
        return out and out.logits[:, -1]

    def _whole(self, tokens: Mapping[int, int]) -> "torch.Tensor":
        rows = list(tokens)
        logits = self._model(**self._inputs([self._rows[row] for row in rows]), use_cache=False).logits[:, -1]
        every = logits.new_zeros(len(self._rows), logits.shape[-1])
        every[rows] = logits
        return every

    def _compared(self, step: "torch.Tensor", whole: "torch.Tensor", rows: list[int]) -> "torch.Tensor":
        """``step`` if it agrees with ``whole``, else that; remembers which."""
        one, other = (logits[rows].float().softmax(-1) for logits in (step, whole))
        far = (one - other).abs().max().item()
        self._cache.works = far <= TOLERANCE[str(self._model.dtype).removeprefix("torch.")]
        if self._cache.works:
            return step
        self._cache.refuse(f"with it a probability differs by {far:.3g}")
        self._past = None
        return whole
