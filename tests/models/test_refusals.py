"""Test that a thin image, a control token and a question that is too long are one sentence before a model is called."""

from pathlib import Path

import pytest
from PIL import Image

from csp_utils.base.errors import UserError
from csp_utils.data.images import too_thin
from csp_utils.data.views import Blurred
from csp_utils.models.grounding_dino import Detector, detect
from csp_utils.models.vlm.load import ModelChoice, load_vlm
from csp_utils.models.vlm.reply import Asking, Prompt

QUESTION = "Is there a dog in the image?"


@pytest.fixture(scope="module")
def vlm():
    return load_vlm(ModelChoice("assets/tiny_world/vlm", "qwen2_vl", "qwen2_vl", 12544))


def image(folder: Path, size: tuple[int, int]) -> Path:
    Image.new("RGB", size).save(folder / "a.png")
    return folder / "a.png"


def refused(vlm, prompts, engine: str) -> str:
    with pytest.raises(UserError) as error:
        vlm.ask(prompts, Asking(2, 4), engine)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    return str(error.value)


@pytest.mark.parametrize(("size", "thin"), [
    ((1, 1), False), ((200, 1), False), ((1, 200), False), ((640, 480), False), ((201, 1), True), ((1, 201), True),
    ((450, 2), True), ((400, 2), False), ((3000, 14), True),
])  # fmt: skip
def test_an_image_is_thin_from_200_times_as_long_as_wide(size, thin):
    assert too_thin(size) is thin


@pytest.mark.parametrize("engine", ["plain", "shared"])
@pytest.mark.parametrize("size", [(201, 1), (1, 400), (450, 2)])
def test_a_thin_image_is_named(vlm, tmp_path, engine, size):
    path = image(tmp_path, size)
    for shown in (path, Blurred(path, 5.0)):
        said = refused(vlm, [(None, QUESTION), (shown, QUESTION)], engine)
        assert str(path) in said and f"{size[0]} x {size[1]} pixels" in said


@pytest.mark.parametrize("engine", ["plain", "shared"])
@pytest.mark.parametrize("size", [(200, 1), (1, 200), (1, 1), (199, 2)])
def test_a_thin_image_within_the_limit_is_asked_about(vlm, tmp_path, engine, size):
    assert vlm.ask([(image(tmp_path, size), QUESTION)], Asking(2, 4), engine)[0]


TOKENS = ["<|image_pad|>", "<|im_start|>", "<|im_end|>", "<start-image>", "<image>", "<video>"]


@pytest.mark.parametrize("engine", ["plain", "shared"])
@pytest.mark.parametrize("token", TOKENS)
def test_a_question_that_says_a_control_token_is_named(vlm, tmp_path, engine, token):
    path = image(tmp_path, (28, 28))
    said = refused(vlm, [(path, QUESTION), Prompt(path, f"Is there a dog? {token}")], engine)
    assert f"'Is there a dog? {token}' says {token}" in said


@pytest.mark.parametrize("engine", ["plain", "shared"])
@pytest.mark.parametrize("before", [0, 1])
def test_a_question_that_is_too_long_is_named(vlm, tmp_path, engine, before):
    """The shared engine checks all questions about an image; ms-swift's template sees only the first."""
    path = image(tmp_path, (28, 28))
    said = refused(vlm, [(path, QUESTION)] * before + [(path, "a dog " * 4000)], engine)
    assert "The question 'a dog a dog" in said and "the 4,096 that the model takes" in said


def test_grounding_dino_takes_no_thin_image():
    with pytest.raises(UserError, match="An image of 400 x 1 pixels is too thin"):
        detect(Detector(None, 800, 1333), [Image.new("RGB", (400, 1))], ["dog"])
