"""The paper's four families: ms-swift's templates for them, and small models with their interfaces.

test_elicitation.py and test_training.py test Qwen2-VL. The code of the three other families comes with their weights;
here small models of this project stand for them (tests/family_code), behind ms-swift's loaders and templates. What only
the real code knows is not tested: Phi-3.5-Vision's number of tokens for an image, Qwen-VL's 256, InternVL2's vision
tower, and the vocabularies.
"""

import re
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from small_families import FAMILIES, make
from stage_tools import run_stage
from torch.utils._python_dispatch import TorchDispatchMode

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_jsonl
from csp_utils.base.run import RunPaths
from csp_utils.models import families
from csp_utils.models.checkpoints import image_variables
from csp_utils.models.vlm import load as vlm
from csp_utils.models.vlm.passes import Cache
from csp_utils.models.vlm.reply import Asking, Prompt
from csp_utils.noise.training_rows import training_rows
from csp_utils.stages.sft import Sft
from csp_utils.stages.simpo import Simpo
from csp_utils.words.prompts import confidence_question

ROOT = Path(__file__).resolve().parents[2]
QUESTION = confidence_question("Is there a dog?", "Yes")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)).save(path)
    return path


@pytest.fixture(scope="module", autouse=True)
def no_limit_of_another_module() -> Iterator[None]:
    """What tests of Qwen2-VL set for their whole process is for that family alone, and they find it as it was."""
    from qwen_vl_utils import vision_process

    told = hasattr(vision_process, "_patch")
    with pytest.MonkeyPatch.context() as patch:
        for name in image_variables(12544):
            patch.delenv(name, raising=False)
        patch.setattr(vlm, "_set_max_pixels", lambda max_pixels: None)
        yield
    if not told and hasattr(vision_process, "_patch"):
        del vision_process._patch


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, vlm.VLM]:
    """Its model type, a folder with a small model, and that model, loaded as every model is."""
    folder = make(request.param, tmp_path_factory.mktemp("families") / request.param)
    loaded = vlm.load_vlm(vlm.ModelChoice(str(folder), request.param, FAMILIES[request.param], trust_remote_code=True))
    return request.param, folder, loaded


def encoded(loaded: vlm.VLM, picture: Path, answer: str | None = None) -> dict:
    """QUESTION about ``picture`` as the template makes it; with an ``answer``, as for training."""
    messages = [{"role": "user", "content": f"<image>{QUESTION}"}]
    messages += [] if answer is None else [{"role": "assistant", "content": answer}]
    loaded.template.set_mode("transformers" if answer is None else "train")
    try:
        return loaded.template.encode({"messages": messages, "images": [Image.open(picture)]})
    finally:
        loaded.template.set_mode("transformers")


def spelled(loaded: vlm.VLM, ids: list[int]) -> str:
    """The tokens one after the other, spaces and line breaks as themselves, the picture's as [number of them]."""
    pieces = [loaded.tokenizer.convert_ids_to_tokens(i) if i >= 0 else "<-1>" for i in ids]
    text = "".join(pieces).replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n")
    text = re.sub(r"<img>/\S*?\.png((<imgpad>)+)", "<img>[path]", text)
    return re.sub(r"(<IMG_CONTEXT>|<-1>)+", lambda m: f"[{len(m[0]) // len(m[1])}]", text)


RENDERED = {
    # The vocabulary has no Chinese: <unk>. After a special token, SentencePiece begins anew with a space.
    "internvl_chat": "<s><|im_start|> system\n<unk>Intern<unk>L, <unk><|im_end|> \n<|im_start|> user\n"
                     f"<img>[256]</img> \n{QUESTION}<|im_end|> \n<|im_start|> assistant\n",
    # Phi-3's special tokens swallow the line breaks behind them.
    "phi3_vision": f"<s><|user|>[144]<s> \n{QUESTION}<|end|><|assistant|>",
    "qwen_vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nPicture 1: "
               f"<img>[path]</img>\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
}  # fmt: skip
LEARNED = {"internvl_chat": " 75%<|im_end|> \n", "phi3_vision": " 75%<|end|>", "qwen_vl": "75%<|im_end|>\n"}


