"""The cache of replies: what a cached reply depends on, and what not. Models are pretended."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from huggingface_hub import constants
from PIL import Image
from stage_tools import run_stage

from csp_utils.asking import elicitation, evaluation, stress
from csp_utils.asking import schedule as schedule_questions
from csp_utils.asking import variants as asking
from csp_utils.base.errors import UserError
from csp_utils.base.run import RunPaths
from csp_utils.models.vlm.reply import Reply
from csp_utils.results import code, origin
from csp_utils.stages.evaluate import Eval
from csp_utils.tiny_world.world.data import write_world
from csp_utils.words.confidence_prompts import CONFIDENCE_PROMPTS


class Pretended:
    """Says 90% to everything."""

    engine, why_not_shared = "plain", "it is pretended"

    def ask(self, prompts, *_, shard=None, **__) -> list[Reply]:
        return [Reply("90%", {"Yes": 0.6, "No": 0.2}) for _ in prompts]


@dataclass
class Cache:
    """One question about one image, asked of one model through the cache.

    Attributes:
        loaded: the models that were loaded, in order.
    """

    folder: Path
    p: Eval
    loaded: list[str] = field(default_factory=list)

    @property
    def image(self) -> Path:
        return self.folder / "a.png"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def ask(self, question: str = "Is there a star?", **parameters: Any) -> pd.DataFrame:
        """Return the replies; ``parameters`` take the place of those of notebook 06."""
        row = ("pope_random", "1", "a.png", question, "yes", "existence", str(self.image))
        table = pd.DataFrame([row], columns=["split", "question_id", "image", "question", "label", "kind", "path"])
        p = self.p.model_copy(update=parameters)
        return evaluation.ask(p, {"base": p.base_model}, table, self.folder / "elicited")

    def asks_again(self, **parameters: Any) -> bool:
        """Ask, and say whether a model was loaded for it."""
        before = len(self.loaded)
        self.ask(**parameters)
        return len(self.loaded) > before


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png", "BMP")  # whose size tells nothing of its content
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"1")
    found = Cache(tmp_path, Eval(base_model=str(tmp_path / "model"), engine="plain", device="cpu"))

    def load(model: str, *_: Any) -> Pretended:
        found.loaded.append(model)
        return Pretended()

    monkeypatch.setattr(asking, "load_vlm", load)
    found.ask()
    assert len(found.loaded) == 1
    return found


def as_it_was(path: Path, change: Callable[[], None]) -> None:
    """Change a file; its size and its times stay."""
    stat = path.stat()
    change()
    assert path.stat().st_size == stat.st_size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_second_call_takes_the_replies_from_the_cache(cache: Cache) -> None:
    first, second = cache.ask(), cache.ask()
    pd.testing.assert_frame_equal(first, second)
    assert len(cache.loaded) == 1


def test_where_a_model_runs_is_no_reason_to_ask_again(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Was: the device was part of the key, so that a move from a laptop to a GPU asked everything again."""
    monkeypatch.setattr(asking, "pick_device", lambda device: "cuda")
    assert not cache.asks_again(device="auto") and not cache.asks_again(run="another", shards=1)


@pytest.mark.parametrize("parameters", [
    {"template": "qwen2_5_vl"}, {"model_type": None}, {"max_pixels": 50176}, {"torch_dtype": "bfloat16"},
    {"batch_size": 7}, {"max_new_tokens": 9}, {"engine": "auto"}, {"seed": 1}, {"temperature": 0.5},
    {"prompts": ["third_person", "p_true"]}, {"question": "Is there a moon?"},
], ids=lambda parameters: next(iter(parameters)))  # fmt: skip
def test_a_parameter_that_reaches_the_replies_asks_again(cache: Cache, parameters: dict) -> None:
    """Was: template, model_type, batch_size and max_pixels were not in the key."""
    assert cache.asks_again(**parameters) and not cache.asks_again(**parameters)


def test_another_content_of_an_image_asks_again(cache: Cache) -> None:
    """Was: an image counted by its name alone. Here name, size and times stay as well."""
    as_it_was(cache.image, lambda: Image.new("RGB", (8, 8), "blue").save(cache.image, "BMP"))
    assert cache.asks_again()


def test_another_content_of_the_model_asks_again(cache: Cache) -> None:
    """Was: a model counted by the sizes and times of its files."""
    weights = cache.model / "model.safetensors"
    as_it_was(weights, lambda: weights.write_bytes(b"2"))
    assert cache.asks_again()


def test_the_base_of_an_adapter_counts_as_well(cache: Cache) -> None:
    adapter = cache.folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{cache.model}"}}')
    assert cache.asks_again(base_model=str(adapter)) and not cache.asks_again(base_model=str(adapter))
    (cache.model / "model.safetensors").write_bytes(b"2")
    assert cache.asks_again(base_model=str(adapter))


def test_the_commit_of_a_model_on_the_hub_counts(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Was: a hub id counted by its name, so that a repaired model was answered for by the broken one."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache.folder / "hub"))
    reference = cache.folder / "hub" / "models--org--vlm" / "refs" / "main"
    reference.parent.mkdir(parents=True)
    reference.write_text("aaaa")
    assert cache.asks_again(base_model="org/vlm") and not cache.asks_again(base_model="org/vlm")
    reference.write_text("bbbb")
    assert cache.asks_again(base_model="org/vlm")


def test_fetching_a_model_of_the_hub_changes_no_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a stage that fetches its model would refuse to publish: its input would have changed meanwhile."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert origin.hub_commit("org/vlm") == "not fetched"  # offline, as all tests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name, **_: SimpleNamespace(sha=f"of {name}"))
    assert origin.hub_commit("org/vlm") == "of org/vlm"
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: 1 / 0)
    assert origin.hub_commit("org/vlm") == "not fetched"


