"""The engine for GPU machines: any inference engine of ms-swift, in practice vLLM.

vLLM computes with kernels and weights of its own, and keeps no reference beside it in memory; so its first questions
are compared with what the plain engine said of them before (:mod:`csp_utils.asking.variants`). It is not among this project's
packages. Three things are not those of the plain engine:

* The first token's probabilities come from its ``top_logprobs`` likeliest tokens. A candidate that is none of them gets
  0, also where the engines are compared; what it has at most is known (not more than any that was returned, nor than
  what they leave over, hence below 1 / ``top_logprobs``), and :meth:`SwiftEngine.told` counts such prompts and tells
  the largest of these bounds.
* Draws are seeded for each request and so repeatable, but they are vLLM's own, not those of
  :class:`csp_utils.models.vlm.reply.Draw`.
* There are no probabilities of whole replies, so that ``methods: expected`` is refused.
"""

import asyncio
import importlib.util
import math
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from csp_utils.base.errors import UserError, first_line
from csp_utils.data.views import open_shown
from csp_utils.models.checkpoints import adapter_base
from csp_utils.models.vlm.reply import CANDIDATES, Prompt, Reply, until

if TYPE_CHECKING:
    from swift.infer_engine import InferEngine, RequestConfig

TOP_LOGPROBS = 100
"""Log-probabilities asked for at the first token. vLLM's default bound, 20, leaves "No" out where a model is very sure
of Yes, and all such questions would have the same internal confidence, 1."""
MAX_MODEL_LEN = 16384 + 1024
"""Longest prompt and reply in tokens, for which vLLM must find memory: the largest image that Qwen2-VL does not scale
down, and a question. The models' own bounds, 32768 and more, may not fit."""
MEMORY_SHARE = 0.9
"""Part of the GPU's memory that vLLM may take; less if less is free."""


def refuse_vllm(model: str, device: str) -> None:
    """Raises UserError if vLLM cannot ask ``model`` here; nothing is loaded for it."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError("engine vllm needs the package vllm, which is not installed (it is not among this project's "
                        "packages); install it into an environment of its own, or set engine to auto.")
    if device not in ("cuda", "cuda:0"):
        raise UserError(f"engine vllm works on the first CUDA device that it sees, and device is {device!r}; set "
                        "engine to auto, or choose a GPU by CUDA_VISIBLE_DEVICES and set device to cuda.")
    if adapter_base(model) is not None:
        raise UserError(f"engine vllm is not offered for LoRA adapters, and {model} is one; merge it into its model "
                        "(swift export --merge_lora true), or set engine to auto.")


def refuse_answers(prompts: Iterable[Prompt]) -> None:
    """Raises UserError if the probability of a whole reply is wanted."""
    if any(prompt.answers for prompt in prompts):
        raise UserError("engine vllm gives no probabilities of whole replies, which methods: expected needs; set "
                        "engine to auto, shared or plain, or leave expected out.")


def engine_arguments(template: Any, batch_size: int) -> dict[str, Any]:
    """The arguments of ms-swift's VllmEngine beside the model.

    Args:
        template: ms-swift's; its processor knows the folder, the weights' type and the longest sequence.
        batch_size: requests that vLLM works on at a time.
    """
    import torch

    info = template.processor.model_info
    free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (1, 1)
    return {
        "template": template, "torch_dtype": info.torch_dtype, "use_hf": True,
        "use_async_engine": True,  # the other one takes one seed for a whole batch
        "gpu_memory_utilization": round(min(MEMORY_SHARE, 0.95 * free / total), 3),
        "max_model_len": min(info.max_model_len or MAX_MODEL_LEN, MAX_MODEL_LEN), "max_num_seqs": batch_size,
        "limit_mm_per_prompt": {"image": 1, "video": 0}, "seed": 0,
        "logprobs_mode": "raw_logprobs",  # before the temperature, as the plain engine's
        "engine_kwargs": {"max_logprobs": TOP_LOGPROBS},
    }  # fmt: skip


def vllm_engine(model: str, template: Any, batch_size: int) -> "InferEngine":
    """Loads a model folder or hub id into vLLM. Raises UserError if vLLM cannot."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would tell its makers that it was started
    try:
        from swift.infer_engine import VllmEngine

        # Made where an event loop runs, as in a notebook's cell, it would wait for the loop, and the loop for the cell.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(VllmEngine, model, **engine_arguments(template, batch_size)).result()
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        reason = first_line(error)
        raise UserError(f"vLLM cannot load {model} ({reason}); set engine to auto, or check the model and the GPU's "
                        "free memory.") from error


