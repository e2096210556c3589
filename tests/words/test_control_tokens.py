"""Test which texts count as control tokens of ms-swift and of the models' families, and which are plain text."""

import pytest
from small_families import _parts

from csp_utils.words.control_tokens import control_token


@pytest.mark.parametrize("token", [
    "<image>", "<video>", "<audio>", "<bbox>", "<ref-object>", "<cot-process>", "<start-image>", "<|image_pad|>",
    "<|video_pad|>", "<|vision_start|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|image_1|>", "<|image|>",
    "<img>", "</img>", "<IMG_CONTEXT>", "<imgpad>", "<box>", "</ref>", "<s>", "</s>", "<unk>", "<end_of_turn>",
    "<|begin▁of▁sentence|>", "<｜User｜>", "[INST]", "[/INST]", "[IMG]",
])  # fmt: skip
@pytest.mark.parametrize("text", ["{}", "Is there a {} dog?", "a{}b", "\n{}\n"])
def test_a_control_token_is_found_anywhere(token, text):
    assert control_token(text.format(token)) == token


@pytest.mark.parametrize("text", [
    "", "Is the image of a dog?", "2 < 3 and 4 > 1", "a <b> tag", "<think> 90% </think>", "x<|y", "the |> sign",
    "<images>", "< image >", "a[1]", "[inst]", "<p>The video</p>", "image> <image", "100 %",
])  # fmt: skip
def test_plain_text_has_none(text):
    assert control_token(text) is None


def test_ms_swifts_own_list_is_covered():
    from swift.template.base import Template

    assert [token for token in Template.special_tokens if control_token(token) != token] == []


@pytest.mark.parametrize("family", ["internvl_chat", "phi3_vision", "qwen_vl"])
def test_the_special_tokens_of_the_families_are_covered(family):
    vocabulary = _parts(family)[0].get_added_tokens_decoder()
    assert vocabulary and [token.content for token in vocabulary.values() if not control_token(token.content)] == []


def test_the_special_tokens_of_a_tokenizer_count_too():
    assert control_token("a [PAD] b", ["", "[PAD]"]) == "[PAD]" and control_token("a [PAD] b") is None