def test_another_version_of_a_library_asks_again(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Was: an upgrade of transformers or ms-swift left all replies as they were."""
    version = origin._version
    for name in ("transformers", "ms-swift", "torch", "qwen-vl-utils", "pillow"):
        monkeypatch.setattr(origin, "_version", lambda one, name=name: "0.1" if one == name else version(one))
        assert cache.asks_again()


@pytest.fixture
def edited(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that pretends another text of a module: (end of its path, old, new)."""
    source = code._source

    def edit(name: str, old: str = "", new: str = "") -> None:
        def text(path: Path) -> str:
            found = source(path)
            if path.as_posix().endswith(name):
                assert old in found
                found = found.replace(old, new, 1) if old else found + "\nprint('fixed')\n"
            return found

        monkeypatch.setattr(code, "_source", text)
        code._module.cache_clear()

    yield edit
    monkeypatch.undo()
    code._module.cache_clear()


@pytest.mark.parametrize("name, old, new", [
    ("models/vlm/load.py", 'template.set_mode("transformers")', 'template.set_mode("pt")'),
    ("asking/elicitation.py", "temperature=plan.temperature", "temperature=2 * plan.temperature"),
    *[(name, "", "") for name in ("models/vlm/plain.py", "models/vlm/shared.py", "models/vlm/token_tree.py",
                                  "models/swift_plugins/image_tokens.py", "data/images.py", "words/prompts.py")],
])  # fmt: skip
def test_a_fix_in_the_code_that_asks_asks_again(cache: Cache, edited: Any, name: str, old: str, new: str) -> None:
    """Was: replies were served from before a fix of the engines."""
    edited(name, old, new)
    assert cache.asks_again()


def test_a_comment_or_a_docstring_asks_nothing_again(cache: Cache, edited: Any) -> None:
    edited("models/vlm/plain.py", "class PlainEngine", "# a comment\nclass PlainEngine")
    assert not cache.asks_again()
    edited("models/vlm/load.py", '"""Load a vision-language model with its', '"""A model and its')
    assert not cache.asks_again()
    edited("measures/metrics.py")  # what is measured of the replies is another matter
    assert not cache.asks_again()


def test_another_text_of_a_prompt_asks_again(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = CONFIDENCE_PROMPTS["third_person"]
    monkeypatch.setitem(CONFIDENCE_PROMPTS, "third_person", replace(prompt, text=f"{prompt.text} Think."))
    assert cache.asks_again()
    monkeypatch.setattr(elicitation, "plain_question", lambda question: f"{question} Say yes or no.")
    assert cache.asks_again()


def test_nothing_is_cached_of_a_variant_that_was_cut(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Pretended, "ask", cut)
    with pytest.raises(KeyboardInterrupt):
        cache.ask(seed=1)
    monkeypatch.undo()
    kept = list((cache.folder / "elicited").rglob("replies.parquet"))
    assert len(kept) == 1 and not list((cache.folder / "elicited").glob(".*tmp*"))  # those of before


def test_only_the_last_replies_of_a_variant_stay(cache: Cache) -> None:
    cache.ask(seed=1)
    assert [path.name for path in (cache.folder / "elicited").iterdir() if not path.name.startswith(".")
            ] in (["base", "settings.json"], ["settings.json", "base"])  # fmt: skip
    assert cache.asks_again()  # those of seed 0 are gone


@pytest.mark.parametrize("module", [evaluation, stress, schedule_questions])
def test_every_questionnaire_names_the_code_that_asks(module: Any) -> None:
    """All three reach the engines, the prompts and the reading of images, however little they import themselves."""
    name = "_ask" if module is schedule_questions else "ask"
    found = set(code.code_of([f"{module.__name__}:{name}"]).modules)
    for part in ("models.vlm.load", "models.vlm.plain", "models.vlm.shared", "models.vlm.vllm", "words.prompts",
                 "data.images", "asking.variants"):  # fmt: skip
        assert f"csp_utils.{part}" in found, part


def test_the_stage_loads_no_model_where_nothing_changed(cache: Cache, monkeypatch: pytest.MonkeyPatch,
                                                        tmp_path: Path) -> None:
    data, paths = RunPaths("data", tmp_path), RunPaths("r", tmp_path)
    write_world(data, 1, 1, 2, 0)
    p = cache.p.model_copy(update={"variants": ["base"], "pope": str(data["data/pope"]), "n_bootstrap": 2,
                                   "amber": str(data["data/amber"]), "n_questions": 2})  # fmt: skip
    run_stage(p, paths)

    def load(*_: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(asking, "load_vlm", load)
    assert "used as computed on" in run_stage(p, paths)[0]
    run_stage(p.model_copy(update={"n_bootstrap": 3}), paths)  # other intervals: of the cached replies
    with pytest.raises(AssertionError, match="a model was loaded"):
        run_stage(p.model_copy(update={"max_new_tokens": 3}), paths)
    assert pd.read_parquet(paths["responses.parquet"])["raw"].eq("90%").all()  # the older results stay


def test_a_missing_image_is_one_sentence(cache: Cache) -> None:
    cache.image.unlink()
    with pytest.raises((UserError, FileNotFoundError)):
        cache.ask()
