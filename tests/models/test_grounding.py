"""GroundingDINO: loading any size, batches that equal the library's single calls, the tiny model's training loss."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import groundingdino
import numpy as np
import pytest
import torch
from groundingdino.util.inference import predict
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.ops import box_convert

from csp_utils.base.errors import UserError
from csp_utils.models import grounding_dino
from csp_utils.tiny_world.models import grounding_dino as train_grounding
from csp_utils.tiny_world.models import grounding_lessons
from csp_utils.tiny_world.models.fit import Settings
from csp_utils.tiny_world.world.scenes import NOUNS, draw_scene

OFFICIAL = Path(groundingdino.__file__).parent / "config" / "GroundingDINO_SwinT_OGC.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint folder after one training step."""
    path = tmp_path_factory.mktemp("dino") / "dino"
    train_grounding.train(path, Settings(steps=1, n_scenes=1, log=lambda line: None), captions=2)
    return path


@pytest.fixture(scope="module")
def detector(folder):
    return grounding_dino.load_grounding_dino(folder)


def pictures():
    """Four pictures of three shapes."""
    square = [Image.fromarray(draw_scene("dev", i).image) for i in range(2)]
    return [*square, square[0].resize((200, 120)), square[1].resize((90, 150))]


@pytest.fixture(scope="module")
def scattered(folder):
    """The tiny size with random weights in every layer: as built, its box heads end in zeros."""
    torch.manual_seed(1)
    config = grounding_dino.read_config(folder)
    model = grounding_dino.build_grounding_dino(config, folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
        model.transformer.decoder.norm.weight *= 0.1  # else nearly all scores are 1
        model.transformer.decoder.norm.bias *= 0.1
    return grounding_dino.Detector(model, config["image_size"], config["image_max_size"])


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_equal_the_librarys_predict_one_by_one(scattered, batch_size):
    """Also for captions of several patterns, which groundingdino-py itself mixes up within a batch."""
    words = ["anchor", "Umbrella", "red blue star", "moon. star", "a zebra on skates"]  # the third and fourth: 6 tokens
    pairs = [(image, word) for image in pictures() for word in words]
    images, asked = [image for image, _ in pairs], [word for _, word in pairs]
    box_threshold, text_threshold = 0.65, 0.6
    found = grounding_dino.detect(scattered, images, asked, box_threshold, text_threshold, batch_size)
    n_boxes = []
    for (image, word), mine in zip(pairs, found, strict=True):
        pixels = grounding_dino.preprocess(image, scattered.image_size, scattered.image_max_size)
        boxes, scores, phrases = predict(scattered.model, pixels, word, box_threshold, text_threshold, device="cpu")
        order = torch.argsort(scores, descending=True, stable=True)
        theirs = box_convert(boxes[order], "cxcywh", "xyxy") * torch.tensor([*image.size, *image.size])
        theirs = theirs.clamp(min=0).minimum(torch.tensor([*image.size, *image.size]))
        np.testing.assert_allclose(mine.scores, scores[order], atol=1e-5)
        np.testing.assert_allclose(mine.boxes, theirs, atol=1e-3)
        assert mine.phrases == [phrases[i].strip() for i in order]
        n_boxes.append(len(boxes))
    assert sum(n_boxes) > 20 and len(set(n_boxes)) > 3, "the thresholds let all or nothing pass"


def test_preprocessing_is_that_of_the_official_demo(tmp_path):
    from groundingdino.util.inference import load_image

    pictures()[2].save(tmp_path / "scene.png")
    _, theirs = load_image(str(tmp_path / "scene.png"))
    mine = grounding_dino.preprocess(pictures()[2], grounding_dino.IMAGE_SIZE, grounding_dino.IMAGE_MAX_SIZE)
    assert torch.equal(mine, theirs)


def test_boxes_lie_in_the_picture_best_first(detector):
    (found,) = grounding_dino.detect(detector, [pictures()[2]], ["moon"], box_threshold=0.0)
    assert len(found.boxes) == 12 == len(found.scores) == len(found.phrases)
    assert (np.diff(found.scores) <= 0).all()
    assert (found.boxes >= 0).all() and (found.boxes[:, [0, 2]] <= 200).all() and (found.boxes[:, [1, 3]] <= 120).all()
    assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()


def test_a_threshold_of_one_leaves_nothing(detector):
    (found,) = grounding_dino.detect(detector, [pictures()[0]], ["moon"], box_threshold=1.0)
    assert found.boxes.shape == (0, 4) and found.phrases == []


def test_training_is_deterministic(folder, tmp_path):
    train_grounding.train(tmp_path / "again", Settings(steps=1, n_scenes=1, log=lambda line: None), captions=2)
    for name in ("model.safetensors", "config.json", "text_encoder/vocab.txt"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_every_noun_is_one_token(detector):
    for noun in NOUNS:
        tokens = detector.model.tokenizer(grounding_dino.caption_of(noun))["input_ids"]
        assert len(tokens) == 4  # [CLS], the noun, "." and [SEP]


def test_the_official_configuration_is_read_without_running_it(tmp_path):
    shutil.copy(OFFICIAL, tmp_path)
    config = grounding_dino.read_config(tmp_path)
    assert config["hidden_dim"] == 256 and config["num_queries"] == 900 and config["return_interm_indices"] == [1, 2, 3]
    (tmp_path / OFFICIAL.name).write_text("backbone = print('run')")
    with pytest.raises(UserError, match="no configuration"):
        grounding_dino.read_config(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "other size", "no weights", "two", "one weight too few", "no folder"])
def test_a_wrong_checkpoint_is_one_sentence(folder, tmp_path, damage, detector):
    copy = tmp_path / "dino"
    shutil.copytree(folder, copy)
    weights = copy / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:9000])
    elif damage == "other size":
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | {"dim_feedforward": 64}))
    elif damage == "no weights":
        weights.unlink()
    elif damage == "two":
        shutil.copy(weights, copy / "other.safetensors")
    elif damage == "one weight too few":
        state = detector.model.state_dict()
        state.pop("feat_map.weight")
        weights.unlink()
        torch.save(state, copy / "dino.pth")
    else:
        shutil.rmtree(copy)
    with pytest.raises(UserError) as error:
        grounding_dino.load_grounding_dino(copy)
    assert str(copy) in str(error.value) and "\n" not in str(error.value)


