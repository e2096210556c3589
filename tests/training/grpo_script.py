"""A plugin of ms-swift for tests: replies that a file prescribes in place of sampled ones, and a record of the update.

It is loaded after the real plugin. CSP_TEST_SCRIPT names a JSON file: problem -> the token ids of its replies, in
order. CSP_TEST_RECORD names the file to which the first process writes what the trainer computed.
"""

import json
import os
from pathlib import Path

import torch
from swift.infer_engine.protocol import ChatCompletionResponse, ChatCompletionResponseChoice, ChatMessage, UsageInfo
from swift.rlhf_trainers import rollout_mixin
from swift.trainers.trainer_factory import TrainerFactory
from transformers import TrainerCallback

real = TrainerFactory.get_trainer_cls(type("Args", (), {"rlhf_type": "grpo"}))


class Scripted(rollout_mixin.TransformersEngine):
    """An engine that answers from the script. ``first`` is the number of its first request among all processes'."""

    first = 0

    def infer(self, infer_requests, request_config=None, **kwargs):
        """Return the prescribed reply of each request."""
        script = json.loads(Path(os.environ["CSP_TEST_SCRIPT"]).read_text())
        return [self._answer(script, request, self.first + i) for i, request in enumerate(infer_requests)]

    def _answer(self, script, request, number):
        replies = script[request.messages[-1]["content"]]
        ids = replies[number % len(replies)]
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        ended = ids[-1] == self.tokenizer.eos_token_id
        choice = ChatCompletionResponseChoice(0, ChatMessage(role="assistant", content=text),
                                              finish_reason="stop" if ended else "length", token_ids=ids)  # fmt: skip
        return ChatCompletionResponse("scripted", [choice], UsageInfo(0, len(ids), len(ids)))


class KeepGradients(TrainerCallback):
    """Keeps the gradients of the first update, after they were clipped."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Copy them."""
        if state.global_step == 0:
            model = getattr(model, "module", model)
            found["gradients"] = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


found: dict = {}


class Recorded(real):
    """The real trainer, whose first update is written to a file."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        found.clear()
        self.add_callback(KeepGradients())

    def _generate_completions(self, samples):
        Scripted.first = self.accelerator.process_index * len(samples)
        return super()._generate_completions(samples)

    def _postprocess_batch(self, samples, batch_encoded_inputs):
        super()._postprocess_batch(samples, batch_encoded_inputs)
        if self.state.global_step == 0:
            names = ("completion_mask", "description", "advantages", "old_per_token_logps", "teacher_per_token_logps",
                     "entropies")  # fmt: skip
            found["batches"] = [{name: getattr(batch["grpo_batch"], name) for name in names}
                                for batch in batch_encoded_inputs]  # fmt: skip
            found["rewards"] = self._rewards_per_func.clone()
            found["record"] = self._record

    def train(self, *args, **kwargs):
        """Train, then write the record of this process."""
        done = super().train(*args, **kwargs)
        torch.save(found, f"{os.environ['CSP_TEST_RECORD']}.{self.accelerator.process_index}")
        return done


rollout_mixin.TransformersEngine = Scripted
TrainerFactory.TRAINER_MAPPING["grpo"] = f"{__name__}.{Recorded.__name__}"
