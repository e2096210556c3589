"""Parameters, arms, settings, rows, rewards and record of a training by GRPO, without ms-swift."""

import importlib.util
import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_jsonl
from csp_utils.base.params import build
from csp_utils.training import command as training
from csp_utils.training.grpo import signals as S
from csp_utils.training.grpo.judge import Judge, numbers, reward_of
from csp_utils.training.grpo.log import sparse
from csp_utils.training.grpo.parameters import ARMS, Grpo
from csp_utils.training.grpo.results import PLUGIN
from csp_utils.training.grpo.rows import check_rows, grpo_row, schedule
from csp_utils.training.grpo.run import check_results, read_completions, summary, with_plugin
from csp_utils.training.grpo.settings import NAME, Settings, from_environment
from csp_utils.training.grpo.unsupported import unsupported
from csp_utils.vlcal.advantages import TokenSignals
from csp_utils.vlcal.choices import Choices, choices
from csp_utils.vlcal.perturbation import Perturbation

ITEM = {"item_id": "q1", "problem": "<image>\nHow many?", "answer": "3", "kind": "number", "options": []}
GOOD = ("<vision>three stars</vision><reasoning>three</reasoning> \\boxed{3}<vision_confidence>8</vision_confidence>"
        "<reasoning_confidence>6</reasoning_confidence>")  # fmt: skip


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Change to the project root, as notebooks do."""
    monkeypatch.chdir(ROOT)
    for name in ("NPROC_PER_NODE", "NNODES", "MAX_PIXELS", "IMAGE_MAX_TOKEN_NUM"):
        monkeypatch.delenv(name, raising=False)


# ------------------------------------------------------------------------------------------------- parameters and arms


def test_the_arms_differ_in_rewards_and_in_the_second_pass():
    found = {name: Grpo(**arm).settings() for name, arm in ARMS.items()}
    rewards = {name: " ".join(settings.rewards) for name, settings in found.items()}
    assert rewards == {
        "rlvr": "accuracy format", "rlcr": "accuracy calibration format", "decoupled": "accuracy calibration format",
        **dict.fromkeys(("entropy", "kl", "both", "reweighted", "released"), "accuracy calibration format visual"),
    }  # fmt: skip
    assert [name for name, settings in found.items() if settings.masks] == ["kl", "both", "reweighted", "released"]
    assert [name for name, settings in found.items() if settings.choices.strength] == ["reweighted", "released"]
    assert found["released"].choices == choices(released=True)
    assert found["reweighted"].choices == Choices() and found["reweighted"].perturbation == Perturbation()
    assert all(not Grpo(**arm).conflicts() for arm in ARMS.values())


def test_each_part_of_the_method_alone_needs_the_second_pass():
    without = {"certainty": "none", "strength": 0.0}
    assert not Grpo(**without).settings().masks
    assert Grpo(**without | {"strength": 0.1}).settings().masks
    assert Grpo(**without | {"top_tokens": 0.5}).settings().masks
    assert not Grpo(certainty="entropy", strength=0.0).settings().masks


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"reply_format": "none"}, "'none' state no visual confidence.*certainty: none"),
    ({"reply_format": "holistic"}, "'holistic' state no visual confidence"),
    ({"batch_size": 3, "gradient_accumulation_steps": 1}, "is 3, which is no multiple of generations \\(8\\)"),
    ({"top_tokens": 0.2, "loss_type": "grpo"}, "top_tokens is 0.2 and loss_type 'grpo'.*set loss_type: dapo"),
    ({"eval_share": 0.1}, "eval_share is not 0"),
    ({"extra_args": ["--beta", "1"]}, "extra_args sets --beta"),
    ({"extra_args": ["--teacher_kl_coef=1"]}, "extra_args sets --teacher_kl_coef"),
    ({"extra_args": ["--external_plugins", "x.py"]}, "extra_args sets --external_plugins"),
    ({"extra_args": ["--model_kwargs", "{}"]}, "extra_args sets --model_kwargs"),
])  # fmt: skip
def test_parameters_that_do_not_fit_together_are_refused(changes, sentence):
    with pytest.raises(UserError, match=f"^In params.yaml, .*{sentence}"):
        build(Grpo, changes, "params.yaml")


def test_vllm_is_refused_only_where_it_is_missing(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else found(name))
    assert any("vllm is not installed" in sentence for sentence in Grpo(rollouts="vllm").conflicts())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert Grpo(rollouts="vllm").conflicts() == []
    assert Grpo(rollouts="vllm").objective()["--vllm_mode"] == "colocate"


# --------------------------------------------------------------------------------------------------------- command line


def options(p, model="assets/tiny_world/vlm"):
    """The options of the command line -> their values; of one that stands twice, the last."""
    found, values = {}, []
    for word in training.command(with_plugin(p, model), model, "d.jsonl", "out"):
        if word.startswith("--"):
            values = found[word] = []
        else:
            values.append(word)
    return found


def test_the_command_is_that_of_the_released_run():
    asked = options(Grpo())
    wanted = {
        "rlhf_type": "grpo", "num_generations": "8", "temperature": "1.0", "top_p": "1.0", "loss_type": "dapo",
        "scale_rewards": "group", "epsilon": "0.2", "epsilon_high": "0.3", "delta": "3.0", "beta": "0.0001",
        "learning_rate": "1e-06", "lr_scheduler_type": "constant", "warmup_ratio": "0.0", "weight_decay": "0.01",
        "adam_beta2": "0.999", "max_grad_norm": "1.0", "freeze_vit": "false", "freeze_aligner": "false",
        "teacher_kl_coef": "0.0", "log_completions": "true", "num_iterations": "1", "strict": "true",
        "steps_per_generation": "8", "gradient_accumulation_steps": "8",
    }  # fmt: skip
    assert {name: asked[f"--{name}"][-1] for name in wanted} == wanted
    assert asked["--reward_funcs"] == ["vlcal_accuracy", "vlcal_calibration", "vlcal_format", "vlcal_visual"]
    assert asked["--reward_weights"] == ["1.0", "2.0", "0.4", "0.4"]
    assert asked["--external_plugins"][-1].endswith(PLUGIN.name)
    assert set(map(str, training.plugins(Grpo()))) < set(asked["--external_plugins"])
    assert asked["--ref_model"] == ["assets/tiny_world/vlm"]  # a resumed training has its checkpoint as --model
    assert "--ref_model" not in options(Grpo(beta=0.0)) and "--ref_model" not in options(Grpo(tuner_type="lora"))
    assert options(Grpo(updates=7))["--max_steps"] == ["7"]


def test_the_settings_arrive_as_they_were_sent():
    p = Grpo(kl="full", entropy="surprisal", single_labels="rank", strength=0.25, top_tokens=0.5, perturbation="crop",
             mask_patch=7, match_seconds=1.5)  # fmt: skip
    sent = json.loads(options(p)["--model_kwargs"][0])
    assert p.recorded_objective()["model_kwargs"] == sent
    assert from_environment({name.upper(): str(value) for name, value in sent.items()}) == p.settings()


def test_settings_that_are_missing_or_damaged_are_said():
    with pytest.raises(UserError, match="has no settings.*--model_kwargs"):
        from_environment({})
    for text in ("{", "3", "{'choices': {'colour': 1}}", str({"choices": {}})):
        with pytest.raises(UserError, match=f"entry {NAME} of --model_kwargs cannot be read"):
            from_environment({NAME.upper(): text})


# ------------------------------------------------------------------------------------------------ what is not supported

SUPPORTED = {name.removeprefix("--"): value for name, value in Grpo().objective().items()} | {
    "gradient_accumulation_steps": 8, "sequence_parallel_size": 1, "padding_free": False, "use_liger_kernel": False,
    "multi_turn_scheduler": None, "use_gym_env": None, "gym_env": None, "dynamic_sample": False, "top_k": -1,
    "async_generate": False, "advantage_estimator": "grpo", "advantage_reweight": None, "sdar_loss_coef": 0.0,
    "min_p": 0.0, "repetition_penalty": 1.0, "vllm_mode": None, "eval_strategy": "no",
    "off_policy_sequence_mask_delta": None,
}  # fmt: skip
FUNCS = SUPPORTED["reward_funcs"]


@pytest.mark.parametrize(("name", "value"), [
    ("sequence_parallel_size", 2), ("padding_free", True), ("use_liger_kernel", True), ("multi_turn_scheduler", "x"),
    ("use_gym_env", True), ("gym_env", "x"), ("dynamic_sample", True), ("async_generate", True), ("num_iterations", 2),
    ("loss_type", "fipo"), ("loss_type", "real"), ("advantage_estimator", "rloo"), ("advantage_reweight", "rlsd"),
    ("sdar_loss_coef", 0.1), ("teacher_kl_coef", 1.0), ("off_policy_sequence_mask_delta", 0.1), ("top_p", 0.9),
    ("top_k", 50), ("min_p", 0.1), ("repetition_penalty", 1.1), ("vllm_mode", "server"), ("eval_strategy", "steps"),
    ("log_completions", False),
])  # fmt: skip
def test_each_option_under_which_the_method_would_be_another_is_refused(name, value):
    (sentence,) = unsupported(SUPPORTED | {name: value}, Settings(), FUNCS)
    assert sentence.startswith(f"ms-swift's option {name} cannot be {value!r} here: ") and sentence.endswith(".")


def test_what_depends_on_two_options_is_refused():
    assert unsupported(SUPPORTED, Settings(), FUNCS) == []
    (sentence,) = unsupported(SUPPORTED | {"steps_per_generation": 4}, Settings(), FUNCS)
    assert "steps_per_generation is 4 and gradient_accumulation_steps 8" in sentence
    top = Settings(choices(top_tokens=0.2))
    (sentence,) = unsupported(SUPPORTED | {"loss_type": "grpo"}, top, FUNCS)
    assert "loss_type cannot be 'grpo' with top_tokens below 1" in sentence
    assert unsupported(SUPPORTED, top, FUNCS) == []
    assert "was given a teacher" in unsupported(SUPPORTED, Settings(), FUNCS, teacher=True)[0]
    for other in (FUNCS[:-1], FUNCS[::-1], [*FUNCS, "accuracy"]):
        (sentence,) = unsupported(SUPPORTED, Settings(), other)
        assert "reward_funcs is" in sentence


# ---------------------------------------------------------------------------------------------------- rows and schedule


def test_a_row_has_what_the_rewards_need():
    row = grpo_row(ITEM, ["a.png"], "Look.\n{problem}", faint=True)
    assert row == {"messages": [{"role": "user", "content": "Look.\n<image>\nHow many?"}], "images": ["a.png"],
                   "row_id": "q1", "solution": "3", "kind": "number", "options": [], "faint": True}  # fmt: skip


@pytest.fixture
def row(tmp_path):
    """A row whose image exists."""
    (tmp_path / "a.png").touch()
    return grpo_row(ITEM, [str(tmp_path / "a.png")], "{problem}")


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"kind": "colour"}, "Line 1 of r.jsonl has the kind 'colour'"),
    ({"images": []}, "has 0 images and 1 marks"),
    ({"images": ["a.png", "b.png"]}, "has 2 images and 1 marks"),
    ({"images": ["nowhere/a.png"]}, "Line 1 of r.jsonl shows nowhere/a.png, which is missing"),
    ({"solution": " "}, "has an empty solution"),
    ({"row_id": None}, "has no row_id"),
    ({"teacher_prompt": "Look."}, "has the column teacher_prompt, by which ms-swift would change the pass"),
])  # fmt: skip
def test_rows_that_cannot_be_judged_are_refused(row, changes, sentence):
    row = {name: value for name, value in (row | changes).items() if value is not None}
    with pytest.raises(UserError, match=sentence):
        check_rows([row], "r.jsonl")


def test_no_rows_and_a_row_id_twice_are_refused(row):
    check_rows([row, row | {"row_id": "q2"}], "r.jsonl")
    with pytest.raises(UserError, match="Line 2 of r.jsonl has the row_id 'q1' of an earlier line"):
        check_rows([row, row], "r.jsonl")
    with pytest.raises(UserError, match="r.jsonl holds no rows"):
        check_rows([], "r.jsonl")


def test_what_does_not_fill_an_update_is_counted():
    p = Grpo(batch_size=4, gradient_accumulation_steps=4, generations=8, processes=2, epochs=3)  # 32 replies: 4 prompts
    assert schedule(p, 10) == (4, 6, 2)
    assert "leaves 2 rows out" in str(schedule(p, 10)) and "out" not in str(schedule(p, 8))
    assert schedule(p.model_copy(update={"updates": 5}), 10).updates == 5
    with pytest.raises(UserError, match="takes 4 prompts, and there are 3 rows"):
        schedule(p, 3)


# -------------------------------------------------------------------------------------------------------------- rewards


def columns(n, **changes):
    return {"solution": ["3"] * n, "kind": ["number"] * n, "options": [[]] * n, "is_truncated": [False] * n} | changes


def test_rewards_by_hand():
    replies = [GOOD, GOOD.replace("{3}", "{4}"), GOOD.replace(">8<", ">high<"), "no idea"]
    judged = Judge(Settings())(replies, columns(4))
    both = 2 * 0.8 * 0.6 / 1.4
    assert reward_of("accuracy", judged) == [1, 0, 1, 0]
    assert reward_of("format", judged) == [1, 1, 0, 0]
    assert reward_of("calibration", judged) == pytest.approx([-((both - 1) ** 2), -(both**2), -1, -1])
    assert reward_of("visual", judged) == [None] * 4  # the trainer fills it in
    np.testing.assert_array_equal(numbers(judged, "visual"), [0.8, 0.8, math.nan, math.nan])
    assert [one.match.reason for one in judged] == ["same text", "different", "same text", "no answer"]


def test_a_reply_that_the_budget_cut_is_counted_as_cut():
    cut, ended = Judge(Settings())([GOOD[:40]] * 2, columns(2, is_truncated=[True, False]))
    assert (cut.reading.kind, ended.reading.kind) == ("cut", "missing tag")


def test_the_replies_of_an_update_are_judged_once_and_another_update_anew():
    judge = Judge(Settings())
    first = judge([GOOD], columns(1))
    assert judge([GOOD], columns(1)) is first
    assert judge([GOOD], columns(1, solution=["4"]))[0].match.right is False
    choice = columns(1, solution=["B"], kind=["choice"], options=[["1", "3"]])
    assert judge([GOOD], choice)[0].match.right is True  # 3 is the text of option B
    assert judge([GOOD], choice | {"options": [None]})[0].match.right is False


# -------------------------------------------------------------------------------------------------------------- signals


class Characters:
    """A tokenizer whose ids are the characters' numbers."""

    def convert_ids_to_tokens(self, ids):
        """The characters."""
        return [chr(i) for i in ids]