def test_the_prompt_as_the_family_sees_it(family: tuple, picture: Path) -> None:
    model_type, _, loaded = family
    assert spelled(loaded, encoded(loaded, picture)["input_ids"]) == RENDERED[model_type]


def test_only_the_answer_and_the_end_of_the_turn_are_learned(family: tuple, picture: Path) -> None:
    model_type, _, loaded = family
    row = encoded(loaded, picture, "75%")
    learned = [label for label in row["labels"] if label != -100]
    assert spelled(loaded, learned) == LEARNED[model_type]
    assert row["labels"][-len(learned) :] == learned == row["input_ids"][-len(learned) :]
    assert spelled(loaded, row["input_ids"]) == RENDERED[model_type] + LEARNED[model_type]


def test_the_end_of_a_turn_ends_a_reply(family: tuple) -> None:
    model_type, _, loaded = family
    ends = set(loaded.tokenizer.convert_ids_to_tokens(vlm.end_tokens(loaded.template, None)))
    assert ends == {"internvl_chat": {"<|im_end|>", "</s>"}, "phi3_vision": {"<|end|>", "<|endoftext|>"},
                    "qwen_vl": {"<|im_end|>", "<|endoftext|>"}}[model_type]  # fmt: skip
    if model_type == "qwen_vl":  # as in the real one
        assert "<|im_end|>" not in loaded.tokenizer.all_special_tokens


@pytest.mark.parametrize("size, tiles", [((112, 112), 1), ((448, 448), 1), ((896, 448), 2), ((640, 480), 12),
                                         ((480, 640), 12), ((336, 224), 6), ((4000, 400), 10)])  # fmt: skip
