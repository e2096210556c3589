"""Checkpoints in the layout of the official files load; anything else is one sentence, and no code of it runs."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import ROOT
from PIL import Image

from csp_utils.base.errors import UserError
from csp_utils.models import grounding_dino, sam
from csp_utils.tiny_world.world.scenes import draw_scene

ASSETS = ROOT / "assets" / "tiny_world"
LOAD = {"grounding_dino": grounding_dino.load_grounding_dino, "sam": sam.load_sam}


class Payload:
    """What torch.save writes of it makes a folder when it is unpickled without care."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, (str(self.folder),)


def weights(name: str) -> dict[str, torch.Tensor]:
    """All weights of a tiny model by the names that its class gives them."""
    model = LOAD[name](ASSETS / name).model
    return dict(model.state_dict())


@pytest.fixture(scope="module", params=list(LOAD))
def name(request):
    """Each of the two models."""
    return request.param


@pytest.fixture(scope="module")
def state(name):
    return weights(name)


def official(name: str, state: dict[str, torch.Tensor]) -> dict:
    """The weights as the official file wraps them."""
    if name == "sam":  # sam_vit_h_4b8939.pth: nothing but the weights
        return state
    # groundingdino_swint_ogc.pth: what DistributedDataParallel calls them, and two entries that the model has not
    old = {"label_enc.weight": torch.rand(2001, 256), "bert.embeddings.position_ids": torch.arange(512)[None]}
    return {"model": {f"module.{key}": value for key, value in {**state, **old}.items()}}


@pytest.fixture
def folder(name, tmp_path):
    """A folder with the configuration of a tiny model and no weights; GroundingDINO's as lines ``name = literal``."""
    home = tmp_path / name
    home.mkdir()
    config = json.loads((ASSETS / name / "config.json").read_text())
    if name == "sam":
        (home / "config.json").write_text(json.dumps(config))
    else:
        config["text_encoder_type"] = str(ASSETS / name / config["text_encoder_type"])
        lines = [f"{key} = {value!r}" for key, value in {"batch_size": 1, **config}.items()]
        (home / "GroundingDINO_Tiny.py").write_text("# a configuration\n" + "\n".join(lines) + "\n")
    return home


def test_the_official_layout_loads_and_sees_the_same(name, state, folder):
    torch.save(official(name, state), folder / "official.pth")
    loaded, own = LOAD[name](folder), LOAD[name](ASSETS / name)
    assert all(torch.equal(value, state[key]) for key, value in loaded.model.state_dict().items())
    scene = draw_scene("test", 8100)
    image = Image.fromarray(scene.image)
    if name == "sam":
        boxes = np.array([thing.box for thing in scene.things], np.float32)
        for theirs, mine in zip(sam.segment(own, image, boxes), sam.segment(loaded, image, boxes),
                                strict=True):  # fmt: skip
            assert np.array_equal(theirs, mine) and theirs.any()
    else:
        found = [grounding_dino.detect(one, [image], scene.nouns[:1])[0] for one in (own, loaded)]
        assert len(found[0].boxes) and np.array_equal(found[0].boxes, found[1].boxes)
        assert np.array_equal(found[0].scores, found[1].scores) and found[0].phrases == found[1].phrases


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("place", ["beside the weights", "in their place"])
def test_a_payload_is_refused_and_does_not_run(name, state, folder, zipped, place):
    ran = folder / "ran"
    payload = Payload(ran)
    content = official(name, state)
    content = {**content, "args": payload} if place == "beside the weights" else payload
    path = folder / "official.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="holds more than weights .*mkdir.* was not loaded") as error:
        LOAD[name](folder)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and "weights_only" not in str(error.value)
    assert not ran.exists()
    torch.load(path, weights_only=False)
    assert ran.exists(), "this payload would not have run anyway"


@pytest.mark.parametrize("size", [0, 3, 5000, -10], ids=["empty", "3 bytes", "5000 bytes", "10 bytes short"])
@pytest.mark.parametrize("form", ["zip", "before torch 1.6", "safetensors"])
def test_a_truncated_file_is_one_sentence(name, state, folder, form, size):
    path = folder / ("model.safetensors" if form == "safetensors" else "official.pth")
    if form == "safetensors":
        safetensors.torch.save_file({key: value.clone() for key, value in state.items()}, path)
    else:
        torch.save(official(name, state), path, _use_new_zipfile_serialization=form == "zip")
    path.write_bytes(path.read_bytes()[:size])
    refused(name, folder, path, "is damaged|is no file of weights")


@pytest.mark.parametrize("content", [
    b"<html>Not found</html>", b"version https://git-lfs.github.com/spec/v1\n", pickle.dumps({"a": 1}),
], ids=["web page", "LFS pointer", "other pickle"])  # fmt: skip
def test_another_kind_of_file_is_one_sentence(name, folder, content):
    path = folder / "official.pth"
    path.write_bytes(content)
    refused(name, folder, path, "is damaged|is no file of weights|does not hold weights")


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"model": 3}, {"a": 1}, {1: torch.zeros(2)}])
def test_a_file_without_weights_by_name_is_one_sentence(name, folder, content):
    path = folder / "official.pth"
    torch.save(content, path)
    refused(name, folder, path, "does not hold weights by their names")


def test_a_file_of_another_size_is_one_sentence_that_names_both(name, state, folder):
    path = folder / "official.pth"
    key = {"sam": "image_encoder.pos_embed", "grounding_dino": "transformer.tgt_embed.weight"}[name]
    larger = torch.cat([state[key], state[key]])
    torch.save(official(name, {**state, key: larger}), path)
    there, wanted = len(larger), len(state[key])
    refused(name, folder, path, rf"does not fit its configuration .*{key}.*\[{there}, .*\[{wanted}, ")
    torch.save(official(name, {k: v for k, v in state.items() if k != key}), path)
    refused(name, folder, path, f"does not fit its configuration.*missing .*{key}")
    torch.save(official(name, {**state, "one.more": larger}), path)
    refused(name, folder, path, "does not fit its configuration.*unexpected .*one.more")


def refused(name: str, folder: Path, path: Path, sentence: str) -> None:
    """Loading raises one sentence that names the file and says what to do."""
    with pytest.raises(UserError, match=sentence) as error:
        LOAD[name](folder)
    text = str(error.value)
    assert str(path) in text and "\n" not in text and ". " not in text and text.endswith(".") and ";" in text