def test_descriptions_are_found_in_the_frame_of_the_micro_batch():
    texts = ["<vision>ab</vision>c", "<vision>abc</vision>", "no description"]
    width = max(map(len, texts)) + 2
    ids, mask = torch.full((3, 5 + width), ord("<")), torch.zeros(3, width, dtype=torch.bool)
    for row, text in enumerate(texts):  # the prompts end, and the replies begin, at different positions
        ids[row, 5 + row : 5 + row + len(text)] = torch.tensor([ord(c) for c in text])
        mask[row, row : row + len(text)] = True
    found = S.find_descriptions(Characters(), ids, mask)
    shown = ["".join(chr(i) for i in row[at]) for row, at in zip(ids[:, -width:], found, strict=True)]
    assert shown == ["ab", "abc", ""]


def test_logits_of_descriptions_are_kept_before_ms_swift_divides_them():
    class Model(torch.nn.Module):
        def forward(self, logits):
            return type("Out", (), {"logits": logits})

    model, logits = Model(), torch.arange(24.0).reshape(1, 4, 6)
    description = torch.tensor([[False, True]])  # predicted by the last position but one
    with S.description_logits(model, description, 2.0) as kept:
        out = model(logits).logits
        out.div_(7.0)
    model(logits)
    assert len(kept) == 1 and kept[0].tolist() == [[6.0, 6.5, 7.0, 7.5, 8.0, 8.5]]


