"""Name the key object of each question and answer with a small language model (paper, section 3.2; prompt A.1).

Any causal language model of transformers works. Prompt A.1 is the user's turn of the model's chat template, or the
whole prompt if the tokenizer has no template. We decode greedily and keep the reply up to its first line break.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from csp_utils.base.devices import pick_device
from csp_utils.base.errors import UserError, first_line
from csp_utils.base.memory import loads_once
from csp_utils.models.vlm.reply import Decoded
from csp_utils.results.stage import WHOLE, Shard
from csp_utils.words.control_tokens import control_token
from csp_utils.words.keyword import Keyword, is_foreign, read_keyword
from csp_utils.words.prompts import keyword_prompt

BENCHMARK_IMAGE = "benchmark_image"
"""Drop reason of a row with a benchmark image. It must not be trained on, so the model gets no prompt about it."""

MEDIA_TAG = "media_tag"
"""Drop reason of a row whose question or an answer says a control token: ms-swift reads <image> as a file, for one."""

COLUMNS = ["row_id", "image_path", "question", "answer", "image_sha1", "in_benchmark", "keyword", "raw", "drop_reason",
           "foreign"]  # fmt: skip
SCHEMA = pa.schema([(name, pa.bool_() if name in ("in_benchmark", "foreign") else pa.string()) for name in COLUMNS])


class KeywordModel:
    """A causal language model that replies to prompt A.1.

    Args:
        folder: local folder or id on the Hugging Face hub.
        device: auto, cpu, cuda or cuda:N.
        max_new_tokens: token budget of a reply.
        dtype: float32, bfloat16 or float16. In float32 the keywords do not depend on the batch size. The shorter
            formats round differently in each batch, which can decide between two nearly equal tokens.

    Raises:
        UserError: there is no such model, or no such device.
    """

    def __init__(
        self, folder: str | Path, device: str = "auto", max_new_tokens: int = 8, dtype: str = "float32"
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.device = pick_device(device)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
            self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        except (OSError, ValueError) as error:
            reason = first_line(error)
            raise UserError(f"keyword_model {folder} cannot be loaded as a causal language model ({reason}); give a "
                            "folder that holds one or an id on the Hugging Face hub.") from error
        if self.tokenizer.pad_token_id is None:  # any token works: the attention mask hides it
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.to(self.device).eval()
        self.max_new_tokens = max_new_tokens
        ends = self.model.generation_config.eos_token_id
        self._ends = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

    def prompt(self, question: str, answer: str) -> str:
        """Build the whole prompt: prompt A.1, in the tokenizer's chat template if it has one, not thinking.

        Raises UserError if the question or the answer is blank.
        """
        if not question.strip():
            raise UserError(f"The answer {answer!r} has no question; write one.")
        if not answer.strip():
            raise UserError(f"The question {question!r} has no answer; write one.")
        text = keyword_prompt(question, answer)
        if self.tokenizer.chat_template is None:
            return text
        turn = [{"role": "user", "content": text}]
        return self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True,
                                                  enable_thinking=False)  # fmt: skip

    def answer(self, prompts: Sequence[str], batch_size: int = 32, shard: Shard = WHOLE) -> Iterator[Decoded]:
        """Yield the greedy reply to each prompt, up to its first line break, in the order of ``prompts``.

        The common prefix of all prompts (most of prompt A.1) is computed once, and every batch starts from a copy of
        its key/value cache. Padding comes after this prefix, on the left of the rest.

        Args:
            shard: yield only the replies of this shard's batches. Batches are the same for any number of shards.
        """
        chat = self.tokenizer.chat_template is not None  # a chat template includes the special tokens
        encoded = self.tokenizer(list(prompts), add_special_tokens=not chat)["input_ids"]
        first, last = min(encoded), max(encoded)  # the prefix of these two is common to all; at least one token remains
        most = min(len(ids) for ids in encoded) - 1
        shared = next((i for i in range(most) if first[i] != last[i]), most)
        cache = self._cache(first[:shared])
        for start in shard.share(range(0, len(encoded), batch_size)):
            yield from self._answer_batch(encoded[start : start + batch_size], shared, cache)

    def _cache(self, ids: list[int]) -> Any:
        """Compute the key/value cache of the common prefix (batch of one); None for an empty prefix."""
        import torch

        if not ids:
            return None
        with torch.inference_mode():
            return self.model(torch.tensor([ids], device=self.device), use_cache=True, logits_to_keep=1).past_key_values

    def _answer_batch(self, encoded: list[list[int]], shared: int, cache: Any) -> list[Decoded]:
        """Decode one batch; the first ``shared`` tokens of each prompt are in ``cache``."""
        import torch
        from transformers import StoppingCriteriaList

        width = max(len(ids) for ids in encoded)
        pads = [width - len(ids) for ids in encoded]
        pad = self.tokenizer.pad_token_id
        rows = [ids[:shared] + [pad] * n + ids[shared:] for ids, n in zip(encoded, pads, strict=True)]
        mask = [[1] * shared + [0] * n + [1] * (width - shared - n) for n in pads]
        if cache is not None:
            cache = copy.deepcopy(cache)  # generate() writes into it
            cache.batch_repeat_interleave(len(encoded))
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=torch.tensor(rows, device=self.device), attention_mask=torch.tensor(mask, device=self.device),
                past_key_values=cache, max_new_tokens=self.max_new_tokens, do_sample=False, temperature=None,
                top_p=None, top_k=None, repetition_penalty=1.0, pad_token_id=pad,
                stopping_criteria=StoppingCriteriaList([self._line_end(width)]),
            )
        tokens = out[:, width:].tolist()
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [Decoded(self._first_line(text), "\n" in text.lstrip() or bool(self._ends.intersection(row)))
                for text, row in zip(texts, tokens, strict=True)]  # fmt: skip

    @staticmethod
    def _first_line(text: str) -> str:
        """Return the first line of ``text`` that is not blank."""
        return text.strip().split("\n")[0].strip()

    def _line_end(self, start: int) -> Callable[..., Any]:
        """Return a stopping criterion: a reply ends at a line break after its first words.

        Args:
            start: position of the first token of the replies.
        """
        import torch

        def done(ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
            words = self.tokenizer.batch_decode(ids[:, start:], skip_special_tokens=True)
            return torch.tensor(["\n" in text.lstrip() for text in words], device=ids.device)

        return done

    def extract(
        self,
        pairs: Sequence[tuple[str, str]],
        batch_size: int = 32,
        progress: Callable[[Iterable, str], Iterable] | None = None,
        shard: Shard = WHOLE,
    ) -> list[Keyword | None]:
        """Name the keyword of each (question, answer), in their order; None for the pairs of other shards.

        Prompts are sorted by length, the longest first: batches need little padding, and a batch size that needs too
        much memory fails at once.

        Args:
            progress: a progress bar, such as :func:`csp_utils.base.progress.progress`.
        """
        prompts = [self.prompt(question, answer) for question, answer in pairs]
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        answers = self.answer([prompts[i] for i in order], batch_size, shard) if prompts else iter(())
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        mine = [i for batch in shard.share(batches) for i in batch]
        found: list[Keyword | None] = [None] * len(prompts)
        for i, (raw, ended) in zip(progress(mine, "keywords") if progress else mine, answers, strict=True):
            found[i] = read_keyword(raw, ended)
        return found


def extract_keywords(
    rows: pd.DataFrame,
    model: KeywordModel,
    batch_size: int = 32,
    progress: Callable[[Iterable, str], Iterable] | None = None,
    shard: Shard = WHOLE,
) -> pd.DataFrame:
    """Return the table ``keywords.parquet``, or a shard of it: one row for each of ``rows``, in their order.

    Args:
        rows: row_id, image_path, question, answer, rejected, image_sha1 (SHA-1 of the encoded image; null without one),
            and in_benchmark (True if the image is a benchmark's; null if unknown).
        shard: the shard to compute. Rows about which nothing is asked belong to the first.

    Returns:
        data frame indexed by position: the columns of ``rows`` without rejected; keyword (None if there is none), raw
        (the model's words), drop_reason (None, "benchmark_image", "media_tag", or one of
        :data:`csp_utils.words.keyword.KEYWORD_REASONS`), all str or None; foreign (bool: the keyword is neither in the
        question nor in the answer).
    """
    table = rows[COLUMNS[:6]].reset_index(drop=True)
    reasons = pd.Series(None, table.index, dtype=object)
    texts = rows["question"] + "\n" + rows["answer"] + "\n" + rows["rejected"].fillna("")
    reasons[texts.map(control_token).notna().to_numpy()] = MEDIA_TAG
    reasons[table["in_benchmark"].eq(True).fillna(False).to_numpy(bool)] = BENCHMARK_IMAGE
    complete = table[reasons.isna()]
    pairs = list(zip(complete["question"], complete["answer"], strict=True))
    replies = model.extract(pairs, batch_size, progress, shard)
    found = {position: one for position, one in zip(complete.index, replies, strict=True) if one is not None}
    if shard.index == 0:
        found |= {position: Keyword(None, None, reason) for position, reason in reasons.dropna().items()}
    table = table.loc[sorted(found)]
    for column, name in enumerate(("keyword", "raw", "drop_reason")):
        table[name] = pd.Series([found[position][column] for position in table.index], table.index, dtype=object)
    pairs = zip(table["keyword"], table["question"], table["answer"], strict=True)
    table["foreign"] = [keyword is not None and is_foreign(keyword, *both) for keyword, *both in pairs]
    return table[COLUMNS]


@loads_once
def load_keyword_model(folder: str, device: str, max_new_tokens: int, dtype: str) -> KeywordModel:
    """Return the keyword model; the notebook's example and its stage share one in memory."""
    return KeywordModel(folder, device, max_new_tokens, dtype)