def test_a_changed_file_is_refused(folder, tmp_path):
    from csp_utils.base.files import manifest_files, write_json

    shutil.copytree(folder, tmp_path / "models/dino")
    write_json({"files": manifest_files(tmp_path / "models")}, tmp_path / "models/MANIFEST.json")
    grounding_dino.load_grounding_dino(tmp_path / "models/dino")
    with (tmp_path / "models/dino/model.safetensors").open("ab") as file:
        file.write(b"0")
    with pytest.raises(UserError, match="SHA-256"):
        grounding_dino.load_grounding_dino(tmp_path / "models/dino")


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_set_loss_is_least_for_the_truth(owners, seed):
    """Queries that hold the objects' boxes and score their nouns there cost almost nothing, in whatever order."""
    rng = torch.Generator().manual_seed(seed)
    owner = torch.tensor(sorted(owners))
    boxes = torch.rand(len(owner), 4, generator=rng) * 0.3 + 0.3
    token = torch.randint(1, 9, owner.shape, generator=rng)
    named = grounding_lessons.Targets(boxes, owner, token, 10)
    predicted = torch.rand(3, 8, 4, generator=rng) * 0.3 + 0.3
    logits = torch.full((3, 8, 256), -20.0)
    place = torch.stack([torch.randperm(8, generator=rng) for _ in range(3)])
    for i, b in enumerate(owner.tolist()):
        query = place[b, i]
        predicted[b, query] = boxes[i]
        logits[b, query, token[i]] = 20
    assert grounding_lessons.set_loss(logits, predicted, named) < 1e-3
    assert grounding_lessons.set_loss(-logits, predicted, named) > 10
    assert grounding_lessons.set_loss(logits.roll(1, 2), predicted, named) > 1  # the neighbouring token's noun
    assert grounding_lessons.set_loss(logits, (predicted + 0.1).clamp(max=1), named) > 0.5


def test_tokens_in_the_middle_of_the_box_are_the_ones_to_score():
    named = grounding_lessons.Targets(torch.tensor([[0.5, 0.5, 0.5, 0.5]]), torch.tensor([0]), torch.tensor([3]), 6)
    logits = torch.full((1, 16, 256), -20.0)
    logits[0, [5, 6, 9, 10], 3] = 20  # the four middle cells of a 4 x 4 grid
    assert grounding_lessons.token_loss(logits, [(4, 4)], named) < 1e-3
    logits[0, 0, 3] = 20
    assert grounding_lessons.token_loss(logits, [(4, 4)], named) > 1


@pytest.mark.parametrize("listed, images, captions", [(16, 8, 8), (4, 8, 8), (1, 2, 8)])
def test_lessons_name_what_is_there_and_what_is_not(detector, listed, images, captions):
    lessons = grounding_lessons.Lessons(5, captions=8, seed=1)
    pixels, lists, named, each = lessons.batch(listed)
    assert pixels.shape == (images, 3, 112, 112) and len(lists) == captions == images * each
    tokens = detector.model.tokenizer(lists)["input_ids"]
    assert {len(ids) for ids in tokens} == {named.n_tokens}
    asked, present = captions * listed, set(zip(named.caption.tolist(), named.token.tolist(), strict=True))
    assert 0 < len(present) < asked
    truth = [boxes for _, boxes in map(lessons.scene, range(5))]
    for owner, token, box in zip(named.caption, named.token, named.boxes, strict=True):
        noun = detector.model.tokenizer.convert_ids_to_tokens(tokens[owner])[token]
        assert any((box == row).all() for boxes in truth for row in boxes.get(noun, ()))


def test_found_things_pairs_each_thing_with_a_box_of_its_own():
    scene = draw_scene("dev", 3)
    things = list(scene.things)
    boxes = np.array([t.box for t in reversed(things)], np.float32)
    found = grounding_dino.Detection(boxes, np.ones(len(boxes), np.float32), [""] * len(boxes))
    pairs = train_grounding.found_things(found, things)
    assert [(i, j) for i, j, _ in pairs] == [(i, len(things) - 1 - i) for i in range(len(things))]
    assert all(iou == pytest.approx(1) for _, _, iou in pairs)


@pytest.mark.slow
def test_the_official_configuration_builds(folder, tmp_path):
    """With random weights; the text encoder's configuration is the tiny one's, so that nothing is downloaded."""
    shutil.copy(OFFICIAL, tmp_path)
    shutil.copytree(folder / "text_encoder", tmp_path / "bert-base-uncased")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        model = grounding_dino.build_grounding_dino(grounding_dino.read_config(tmp_path), tmp_path)
    assert not printed.getvalue()
    assert len(model.transformer.encoder.layers) == 6 and model.backbone[0].embed_dim == 96