def test_signals_and_factors_without_a_second_pass():
    logp, mask = torch.tensor([[-1.0, -2.0]]), torch.ones(1, 2, dtype=torch.bool)
    passes = S.Passes(logp, None, torch.tensor([[0.5, 1.5]]), None)
    entropy = choices(certainty="entropy", strength=0.0)
    signals = S.signals_of(passes, mask, mask, entropy)
    assert signals.entropy.tolist() == [1.0] and signals.kl.isnan().all()
    assert S.scores_of(signals, entropy).item() == pytest.approx(0.0, abs=1e-6)
    surprisal = S.signals_of(passes._replace(entropies=None), mask, mask, choices(entropy="surprisal"))
    assert surprisal.entropy.tolist() == [1.5]
    assert S.factors_of(torch.tensor([[-1.0, -1.0]]), signals, entropy).tolist() == [[1.0, 1.0]]


def test_equal_rewards_give_no_advantage_although_their_mean_is_rounded():
    equal, unequal = torch.full((8,), -2.4), torch.tensor([1.0, 0.0] * 4)
    rounded = (equal - equal.mean()) / 1e-4
    assert rounded[0].item() == pytest.approx(-0.0024, abs=1e-4)  # what ms-swift would train with
    found = S.without_rounding(torch.cat([rounded, unequal]), torch.cat([equal, unequal]), 8)
    assert found.tolist() == [0.0] * 8 + [1.0, 0.0] * 4


