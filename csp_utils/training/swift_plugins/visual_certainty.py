"""ms-swift plugin: train by GRPO with VL-Calibration's rewards, soft labels and token factors (arXiv 2604.09529).

It adds four reward functions, and puts a trainer in the place of ms-swift's for ``--rlhf_type grpo``. ms-swift 4.6
already has a second pass for a "teacher" that sees other images: the trainer gives it the perturbed images, and reads
the log-probabilities. The visual reward depends on them, so ms-swift's reward function for it returns nothing, and the
trainer fills its column in before the advantages are computed.

:mod:`csp_utils.training.grpo` has what is computed. What is here leans on private names of ms-swift, which
``tests/training/test_grpo_names.py`` lists.
"""

import sys
from collections import deque
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import torch
from accelerate.utils import gather, gather_object
from swift.rewards import ORM, orms
from swift.rlhf_trainers import rollout_mixin
from swift.rlhf_trainers.grpo_trainer import GRPOTrainer
from swift.template.templates.qwen import Qwen2VLTemplate
from swift.template.vision_utils import load_image
from swift.trainers.trainer_factory import TrainerFactory

sys.path.append(str(Path(__file__).resolve().parents[3]))  # torchrun starts ms-swift without the project's folder

from csp_utils.base.errors import UserError  # noqa: E402
from csp_utils.training.grpo import judge as judging  # noqa: E402
from csp_utils.training.grpo import settings as given  # noqa: E402
from csp_utils.training.grpo import signals as S  # noqa: E402
from csp_utils.training.grpo.unsupported import unsupported  # noqa: E402
from csp_utils.vlcal.certainty import soft_labels  # noqa: E402
from csp_utils.vlcal.perturbation import perturb_row  # noqa: E402
from csp_utils.vlcal.rewards import visual_reward  # noqa: E402

judge_with = cache(judging.Judge)
"""Settings -> the judge, one a process; it starts a process for mathematical answers when one is needed."""


def judge() -> judging.Judge:
    """Return the judge of this training."""
    return judge_with(given.from_environment())


class _Reward(ORM):
    """A reward function of ms-swift, which passes the columns of the rows as keywords."""

    name: str

    def __call__(self, completions, **columns) -> list:
        return judging.reward_of(self.name, judge()(completions, columns))


class Accuracy(_Reward):
    """1 for a right answer, else 0."""

    name = "accuracy"


class Calibration(_Reward):
    """Minus the Brier score of the overall confidence."""

    name = "calibration"


class Format(_Reward):
    """1 for a well-formed reply, else 0."""

    name = "format"


class Visual(_Reward):
    """Minus the squared difference of visual confidence and soft label; the trainer fills it in."""

    name = "visual"