class SwiftEngine:
    """Asks through an engine of ms-swift, which forms its own batches.

    Args:
        engine: ms-swift's; it is this one's alone from now on.
        ends: tokens that end a reply.
        first_tokens: of each candidate, as :func:`csp_utils.models.vlm.load.candidate_tokens` returns them.
        top_logprobs: log-probabilities asked for at the first token; not more than ``engine`` gives.
        seeded: whether ``engine`` heeds a request's seed (vLLM does, ms-swift's TransformersEngine does not).
    """

    def __init__(self, engine: "InferEngine", ends: list[int], first_tokens: dict[str, list[int]],
                 top_logprobs: int, seeded: bool):
        self.engine, self.template = engine, engine.template
        self._ends, self._first_tokens = ends, first_tokens
        self._top_logprobs, self._seeded = top_logprobs, seeded
        # ms-swift names the returned tokens by their text, which several tokens may share; numbers are needed here.
        engine._get_logprobs = _first_logprobs
        self._outside, self._at_most = 0, 0.0
        # vLLM stays with the event loop that first asked it; a notebook's own is busy with the cell.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="SwiftEngine", daemon=True)
        self._thread.start()

    def batches(self, prompts: Sequence[Prompt], batch_size: int) -> list[list[int]]:
        """Which prompts are under way together. Those about one image follow each other: vLLM remembers beginnings."""
        order = sorted(range(len(prompts)), key=lambda i: (str(prompts[i].image), i))
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def encode(self, prompts: Sequence[Prompt]) -> list[Any]:
        """Each prompt as an InferRequest, with its picture."""
        from swift.infer_engine import InferRequest

        picture = lru_cache(open_shown)
        requests = []
        for prompt in prompts:
            images = [image for image in [picture(prompt.image)] if image is not None]
            content = "<image>" * len(images) + prompt.text
            requests.append(InferRequest(messages=[{"role": "user", "content": content}], images=images))
        return requests

    def reply(self, encoded: list[Any], prompts: Sequence[Prompt], max_new_tokens: int, temperature: float
              ) -> list[Reply]:
        """The replies to one batch. Raises UserError if the engine cannot give what is asked of it."""
        refuse_answers(prompts)
        draws = [(i, seed) for i, prompt in enumerate(prompts) for seed in prompt.seeds]
        if draws and not self._seeded:
            raise UserError("this engine of ms-swift takes no seed for a request; set engine to auto, shared or plain.")
        greedy = self._config(max_new_tokens, 0.0, logprobs=True, top_logprobs=self._top_logprobs)
        choices = self._infer([(request, greedy) for request in encoded])
        # After the others, not among them: vLLM on a processor heeds seeds only if every request that is under way has
        # one. A seed of 31 bits, because not every random generator takes more.
        drawn = self._infer([(encoded[i], self._config(max_new_tokens, temperature, seed=seed % 2**31))
                             for i, seed in draws])
        samples: list[list[str]] = [[] for _ in prompts]
        for (i, _), choice in zip(draws, drawn, strict=True):
            samples[i].append(self._text(choice))
        return [Reply(self._text(choices[i]), self._first(choices[i].logprobs, prompt), (), tuple(samples[i]))
                for i, prompt in enumerate(prompts)]

    def told(self) -> dict[str, Any]:
        """What the record should hold of the prompts since the last call, and the version of vLLM."""
        found = {"top_logprobs": self._top_logprobs, "prompts_with_a_candidate_outside": self._outside,
                 "probability_outside_at_most": self._at_most,
                 "vllm": getattr(sys.modules.get("vllm"), "__version__", None)}
        self._outside, self._at_most = 0, 0.0
        return found

    def close(self) -> None:
        """Ends the engine's processes and gives the GPU's memory back."""
        shutdown = getattr(self.engine.engine, "shutdown", None)  # vLLM has it, a transformers model does not
        if shutdown is not None:
            shutdown()

        async def rest() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(rest(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.engine = None

    def _config(self, max_tokens: int, temperature: float, **wanted: Any) -> "RequestConfig":
        """All that a model's generation_config.json could change is said: the plain engine heeds none of it."""
        from swift.infer_engine import RequestConfig

        return RequestConfig(max_tokens=max_tokens, temperature=temperature, top_k=-1, top_p=1.0, min_p=0.0,
                             repetition_penalty=1.0, return_details=True, **wanted)

    def _infer(self, asked: Sequence[tuple[Any, "RequestConfig"]]) -> list[Any]:
        """The reply to each request, all of them under way together."""

        async def together() -> list[Any]:
            return await asyncio.gather(*(self.engine.infer_async(*one) for one in asked))

        try:
            return [answer.choices[0] for answer in asyncio.run_coroutine_threadsafe(together(), self._loop).result()]
        except ValueError as error:  # vLLM's for a prompt that is too long, among others
            reason = first_line(error)
            raise UserError(f"the engine cannot answer a prompt ({reason}); set engine to auto.") from error

    def _text(self, choice: Any) -> str:
        return self.template.decode_generate_ids(until(choice.token_ids, self._ends))

    def _first(self, returned: dict[int, float] | None, prompt: Prompt) -> dict[str, float]:
        """Probability of each candidate as the first token, of its likeliest spelling; 0 if none was returned."""
        if returned is None:
            raise UserError(f"the engine returned no log-probability of the first token after {prompt.text!r}; set "
                            "engine to auto.")
        found = {c: [math.exp(returned[i]) for i in self._first_tokens[c] if i in returned] for c in CANDIDATES}
        if not all(found.values()):
            known = [math.exp(value) for value in returned.values()]
            self._outside += 1
            self._at_most = max(self._at_most, min(min(known), max(0.0, 1 - math.fsum(known))))
        return {c: max(found[c], default=0.0) for c in CANDIDATES}


def _first_logprobs(logprobs: Sequence[dict[int, Any]] | None, token_ids: Sequence[int], top_logprobs: int | None = None
                    ) -> dict[int, float] | None:
    """Stands for InferEngine._get_logprobs: those of a reply's first token, by the number of the token."""
    if not logprobs or not len(token_ids):
        return None
    first = logprobs[-len(token_ids) :][0]
    return {int(token): float(getattr(value, "logprob", value)) for token, value in first.items()}