def test_both_factors_multiply():
    kl = torch.tensor([[1.0, 3.0]])
    tokens = TokenSignals(kl, torch.ones(1, 2), torch.ones(1, 2).bool(), torch.ones(1, 2).bool())
    signals = S.Signals(tokens, kl[:, 0], kl[:, 0])
    factors = S.factors_of(-torch.ones(1, 2), signals, choices(strength=0.5, top_tokens=0.5))
    s = 1 / (1 + math.exp(-1 / math.sqrt(2)))  # z-score of the larger of two numbers, with the sample's deviation
    assert factors[0].tolist() == pytest.approx([0.0, 2 * (1 + 0.5 * (1 - 2 * s))], rel=1e-5)


# ------------------------------------------------------------------------------------------------ replies of a training


def table(step, n=2, **changes):
    return {"step": [str(step)] * n, "prompt": ["p"] * n, "completion": ["c"] * n, "Accuracy": [1.0, 0.0],
            "Calibration": [-0.5, -0.5], "Format": [1.0, 1.0], "Visual": [-0.1, -0.2], "advantages": [0.5, -0.5],
            "right": [True, False], "soft_label": [0.25, None]} | changes  # fmt: skip


def test_completions_are_read_and_the_last_update_is_there_once(tmp_path):
    write_jsonl([table(1), table(2, Accuracy=[0.0, 0.0]), table(2)], tmp_path / "c.jsonl")
    found = read_completions(tmp_path / "c.jsonl")
    assert found["step"].tolist() == [1, 1, 2, 2] and found["soft_label"].dtype == np.float64
    curves = summary(found)
    assert curves.loc[1, "Accuracy"] == curves.loc[1, "right"] == 0.5 and curves.loc[2, "soft_label"] == 0.25
    assert "prompt" not in curves and curves.index.tolist() == [1, 2]


