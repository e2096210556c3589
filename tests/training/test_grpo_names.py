"""The names of ms-swift and trl on which training by GRPO leans, and what the plugin refuses (slow)."""

import ast
import dataclasses
import importlib
import inspect
import textwrap
from types import SimpleNamespace

import pytest

from csp_utils.base.errors import UserError
from csp_utils.training.grpo.parameters import Grpo
from csp_utils.training.grpo.results import PLUGIN
from csp_utils.training.grpo.settings import NAME
from csp_utils.training.grpo.unsupported import CHECKS

pytestmark = pytest.mark.slow

TRAINER = "swift.rlhf_trainers.grpo_trainer:GRPOTrainer"
CALLED = {
    f"{TRAINER}._rollout_samples": ["inputs"],
    f"{TRAINER}._postprocess_batch": ["samples", "batch_encoded_inputs"],
    f"{TRAINER}._compute_advantages": ["samples", "rewards_per_func", "batch_encoded_inputs"],
    f"{TRAINER}._log_rollout": ["samples"],
    f"{TRAINER}._get_per_token_logps_and_entropies": [
        "model", "model_inputs", "grpo_batch", "compute_entropy", "origin_data"],
    f"{TRAINER}._compute_teacher_logps": [
        "model_inputs", "grpo_batch", "origin_data", "teacher_model_inputs", "teacher_grpo_batch"],
    "swift.infer_engine:TransformersEngine._infer_full": [
        "inputs", "generation_config", "adapter_request", "request_config", "template_inputs"],
    "swift.rewards:ORM.__init__": ["args", "kwargs"],
    "swift.template.vision_utils:load_image": ["image"],
}  # fmt: skip
"""Function that the plugin overrides or calls -> its parameters."""

FIELDS = {
    "swift.rl_core.data:GRPOBatch": ["completion_mask", "old_per_token_logps", "teacher_per_token_logps", "advantages"],
    "swift.rl_core.data:GRPOSample": ["messages", "images", "extra", "finish_reason", "teacher_images"],
}
"""Dataclass whose objects the plugin reads and writes -> its fields."""

ATTRIBUTES = ["_rewards_per_func", "reward_func_names", "reward_weights", "_logs", "_metrics", "temperature",
              "num_generations"]  # fmt: skip
"""What the trainer's methods set, and the plugin reads or writes."""

ORDER = ["_rollout_samples", "_score_completions", "_prepare_batch_inputs", "_postprocess_batch", "_log_rollout"]
"""The order in which an update calls its parts: the plugin fills in rewards between the second and the fourth."""


def named(path: str):
    """What a path such as ``module:Class.method`` names; fails with a sentence if it is gone."""
    module, _, names = path.partition(":")
    found = importlib.import_module(module)
    for name in names.split("."):
        if not hasattr(found, name):
            pytest.fail(f"ms-swift or trl has no {path} any more, on which {PLUGIN.name} leans; adapt the plugin.")
        found = getattr(found, name)
    return found


def assigned(cls: type) -> set[str]:
    """The attributes that the methods of a class and of its bases in ms-swift assign to ``self``."""
    found = set()
    for one in cls.__mro__:
        if one.__module__.startswith("swift."):
            for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(one)))):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    found.add(node.attr)
    return found


def test_every_name_that_the_plugin_leans_on_is_there():
    for path, wanted in CALLED.items():
        parameters = [name for name in inspect.signature(named(path)).parameters if name != "self"]
        assert parameters == wanted, f"{path} has other parameters now; adapt {PLUGIN.name} to them."
    for path, wanted in FIELDS.items():
        lacking = set(wanted) - {field.name for field in dataclasses.fields(named(path))}
        assert not lacking, f"{path} has no {lacking} any more; adapt {PLUGIN.name} to it."
    lacking = set(ATTRIBUTES) - assigned(named(TRAINER))
    assert not lacking, f"ms-swift's GRPO trainer sets no {lacking} any more; adapt {PLUGIN.name} to it."
    source = inspect.getsource(named(f"{TRAINER}._generate_and_score_completions"))
    places = [source.index(f"self.{name}(") for name in ORDER]
    assert places == sorted(places), f"An update of ms-swift has another order than {ORDER}; adapt {PLUGIN.name} to it."
    factory = named("swift.trainers.trainer_factory:TrainerFactory")
    assert factory.TRAINER_MAPPING["grpo"], "TrainerFactory has no grpo any more, so the trainer cannot be replaced."
    assert named("swift.rlhf_trainers.rollout_mixin:TransformersEngine")
    assert isinstance(named("swift.rewards:orms"), dict)
    assert named("swift.template.templates.qwen:Qwen2VLTemplate.version") == "v2"
    sampler = named("trl.trainer.grpo_trainer:RepeatSampler")
    order = list(sampler(range(4), mini_repeat_count=2, batch_size=2, repeat_count=1, shuffle=False))
    assert order == [0, 0, 1, 1, 2, 2, 3, 3], "trl does not sample a prompt's replies side by side any more."
    config = {field.name for field in dataclasses.fields(named("swift.rlhf_trainers.arguments:GRPOConfig"))}
    template = set(inspect.signature(named("swift.template.base:Template.__init__")).parameters)
    unknown = set(CHECKS) - config - (template & {"sequence_parallel_size", "padding_free"})
    assert not unknown, f"ms-swift has no options {unknown} any more, so that they would not be refused."
    known = {field.name for field in dataclasses.fields(named("swift.arguments:RLHFArguments"))}
    options = {name.removeprefix("--") for name in Grpo(updates=1).objective()} | {"model_kwargs", "ref_model"}
    assert not options - known, f"ms-swift has no options {options - known} any more; adapt Grpo.objective to it."


@pytest.fixture
def trainer(monkeypatch):
    """The plugin's trainer, loaded as ms-swift loads it; what it replaces is put back."""
    from swift.rlhf_trainers import rollout_mixin
    from swift.trainers.trainer_factory import TrainerFactory
    from swift.utils import import_external_file

    monkeypatch.setitem(TrainerFactory.TRAINER_MAPPING, "grpo", TrainerFactory.TRAINER_MAPPING["grpo"])
    monkeypatch.setattr(rollout_mixin, "TransformersEngine", rollout_mixin.TransformersEngine)
    monkeypatch.setenv(NAME.upper(), str(Grpo().settings().as_argument()[NAME]))
    return import_external_file(str(PLUGIN)).CertaintyTrainer


def test_the_trainer_says_what_it_refuses_before_it_does_anything(trainer):
    p = Grpo()
    config = SimpleNamespace(**{name.removeprefix("--"): value for name, value in p.objective().items()},
                             gradient_accumulation_steps=p.gradient_accumulation_steps)  # fmt: skip
    config.teacher_kl_coef = 1.0
    template = SimpleNamespace(sequence_parallel_size=2, padding_free=False)
    with pytest.raises(UserError, match="(?s)sequence_parallel_size cannot be 2.*teacher_kl_coef cannot be 1.0"):
        trainer(args=config, template=template, reward_funcs=p.objective()["--reward_funcs"])


def test_a_second_pass_that_did_not_happen_is_an_error(trainer):
    import torch

    one = torch.zeros(1, 3)
    batch = SimpleNamespace(old_per_token_logps=one, teacher_per_token_logps=None, entropies=one, completion_mask=one,
                            description=one.bool())  # fmt: skip
    with pytest.raises(UserError, match="computed no pass with the perturbed images"):
        trainer._signals(SimpleNamespace(settings=Grpo().settings()), batch)
