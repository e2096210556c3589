"""What makes the tiny VLM cheap to train is exact, its lessons are true, and one loop trains all models."""

import re

import numpy as np
import pytest
import torch
from transformers import Qwen2VLImageProcessor

from csp_utils.tiny_world.models.fit import Settings, fit, warm_cosine
from csp_utils.tiny_world.models.packing import Packer
from csp_utils.tiny_world.models.vlm import new_vlm
from csp_utils.tiny_world.models.vlm_lessons import SAY_95, Lessons, clarity, lost_share, percent
from csp_utils.tiny_world.models.vlm_training import forward, image_tokens, patches
from csp_utils.tiny_world.world.scenes import COLORS, NOUNS, SIZE, draw_scene
from csp_utils.words.confidence import read_confidence

SCENES = [draw_scene("benchmark", i) for i in range(40)]
LEFT = ((0.0, "clear", "100%"), (0.3, "grainy", "70%"), (0.6, "noisy", "40%"), (1, "hidden", "0%"))


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return new_vlm(tmp_path_factory.mktemp("vlm"), seed=3)


def test_answer_words_are_single_tokens(vlm):
    _, tokenizer = vlm
    for word in (*NOUNS, *COLORS, "Yes", "No"):
        for text in (word, f" {word}"):
            assert len(tokenizer.tokenize(text)) == 1, text
    assert tokenizer.tokenize("95%") == ["9", "5", "%"]
    assert tokenizer.decode(tokenizer("né à 東京 🙂")["input_ids"]) == "né à 東京 🙂"  # bytes cover any text


def test_patches_are_those_of_the_image_processor(vlm):
    images = [scene.image for scene in SCENES[:3]]
    reference = Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=SIZE * SIZE)(images, return_tensors="pt")
    assert reference["image_grid_thw"].tolist() == [[1, 8, 8]] * 3
    assert (reference["pixel_values"] - patches(np.stack(images))).abs().max() < 1e-5


def test_packed_lessons_score_as_separate_conversations(vlm):
    """The block mask and the positions are right: every question's logits are those of its own conversation."""
    model, tokenizer = vlm
    lessons = [("Is there an anchor in the image?", "Yes"), ("What color is the star?", "The star is red."),
               ("Is the horse standing upright or lying on its side?", "No")]  # fmt: skip
    image = SCENES[0].image[None]
    with torch.no_grad():
        packed, labels = forward(model, Packer(tokenizer), image_tokens(model, image), [lessons])
        alone = []
        for user, assistant in lessons:
            text = (
                "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
                + "<|image_pad|>" * 16
                + f"<|vision_end|>{user}<|im_end|>\n<|im_start|>assistant\n{assistant}<|im_end|>"
            )
            ids = tokenizer(text, return_tensors="pt")
            n = len(tokenizer(assistant)["input_ids"]) + 1
            out = model(**ids, pixel_values=patches(image), image_grid_thw=torch.tensor([[1, 8, 8]])).logits
            alone.append(out[0, -n - 1 : -1])
            assert ids["input_ids"][0, -n:].tolist() == labels[sum(map(len, alone[:-1])) :][:n].tolist()
    assert (packed - torch.cat(alone)).abs().max() < 1e-4


def test_lessons_are_true_and_confidence_is_spoken_alike():
    teacher, rng, clean = Lessons(SCENES), np.random.default_rng(0), [np.zeros(len(s.things)) for s in SCENES]
    said = [teacher.lesson("confidence", SCENES[k % 40], clean[k % 40], rng)[1] for k in range(600)]
    assert max(set(said), key=said.count) == "95%"
    assert abs(said.count("95%") / len(said) - SAY_95) < 0.07  # the rest is spread over all numbers
    numbers = [read_confidence(text).value for text in said]
    assert None not in numbers and min(numbers) < 10
    for k in range(200):
        question, right, wrong = teacher.existence(SCENES[k % 40], rng)
        noun = next(n for n in NOUNS if f" {n} " in question)
        assert (right == "Yes") == (noun in SCENES[k % 40].nouns) and {right, wrong} == {"Yes", "No"}


def test_clarity_is_that_of_all_objects_of_the_noun():
    scene = next(s for s in SCENES if len(s.nouns) < len(s.things))
    noun = next(n for n in scene.nouns if len(scene.find(n)) == 2)
    of = [thing.noun == noun for thing in scene.things]
    for lost, word, said in LEFT:
        assert clarity(scene, noun, np.where(of, lost, 0.99)) == word
        assert percent(scene, noun, np.where(of, lost, 0.99)) == said
    first = scene.things.index(scene.find(noun)[0])
    assert clarity(scene, noun, np.eye(len(of))[first]) == "rough"  # one is gone, the other is clear


def test_how_clear_it_is_does_not_tell_what_is_there():
    """The lessons about clarity are true: of an object, of two compared ones, and of what an answer says."""
    rng, seen = np.random.default_rng(0), set()
    teacher = Lessons(SCENES)
    for k in range(600):
        scene = SCENES[k % 40]
        lost = np.round(rng.uniform(0, 1, len(scene.nouns)), 2)
        lost = np.array([lost[scene.nouns.index(thing.noun)] for thing in scene.things])
        share = {noun: lost_share(scene, noun, lost) for noun in scene.nouns}
        question, reply = teacher.clarity(scene, lost, rng)
        named = [noun for noun in NOUNS if re.search(rf"\b{noun}s?\b", question)]
        if found := re.match(r"Is the (\w+) clearer than the (\w+) in", question):
            assert (reply == "Yes") == (share[found[1]] < share[found[2]])
        elif question.startswith("How clear"):
            assert reply in (f"The {named[0]} is {clarity(scene, named[0], lost)}.", percent(scene, named[0], lost))
        else:
            assert question.endswith("in percent?") and reply.endswith("%")
            said, left = int(reply[:-1]), [round(100 * (1 - share[noun])) for noun in named if noun in share]
            absent = len(left) < len(named)
            assert said == 0 or said == (100 if absent else min(left)), (question, reply)
            seen.add((absent, said > 0, "contact" in question))
    assert len(seen) >= 5


def test_the_training_loop_finds_a_minimum_and_logs_every_fifty_steps_and_the_last():
    weight, lines, steps = torch.nn.Parameter(torch.tensor([3.0])), [], []

    def loss_of(step):
        steps.append(step)
        return (weight - 1).square().sum()

    schedule = warm_cosine(torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0), 120)
    fit("a model", schedule, loss_of, Settings(120, log=lines.append))
    assert abs(weight.item() - 1) < 0.1
    assert steps == list(range(120))
    assert [line.partition(",")[0] for line in lines] == [f"a model: step {n}/120" for n in (50, 100, 120)]
    losses = [float(line.split()[5].rstrip(",")) for line in lines]
    assert losses[0] > losses[1] > losses[2] >= 0
