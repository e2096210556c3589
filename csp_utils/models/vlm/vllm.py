"""The vLLM engine, for GPU machines. It runs any inference engine of ms-swift, in practice vLLM.

vLLM has its own kernels and its own copy of the weights. With vLLM, the plain engine first answers a few prompts and is
unloaded; then vLLM answers them, and the two are compared (:mod:`csp_utils.asking.variants`). vLLM is not a dependency
of this project. It differs from the plain engine in three ways:

* The first token's probabilities are those of its ``top_logprobs`` likeliest tokens. A candidate outside them gets
  probability 0. Its true probability is at most the smallest returned one, and at most 1 minus the sum of the returned
  ones, so it is below 1 / ``top_logprobs``. :meth:`SwiftEngine.report` counts such prompts and gives the largest bound.
* Samples are seeded per request, so they are repeatable, but they come from vLLM's random numbers and not from
  :class:`csp_utils.models.vlm.reply.Draw`.
* It returns no probabilities of whole replies, so ``methods: expected`` is refused.
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

from csp_utils.base.errors import UserError, first_line, gpu_full
from csp_utils.data.views import open_shown
from csp_utils.models.checkpoints import adapter_base
from csp_utils.models.vlm.reply import CANDIDATES, Asking, Decoded, Prompt, Reply, decoded, reply_of

if TYPE_CHECKING:
    from swift.infer_engine import InferEngine, RequestConfig

TOP_LOGPROBS = 100
"""Number of log-probabilities requested for the first token. With vLLM's default limit, 20, "No" is missing where a
model is very sure of Yes, and all such questions would have the internal confidence 1."""
MAX_MODEL_LEN = 16384 + 1024
"""Most tokens of a prompt and its reply; vLLM reserves memory for them. 16384 tokens are the largest image that
Qwen2-VL does not scale down, and 1024 are for the text. The models' own limits, 32768 and more, may not fit."""
MEMORY_SHARE = 0.9
"""Largest share of the GPU's memory that vLLM may use; less if less is free."""


def refuse_vllm(model: str, device: str) -> None:
    """Raise UserError if vLLM cannot run ``model`` on this machine. Nothing is loaded for this check."""
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
    """Raise UserError if a prompt wants the probability of a whole reply."""
    if any(prompt.answers for prompt in prompts):
        raise UserError("engine vllm gives no probabilities of whole replies, which methods: expected needs; set "
                        "engine to auto, shared or plain, or leave expected out.")


def engine_arguments(template: Any, batch_size: int) -> dict[str, Any]:
    """Return the arguments of ms-swift's VllmEngine, except the model.

    Args:
        template: ms-swift's; its processor holds the type of the weights and the longest sequence.
        batch_size: number of requests that vLLM works on at a time.
    """
    import torch

    info = template.processor.model_info
    free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (1, 1)
    return {
        "template": template, "torch_dtype": info.torch_dtype, "use_hf": True,
        "use_async_engine": True,  # the synchronous engine takes one seed for a whole batch
        "gpu_memory_utilization": round(min(MEMORY_SHARE, 0.95 * free / total), 3),
        "max_model_len": min(info.max_model_len or MAX_MODEL_LEN, MAX_MODEL_LEN), "max_num_seqs": batch_size,
        "limit_mm_per_prompt": {"image": 1, "video": 0}, "seed": 0,
        "logprobs_mode": "raw_logprobs",  # before the temperature, as in the plain engine
        "engine_kwargs": {"max_logprobs": TOP_LOGPROBS},
    }  # fmt: skip