class CertaintyTrainer(GRPOTrainer):
    """GRPO with visual certainty. Raises UserError for options under which it would not compute what it says."""

    def __init__(self, *args, **kwargs) -> None:
        self.settings = given.from_environment()
        template = {name: getattr(kwargs["template"], name) for name in ("sequence_parallel_size", "padding_free")}
        teachers = ("teacher_model", "teacher_model_server", "teacher_use_disable_adapter")
        teacher = any(kwargs.get(name) for name in teachers)
        options = vars(kwargs["args"]) | template
        if found := unsupported(options, self.settings, kwargs.get("reward_funcs") or [], teacher):
            raise UserError(" ".join(found))
        super().__init__(*args, **kwargs)

    def _rollout_samples(self, inputs):
        """Sample replies, and give each its own perturbed images."""
        samples = super()._rollout_samples(inputs)
        first = self.accelerator.process_index * len(samples)  # the processes' samples follow each other
        for number, sample in enumerate(samples if self.settings.masks else [], first):
            use = f"update {self.state.global_step} reply {number % self.num_generations}"
            sample.teacher_images = [
                perturb_row(self._shown(image), self.settings.perturbation, self.args.seed, sample.extra["row_id"],
                            f"{use} image {place}") for place, image in enumerate(sample.images)]  # fmt: skip
        return samples

    def _shown(self, image):
        """Return an image (path, or ms-swift's dictionary) in RGB, at the size at which Qwen2-VL is shown it.

        Other families get it at the size of its file.
        """
        if isinstance(image, dict):
            image = image.get("bytes") or image["path"]
        image = load_image(image)
        if not isinstance(self.template, Qwen2VLTemplate):
            return image
        from qwen_vl_utils import fetch_image

        patch = self.template.processor.image_processor.patch_size
        return fetch_image({"image": image}, **({"image_patch_size": patch} if self.template.version == "v3" else {}))

    def _get_per_token_logps_and_entropies(self, model, model_inputs, grpo_batch, compute_entropy=False,
                                           origin_data=None):  # fmt: skip
        """Keep the entropies and the description's logits of the policy's first pass, which comes before all others."""
        run = super()._get_per_token_logps_and_entropies
        if torch.is_grad_enabled() or hasattr(grpo_batch, "entropies"):
            return run(model, model_inputs, grpo_batch, compute_entropy, origin_data)
        self._find_descriptions(model_inputs, grpo_batch)
        entropy = compute_entropy or self.settings.choices.entropy == "full"
        with self._logits(model, grpo_batch) as grpo_batch.logits:
            found = run(model, model_inputs, grpo_batch, entropy, origin_data)
        grpo_batch.entropies = found[1]
        return found

    def _find_descriptions(self, model_inputs, grpo_batch) -> None:
        ids, mask = model_inputs["input_ids"], grpo_batch.completion_mask.bool()
        grpo_batch.description = S.find_descriptions(self.template.tokenizer, ids, mask)

    def _logits(self, model, grpo_batch):
        """Keep logits of the next pass if the exact KL needs them."""
        if self.settings.choices.kl == "full" and self.settings.masks:
            return S.description_logits(model, grpo_batch.description, self.temperature)
        return nullcontext()

    def _compute_teacher_logps(self, model_inputs, grpo_batch, origin_data=None, teacher_model_inputs=None,
                               teacher_grpo_batch=None):  # fmt: skip
        """Run the pass with the perturbed images, and compute the exact KL if it is asked for."""
        masked = teacher_grpo_batch
        masked.entropies = None  # so that it does not count as a first pass
        self._find_descriptions(teacher_model_inputs, masked)
        with self._logits(self.model, masked) as logits:
            found = super()._compute_teacher_logps(model_inputs, grpo_batch, origin_data, teacher_model_inputs, masked)
        if logits is not None:
            grpo_batch.divergence = S.scatter_kl(grpo_batch.logits[0], logits[0], grpo_batch.description)
            grpo_batch.logits = None  # n x V numbers, which nothing needs any longer
        return found

    def _signals(self, grpo_batch) -> S.Signals:
        """Return the signals of a micro-batch. Raises UserError if ms-swift left out the second pass."""
        passes = S.Passes(grpo_batch.old_per_token_logps, grpo_batch.teacher_per_token_logps, grpo_batch.entropies,
                          getattr(grpo_batch, "divergence", None))  # fmt: skip
        if self.settings.masks and passes.masked_logp is None:
            raise UserError("ms-swift computed no pass with the perturbed images, so there is no visual certainty; is "
                            "it ms-swift 4.6 without a teacher model?")  # fmt: skip
        return S.signals_of(passes, grpo_batch.completion_mask.bool(), grpo_batch.description, self.settings.choices)

    def _postprocess_batch(self, samples, batch_encoded_inputs) -> None:
        """Fill in the visual reward, let ms-swift compute the advantages, and multiply them by the token factors."""
        batches = [batch["grpo_batch"] for batch in batch_encoded_inputs]
        signals = [self._signals(batch) for batch in batches]
        judged = self._judged(samples)
        labels = self._label(judged, signals) if self.settings.signals else None
        super()._postprocess_batch(samples, batch_encoded_inputs)
        for batch, one in zip(batches, signals, strict=True):
            batch.advantages = batch.advantages * S.factors_of(batch.advantages, one, self.settings.choices)
        self._record = self._recorded(samples, judged, signals, labels)

    def _compute_advantages(self, samples, rewards_per_func, batch_encoded_inputs) -> torch.Tensor:
        """Compute ms-swift's advantages, without those that are but rounding errors."""
        found = super()._compute_advantages(samples, rewards_per_func, batch_encoded_inputs)
        totals = (rewards_per_func * self.reward_weights).nansum(-1)
        return S.without_rounding(found, totals, self.num_generations)

    def _judged(self, samples) -> list[judging.Judged]:
        columns = {name: [sample.extra[name] for sample in samples] for name in judging.COLUMNS}
        columns["is_truncated"] = [sample.is_truncated for sample in samples]
        return judge()([sample.messages[-1]["content"] for sample in samples], columns)

    def _label(self, judged, signals) -> list[float]:
        """Compute soft labels from the scores of all processes, fill in the visual reward, return the own labels."""
        device = self.accelerator.device
        scores = gather(torch.cat([S.scores_of(one, self.settings.choices) for one in signals]).to(device))
        said = torch.from_numpy(judging.numbers(judged, "visual")).float().to(device)
        labels = soft_labels(scores, self.settings.choices.labels)
        rewards = visual_reward(gather(said).double().cpu().numpy(), labels.double().cpu().numpy())
        column = self.reward_func_names.index("Visual")
        self._rewards_per_func[:, column] = torch.from_numpy(rewards).to(self._rewards_per_func)
        first = self.accelerator.process_index * len(judged)
        return labels[first : first + len(judged)].tolist()

    def _recorded(self, samples, judged, signals, labels) -> dict[str, list]:
        """Return what completions.jsonl gets beside ms-swift's own columns: one value for each of the samples."""
        readings = [one.reading for one in judged]
        lengths = torch.cat([one.tokens.description.sum(-1) for one in signals])
        numbers = {"description_kl": torch.cat([one.kl for one in signals]),
                   "description_entropy": torch.cat([one.entropy for one in signals]),
                   "description_tokens": lengths}  # fmt: skip
        named = {name: [getattr(one, name) for one in readings] for name in ("visual", "reasoned", "overall")}
        record = {"row_id": [sample.extra["row_id"] for sample in samples], "form": [one.kind for one in readings],
                  "match": [one.match.reason for one in judged], "right": [one.match.right for one in judged],
                  **{f"{name}_confidence": values for name, values in named.items()},
                  **{name: values.tolist() for name, values in numbers.items()}}  # fmt: skip
        return record | ({"soft_label": labels} if labels is not None else {})

    def _log_rollout(self, samples) -> None:
        """Add the columns of :meth:`_recorded` to completions.jsonl, and their means to the log."""
        super()._log_rollout(samples)
        for name, values in self._record.items():
            values = gather_object([None if value != value else value for value in values])  # NaN is no JSON
            self._logs.setdefault(name, deque(maxlen=self.args.generation_batch_size)).extend(values)
            known = [float(value) for value in values if isinstance(value, int | float)]
            if known:
                self._metrics["train"][f"replies/{name}"].append(sum(known) / len(known))


class Engine(rollout_mixin.TransformersEngine):
    """ms-swift's engine without its position ids.

    Those of Qwen2-VL have one row too many: the model fails at the second token. It computes its own if it gets none.
    """

    def _infer_full(self, inputs, **kwargs):
        inputs.pop("position_ids", None)
        return super()._infer_full(inputs=inputs, **kwargs)


for _reward in (Accuracy, Calibration, Format, Visual):
    orms[given.orm(_reward.name)] = _reward
TrainerFactory.TRAINER_MAPPING["grpo"] = f"{__name__}.{CertaintyTrainer.__name__}"
if not issubclass(rollout_mixin.TransformersEngine, Engine):  # once, however often this file is loaded
    rollout_mixin.TransformersEngine = Engine