def test_internvl2_counts_256_tokens_for_each_tile(tmp_path: Path, internvl: vlm.VLM, size: tuple, tiles: int) -> None:
    """448 px tiles in the grid nearest to the picture's shape, 12 at most; more than one: the whole picture as well."""
    Image.new("RGB", size).save(tmp_path / "a.png")
    row = encoded(internvl, tmp_path / "a.png")
    tiles += tiles > 1
    assert row["input_ids"].count(internvl.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")) == 256 * tiles
    assert tuple(row["pixel_values"].shape) == (tiles, 3, 448, 448)


@pytest.fixture(scope="module")
def internvl(tmp_path_factory: pytest.TempPathFactory) -> vlm.VLM:
    folder = make("internvl_chat", tmp_path_factory.mktemp("tiles") / "internvl_chat")
    return vlm.load_vlm(vlm.ModelChoice(str(folder), "internvl_chat", "internvl2", trust_remote_code=True))


def test_answers_are_those_of_single_forward_passes(family: tuple, picture: Path) -> None:
    """Batches of unequal lengths, ended rows, first-token probabilities: each prompt alone, token by token."""
    import torch

    _, _, loaded = family
    first = vlm.first_tokens(loaded.tokenizer)
    texts = ["Is there a dog?", QUESTION, "What is it"]
    replies = loaded.ask([Prompt(picture, text, seeds=(5,)) for text in texts], Asking(3, 4))
    assert families.without_generate(loaded.model) and list(loaded.engines) == ["plain"]
    for text, reply in zip(texts, replies, strict=True):
        row = loaded.engines["plain"].encode([Prompt(picture, text)])[0]
        said = []
        for _ in range(4):
            with torch.inference_mode():
                inputs = loaded.template.data_collator([row | {"input_ids": row["input_ids"] + said}])
                _, inputs = loaded.template.pre_forward_hook(loaded.model, None, inputs)
                logits = loaded.model(**inputs, use_cache=False).logits[0, -1]
            if not said:
                shares = logits.softmax(-1)
                for candidate, ids in first.items():
                    assert reply.first[candidate] == pytest.approx(shares[ids].max().item(), rel=1e-3, abs=1e-12)
            if int(logits.argmax()) in vlm.end_tokens(loaded.template, None):
                break
            said.append(int(logits.argmax()))
        assert reply.text == loaded.template.decode_generate_ids(said)
    again = loaded.ask([Prompt(picture, texts[1], seeds=(5, 6))], Asking(1, 4))[0]
    assert again.samples[0] == replies[1].samples[0]  # a draw depends on its seed alone


def test_the_picture_matters(family: tuple, picture: Path, tmp_path: Path) -> None:
    _, _, loaded = family
    Image.new("RGB", (96, 96), "red").save(tmp_path / "red.png")
    prompts = [Prompt(path, QUESTION) for path in (picture, tmp_path / "red.png")]
    seen, other = loaded.ask(prompts, Asking(2, 1))
    assert seen.first != other.first


def test_the_probability_of_a_whole_answer_counts_its_end(family: tuple, picture: Path) -> None:
    """Different whole answers have less than all of the probability together."""
    _, _, loaded = family
    reply = loaded.ask([Prompt(picture, QUESTION, answers=("75%", "7", "Yes", "No"))], Asking(4, 2))[0]
    assert all(0 < share < 1 for share in reply.answers) and sum(reply.answers) < 1


ANSWERS = ("75%", "7", "Yes", "No")


def positions_of_logits(loaded: vlm.VLM, patch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of positions whose logits the model computes, one entry a forward pass."""
    import torch

    found, forward, softmax = [], loaded.model.forward, torch.log_softmax

    @wraps(forward)  # generate() looks at the signature
    def watched(*arguments, **named):
        out = forward(*arguments, **named)
        found.append(out.logits.shape[1])
        return out

    def small(logits, *arguments, **named):
        assert logits.numel() <= 12 * logits.shape[-1]  # one answer's few tokens
        return softmax(logits, *arguments, **named)

    patch.setattr(loaded.model, "forward", watched)
    patch.setattr(torch, "log_softmax", small)
    return found


def test_logits_are_computed_of_the_positions_that_are_read(family: tuple, picture: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary of 100,000 at each of 3,000 positions, for every prompt of a batch, would fill a GPU."""
    _, _, loaded = family
    prompts = [Prompt(picture, text, answers=ANSWERS, seeds=(1,)) for text in ("Is there a dog?", QUESTION)]
    length = min(len(row["input_ids"]) for row in loaded.engines["plain"].encode(prompts))
    found = positions_of_logits(loaded, monkeypatch)
    loaded.ask(prompts, Asking(4, 3))
    assert length > 30 and max(found) <= 12 and found.count(1) >= 4


class Largest(TorchDispatchMode):
    """Within it, note the largest number of positions among all tensors that are as wide as the vocabulary."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.positions = vocabulary, 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        out = function(*arguments, **(named or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.ndim > 1 and tensor.shape[-1] == self.vocabulary:
                self.positions = max(self.positions, tensor.numel() // self.vocabulary)
        return out


@pytest.mark.parametrize("part", ["greedy", "answers"])
def test_the_peak_of_memory_holds_the_logits_of_few_positions(internvl: vlm.VLM, picture: Path, part: str) -> None:
    """Computing all of them and keeping a few would have the peak of docs/scale.md all the same: 3,400 a prompt."""
    prompts = [Prompt(picture, text, answers=ANSWERS if part == "answers" else ())
               for text in ("Is there a dog?", QUESTION)]  # fmt: skip
    plain = internvl.engines["plain"]
    length = min(len(row["input_ids"]) for row in plain.encode(prompts))
    vocabulary = internvl.model.language_model.get_output_embeddings().weight.shape[0]
    with torch.inference_mode(), Largest(vocabulary) as watched:
        for prompt in prompts:
            if part == "answers":
                plain._answers(prompt, 2)
            else:
                plain.reply(plain.encode([prompt]), [prompt], Asking(1, 2))
    assert 0 < watched.positions <= 24 < length


def test_the_arithmetic_of_logits_in_the_docs() -> None:
    """InternVL2: 3,400 tokens a prompt, a vocabulary of 92,553, float32."""
    everywhere, at_the_last = 32 * 3400 * 92553 * 4 / 1e9, 32 * 92553 * 4 / 1e9
    text = (ROOT / "docs" / "scale.md").read_text()
    assert f"{everywhere:.0f} GB" in text and f"{1000 * at_the_last:.0f} MB" in text


def test_a_model_whose_output_layer_is_not_found_gives_the_same_probabilities(family: tuple, picture: Path,
                                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, loaded = family
    prompts = [Prompt(picture, text, answers=ANSWERS, seeds=(1,)) for text in ("Is there a dog?", QUESTION)]
    few, found = loaded.ask(prompts, Asking(4, 3)), positions_of_logits(loaded, monkeypatch)
    for part in (loaded.model, getattr(loaded.model, "language_model", loaded.model)):
        monkeypatch.setattr(part, "get_output_embeddings", lambda: None, raising=False)
    every = loaded.ask(prompts, Asking(4, 3))
    assert max(found) > 30
    for one, other in zip(few, every, strict=True):
        assert (one.text, one.samples) == (other.text, other.samples)
        assert one.answers == pytest.approx(other.answers, rel=1e-4)
        assert one.first == pytest.approx(other.first, rel=1e-4)


@pytest.mark.parametrize(("batch_size", "advice"), [(32, r"set batch_size \(now 32\) to 8, or take smaller images"),
                                                    (1, r"; take smaller images \(max_pixels\)")])  # fmt: skip
def test_a_full_gpu_is_one_sentence_with_advice(internvl: vlm.VLM, picture: Path, monkeypatch: pytest.MonkeyPatch,
                                                batch_size: int, advice: str) -> None:
    import torch

    def full(**_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40.00 GiB. GPU 0 has a total capacity of")

    monkeypatch.setattr(internvl.model, "forward", full)
    with pytest.raises(UserError, match=rf"^The GPU has too little memory \(CUDA out of memory\).*{advice}") as error:
        internvl.ask([Prompt(picture, QUESTION)], Asking(batch_size, 3))
    assert "\n" not in str(error.value)


def test_the_cache_is_handed_back_where_there_is_one_that_works(family: tuple, picture: Path, tmp_path: Path,
                                                                capsys: pytest.CaptureFixture) -> None:
    model_type, _, loaded = family
    Image.new("RGB", (96, 96), "red").save(tmp_path / "red.png")
    prompts = [Prompt(path, text, seeds=(1,)) for path in (picture, tmp_path / "red.png")
               for text in ("What?", QUESTION)]  # fmt: skip
    plain, lengths, forward = loaded.engines["plain"], [], loaded.model.forward

    def watched(*arguments, **named):
        given = named.get("inputs_embeds") if named.get("input_ids") is None else named["input_ids"]
        lengths.append(given.shape[1])
        return forward(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "_cache", Cache())
        patch.setattr(loaded.model, "forward", watched)
        cached = loaded.ask(prompts, Asking(4, 6))
        assert plain._cache.works is (model_type != "qwen_vl")
        assert ("cache is not used" in capsys.readouterr().out) == (model_type == "qwen_vl")
        assert (1 in lengths) == (model_type != "qwen_vl")
        plain._cache.works, lengths[:] = False, []
        whole = loaded.ask(prompts, Asking(4, 6))
        assert 1 not in lengths
    assert [(r.text, r.samples) for r in cached] == [(r.text, r.samples) for r in whole]
    for one, other in zip(cached, whole, strict=True):
        assert one.first == pytest.approx(other.first, rel=1e-3)


@pytest.mark.parametrize("broken, why", [
    (lambda past: tuple((key * 0.5, value.flip(1) * 3) for key, value in past), "a probability differs by"),
    (lambda past: past[0], "dimensions"),  # not what it takes
])
def test_a_cache_that_does_not_work_is_said_and_left(internvl: vlm.VLM, picture: Path, broken: Callable, why: str,
                                                     capsys: pytest.CaptureFixture) -> None:
    prompts = [Prompt(picture, text) for text in ("What?", QUESTION)]
    right, forward, plain = internvl.ask(prompts, Asking(2, 5)), internvl.model.forward, internvl.engines["plain"]

    def other(*arguments, **named):
        out = forward(*arguments, **named)
        if out.past_key_values is not None:
            out.past_key_values = broken(out.past_key_values)
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "_cache", Cache())
        patch.setattr(internvl.model, "forward", other)
        found = internvl.ask(prompts, Asking(2, 5))
    assert re.search(f"own cache is not used .*{why}", capsys.readouterr().out)
    assert [reply.text for reply in found] == [reply.text for reply in right]


def test_logits_of_qwen2_vl_are_computed_where_they_are_read(model_folder: Path, picture: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 4.57 gives Qwen2-VL no logits_to_keep."""
    loaded = vlm.load_vlm(vlm.ModelChoice(str(model_folder), "qwen2_vl", "qwen2_vl", 12544), "plain")
    prompts = [Prompt(picture, text, answers=ANSWERS, seeds=(1,)) for text in ("Is there a star?", QUESTION)]
    found = positions_of_logits(loaded, monkeypatch)
    loaded.ask(prompts, Asking(4, 3))
    assert max(found) <= 12 and found.count(1) >= 4


def test_without_a_cache_replies_are_those_of_generate(model_folder: Path, picture: Path) -> None:
    """On a Qwen2-VL, which has both ways: greedy replies, draws and first tokens."""
    loaded = vlm.load_vlm(vlm.ModelChoice(str(model_folder), "qwen2_vl", "qwen2_vl", 12544), "plain")
    plain = loaded.engines["plain"]
    prompts = [Prompt(picture, text, seeds=(1, 2)) for text in ("Is there a star?", "What is it?", QUESTION)]
    assert not families.without_generate(loaded.model)
    cached = loaded.ask(prompts, Asking(3, 6))
    plain._decode = plain._by_forward_passes
    slow = loaded.ask(prompts, Asking(2, 6))
    assert [(r.text, r.samples, r.ended, r.samples_ended) for r in cached] == [
        (r.text, r.samples, r.ended, r.samples_ended) for r in slow]
    for one, other in zip(cached, slow, strict=True):
        assert one.first == pytest.approx(other.first, rel=1e-3)


@pytest.mark.slow
def test_both_trainings_of_each_family(family: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `swift sft` and `swift rlhf`; the checkpoints hold all weights, their code, and what training changed."""
    from safetensors.torch import load_file

    monkeypatch.chdir(ROOT)
    model_type, folder, _ = family
    paths = RunPaths("r", tmp_path)
    paths["perturbed/images"].mkdir(parents=True)
    rows = []
    for i, c in enumerate([90, 7, 64, 21]):
        path = paths["perturbed/images"] / f"{i}.png"
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (96, 96, 3), np.uint8)).save(path)
        rows.append(training_rows(f"Is there a dog {i}?", "Yes", c, str(path)))
    write_jsonl([row for row, _ in rows], paths["perturbed/sft.jsonl"])
    write_jsonl([pair for _, pair in rows], paths["perturbed/simpo.jsonl"])
    common = {"model_type": model_type, "template": FAMILIES[model_type], "max_pixels": None, "n_rows": None,
              "learning_rate": 1e-3, "device": "cpu", "batch_size": 2, "gradient_accumulation_steps": 1, "epochs": 4,
              "trust_remote_code": True}  # fmt: skip
    before = load_file(folder / "model.safetensors")
    for p, log, checkpoint in ((Sft(model=str(folder), **common), paths["sft/log.parquet"], paths["sft/checkpoint"]),
                               (Simpo(**common), paths["simpo/log.parquet"], paths["simpo/checkpoint"])):  # fmt: skip
        run_stage(p, paths)
        losses = pd.read_parquet(log)["loss"]
        assert len(losses) == 8 and losses[-2:].mean() < losses[:2].mean()
        after = load_file(checkpoint / "model.safetensors")
        assert after.keys() == before.keys() and any((after[name] != before[name]).any() for name in after)
        assert families.problems(None, checkpoint) == []  # its code is there as well
        choice = vlm.ModelChoice(str(checkpoint), model_type, FAMILIES[model_type], trust_remote_code=True)
        loaded = vlm.load_vlm(choice)
        kept = loaded.model.state_dict()
        assert all((kept[name] == value).all() for name, value in after.items())
        assert {name for name in kept if name not in after} <= {"model.vision_embed_tokens.wte.weight"}
        before = after
