"""Every engine knows whether the model ended its reply, or the token budget did."""

from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from csp_utils.models.vlm import load as vlm
from csp_utils.models.vlm.reply import Asking, Prompt
from csp_utils.words.confidence import read_confidence
from csp_utils.words.prompts import confidence_question


@pytest.fixture(scope="module")
def tiny() -> vlm.VLM:
    """The shipped model, which says "95%" to nearly everything: two digits, a percent sign, and its end."""
    return vlm.load_vlm(vlm.ModelChoice(str(ROOT / "assets/tiny_world/vlm"), "qwen2_vl", "qwen2_vl", 12544))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> list[Prompt]:
    """Two prompts about one image, each with draws."""
    path: Path = tmp_path_factory.mktemp("images") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)).save(path)
    return [Prompt(path, confidence_question("Is there a star in the image?", c), seeds=(1, 2)) for c in ("Yes", "No")]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["plain", "shared", "passes"])
def test_a_reply_knows_whether_it_ended(tiny, prompts, engine, monkeypatch):
    plain = tiny.engines["plain"]
    if engine == "passes":
        monkeypatch.setattr(plain, "_decode", plain._by_forward_passes)
    ask = "plain" if engine == "passes" else engine
    whole = tiny.ask(prompts, Asking(4, 8), engine=ask)
    assert all(reply.ended and reply.samples_ended == (True, True) for reply in whole)
    for budget in (1, 2, 3):
        for cut, reply in zip(tiny.ask(prompts, Asking(4, budget), engine=ask), whole, strict=True):
            assert cut.ended == (cut.text == reply.text and len(reply.text) < budget) or not cut.ended
            assert not cut.ended or cut.text == reply.text
            assert read_confidence(cut.text, "Yes", cut.ended).value in (None, read_confidence(reply.text).value)
    assert not any(reply.ended for reply in tiny.ask(prompts, Asking(4, 1), engine=ask))
    just = {len(tiny.tokenizer(reply.text)["input_ids"]) for reply in whole}
    exact = tiny.ask(prompts, Asking(4, max(just)), engine=ask)
    assert not all(reply.ended for reply in exact) and [reply.text for reply in exact] == [r.text for r in whole]