def test_completions_that_are_missing_or_torn_are_said(tmp_path):
    with pytest.raises(UserError, match="has left no"):
        read_completions(tmp_path / "c.jsonl")
    write_jsonl([table(1, advantages=[0.5])], tmp_path / "c.jsonl")
    with pytest.raises(UserError, match="Line 1 of .* columns of several lengths"):
        read_completions(tmp_path / "c.jsonl")
    write_jsonl([], tmp_path / "c.jsonl")
    with pytest.raises(UserError, match="holds no replies"):
        read_completions(tmp_path / "c.jsonl")


def test_a_training_in_which_the_trainer_did_not_run_is_found(tmp_path):
    p = Grpo(generations=2, batch_size=2, gradient_accumulation_steps=1)
    planned = schedule(p, 2)
    logged = [f"rewards/{name}/mean" for name in ("Accuracy", "Calibration", "Format", "Visual")]
    found = pd.concat([pd.DataFrame(table(step)) for step in (1, 2)]).assign(step=[1, 1, 2, 2])
    check_results(p, planned, found, logged)
    with pytest.raises(UserError, match="reward visual has no value"):
        check_results(p, planned, found.assign(Visual=math.nan), logged)
    with pytest.raises(UserError, match="reward visual has no value"):
        check_results(p, planned, found, logged[:-1])
    with pytest.raises(UserError, match="kept 3 replies of 2 updates.*2 of each of 2"):
        check_results(p, planned, found.iloc[:3], logged)


def test_the_lines_of_the_log_have_the_rewards():
    update = {"loss": 0.5, "learning_rate": 1e-6, "global_step/max_steps": "1/2", "elapsed_time": "1s", "reward": -1.25,
              "remaining_time": "2s", "rewards/Accuracy/mean": 0.25, "frac_reward_zero_std": 0.5}  # fmt: skip
    show = sparse()
    assert show(str(update)).endswith("2s to go  reward -1.250  right 25%  groups of equal rewards 50%")
    assert show("Loading weights") is None and show("ValueError: bad") == "ValueError: bad"
    assert show(str(update | {"reward": math.nan})).startswith("{'loss': 0.5")  # nan is no literal of Python


def test_parameters_and_rewards_load_without_torch():
    names = ("judge", "unsupported", "results", "rows", "parameters", "settings")
    code = "".join(f"import csp_utils.training.grpo.{name}\n" for name in names)
    code += "import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