def vllm_engine(model: str, template: Any, batch_size: int, revision: str | None = None) -> "InferEngine":
    """Load a model folder or hub id into vLLM. Raises UserError if vLLM fails."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # no telemetry
    try:
        from swift.infer_engine import VllmEngine

        # In a notebook's cell an event loop is running: the constructor would wait for it, and it waits for the cell.
        with ThreadPoolExecutor(1) as pool:
            arguments = engine_arguments(template, batch_size) | {"revision": revision}
            return pool.submit(VllmEngine, model, **arguments).result()
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        if sentence := gpu_full(error, batch_size):
            raise sentence from error
        # vLLM loads in another process, and its error often lacks the cause, most often a GPU without enough memory.
        raise UserError(f"vLLM cannot load {model} ({first_line(error)}); check the model and the GPU's free memory, "
                        "lower batch_size and max_pixels, or set engine to auto.") from error


class SwiftEngine:
    """Runs prompts through an inference engine of ms-swift, which forms its own batches.

    Args:
        engine: of ms-swift. It must not be used elsewhere: one of its methods is replaced.
        ends: ids of the tokens that end a reply.
        first_tokens: candidate -> ids of its possible first tokens
            (:func:`csp_utils.models.vlm.load.candidate_tokens`).
        top_logprobs: number of log-probabilities to request for the first token; at most what ``engine`` allows.
        seeded: whether ``engine`` uses a request's seed. vLLM does, ms-swift's TransformersEngine does not.
    """

    def __init__(self, engine: "InferEngine", ends: list[int], first_tokens: dict[str, list[int]],
                 top_logprobs: int, seeded: bool):
        self.engine, self.template = engine, engine.template
        self._ends, self._first_tokens = ends, first_tokens
        self._top_logprobs, self._seeded = top_logprobs, seeded
        # ms-swift returns log-probabilities by the token's text, which several tokens may share; we need token ids.
        engine._get_logprobs = _first_logprobs
        self._outside, self._at_most = 0, 0.0
        # vLLM is bound to the event loop of its first request. A notebook's loop is busy with the cell: we run our own.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="SwiftEngine", daemon=True)
        self._thread.start()

    def batches(self, prompts: Sequence[Prompt], batch_size: int) -> list[list[int]]:
        """Divide prompts (by index) into batches, one image after another: vLLM caches common prefixes."""
        order = sorted(range(len(prompts)), key=lambda i: (str(prompts[i].image), i))
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def encode(self, prompts: Sequence[Prompt]) -> list[Any]:
        """Turn each prompt into an InferRequest with its image."""
        from swift.infer_engine import InferRequest

        opened = lru_cache(open_shown)
        requests = []
        for prompt in prompts:
            images = [image for image in [opened(prompt.image)] if image is not None]
            content = "<image>" * len(images) + prompt.text
            requests.append(InferRequest(messages=[{"role": "user", "content": content}], images=images))
        return requests

    def reply(self, encoded: list[Any], prompts: Sequence[Prompt], asking: Asking) -> list[Reply]:
        """Answer one batch. Raises UserError if the engine cannot give what a prompt wants."""
        refuse_answers(prompts)
        draws = [(i, seed) for i, prompt in enumerate(prompts) for seed in prompt.seeds]
        if draws and not self._seeded:
            raise UserError("this engine of ms-swift takes no seed for a request; set engine to auto, shared or plain.")
        greedy = self._config(asking.max_new_tokens, 0.0, logprobs=True, top_logprobs=self._top_logprobs)
        choices = self._infer([(request, greedy) for request in encoded])
        # A separate batch, because vLLM on a CPU uses seeds only if every running request has one. 31 bits, because not
        # every random generator takes a larger seed.
        sampled = self._infer([(encoded[i], self._config(asking.max_new_tokens, asking.temperature, seed=seed % 2**31))
                               for i, seed in draws])
        samples: list[list[Decoded]] = [[] for _ in prompts]
        for (i, _), choice in zip(draws, sampled, strict=True):
            samples[i].append(self._decoded(choice))
        return [reply_of(self._decoded(choices[i]), self._first(choices[i].logprobs, prompt), (), samples[i])
                for i, prompt in enumerate(prompts)]

    def report(self) -> dict[str, Any]:
        """Return facts about the prompts since the last call, and the version of vLLM, for the run's records."""
        found = {"top_logprobs": self._top_logprobs, "prompts_with_a_candidate_outside": self._outside,
                 "probability_outside_at_most": self._at_most,
                 "vllm": getattr(sys.modules.get("vllm"), "__version__", None)}
        self._outside, self._at_most = 0, 0.0
        return found

    def close(self) -> None:
        """End the engine's processes and free the GPU's memory."""
        shutdown = getattr(self.engine.engine, "shutdown", None)  # of vLLM; a transformers model has none
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
        """Set every sampling parameter, so that none comes from generation_config.json: the plain engine ignores it."""
        from swift.infer_engine import RequestConfig

        return RequestConfig(max_tokens=max_tokens, temperature=temperature, top_k=-1, top_p=1.0, min_p=0.0,
                             repetition_penalty=1.0, return_details=True, **wanted)

    def _infer(self, requests: Sequence[tuple[Any, "RequestConfig"]]) -> list[Any]:
        """Run all requests concurrently; return the first choice of each."""

        async def together() -> list[Any]:
            return await asyncio.gather(*(self.engine.infer_async(*one) for one in requests))

        try:
            return [answer.choices[0] for answer in asyncio.run_coroutine_threadsafe(together(), self._loop).result()]
        except ValueError as error:  # for example, vLLM's for a prompt that is too long
            reason = first_line(error)
            raise UserError(f"the engine cannot answer a prompt ({reason}); set engine to auto.") from error
        except Exception as error:
            if type(error).__name__ not in ("EngineDeadError", "EngineGenerateError"):
                raise
            raise UserError(f"vLLM's process died ({first_line(error)}), most often because the GPU's memory was used "
                            "up; lower batch_size or max_pixels, or set engine to auto.") from error

    def _decoded(self, choice: Any) -> Decoded:
        """Decode a reply up to its end token, which some engines do not return; then their finish reason counts."""
        found = decoded(self.template, choice.token_ids, self._ends)
        return found._replace(ended=found.ended or choice.finish_reason == "stop")

    def _first(self, returned: dict[int, float] | None, prompt: Prompt) -> dict[str, float]:
        """Compute each candidate's probability as the first token: that of its likeliest spelling, 0 if absent.

        Args:
            returned: token id -> log-probability.
        """
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
    """Replace InferEngine._get_logprobs: return the log-probabilities of the reply's first token by token id."""
    if not logprobs or not len(token_ids):
        return None
    first = logprobs[-len(token_ids) :][0]
    return {int(token): float(getattr(value, "logprob", value)) for token, value in first.items()}
