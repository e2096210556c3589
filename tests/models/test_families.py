"""The paper's four families: what they need of the environment, and their vocabularies."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from small_families import FAMILIES, bytes_bpe, pieces_bpe

from csp_utils.base.errors import UserError
from csp_utils.models import families
from csp_utils.models.vlm import load as vlm
from csp_utils.stages.evaluate import Eval
from csp_utils.stages.sft import Sft
from csp_utils.stages.simpo import Simpo
from csp_utils.training import command as training

ROOT = Path(__file__).resolve().parents[2]


def test_this_environment_is_fit_for_the_papers_four() -> None:
    for path in (ROOT / "params" / "paper").glob("*.yaml"):
        for branch in yaml.safe_load(path.read_text())["branches"].values():
            if "model_type" in branch:
                assert branch["model_type"] in families.FAMILIES
                assert families.problems(branch["model_type"]) == []
    assert families.problems("no_such_type") == families.problems(None) == families.problems(None, "org/model") == []


def test_the_table_asks_for_all_that_ms_swift_asks_for() -> None:
    from swift.model import MODEL_MAPPING

    papers = {"qwen_vl": "Qwen/Qwen-VL-Chat", "qwen2_vl": "Qwen/Qwen2-VL-7B-Instruct",
              "internvl_chat": "OpenGVLab/InternVL2-8B", "phi3_vision": "microsoft/Phi-3.5-vision-instruct"}
    for model_type, family in families.FAMILIES.items():
        meta = MODEL_MAPPING[model_type]
        group = next(g for g in meta.model_groups if papers[model_type] in {m.hf_model_id for m in g.models})
        ours = {wanted.name: wanted.specifier for wanted in map(Requirement, family.requires)}
        for wanted in map(Requirement, [*(meta.requires or []), *(group.requires or [])]):
            if wanted.name != "decord":  # reads videos
                assert set(wanted.specifier) <= set(ours[wanted.name]), (model_type, wanted)
        assert meta.architectures == [family.architecture]
        assert (group.template or meta.template) == {**FAMILIES, "qwen2_vl": "qwen2_vl"}[model_type]


def test_what_is_missing_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "tiktoken":
            raise metadata.PackageNotFoundError
        return {"transformers": "4.35.2"}.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(UserError, match="^internvl_chat models .* need transformers.*4.36.*4.35.2 is installed"):
        families.check("internvl_chat")
    assert families.problems("qwen_vl") == ["qwen_vl models need the package tiktoken, which is not installed; install "
                                            "it by `uv pip install 'tiktoken'`."]
    told = families.problems_of([Sft(model_type="qwen_vl", model="o/m"), Simpo(model_type="qwen_vl"),
                                 Eval(model_type="phi3_vision", base_model="o/m")])  # fmt: skip
    assert len(told) == 2 and "tiktoken" in told[0] and told[1].startswith("phi3_vision")


def test_a_model_without_its_code_is_not_loaded(tmp_path: Path) -> None:
    config = {"architectures": ["InternVLChatModel"], "auto_map": {
        "AutoConfig": "configuration_internvl_chat.InternVLChatConfig", "AutoModel": "other/repository--code.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for load in (lambda: training.command(Sft(model_type=None, template=None), str(tmp_path), "d", "o"),
                 lambda: vlm.load_vlm(vlm.ModelChoice(str(tmp_path)))):  # fmt: skip
        with pytest.raises(UserError, match=r"configuration_internvl_chat.py is missing in it; fetch the whole"):
            load()
    (tmp_path / "configuration_internvl_chat.py").touch()
    assert families.problems(None, tmp_path) == []


def test_the_check_imports_nothing_large() -> None:
    code = "import sys; from csp_utils.models import families as f; f.check('qwen_vl'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"torch", "transformers", "swift"} & set(loaded.split())


def test_phi_is_asked_for_plain_attention_without_flash_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = training.command(Sft(model_type="phi3_vision", template="phi3_vision"), "org/model", "d", "o")
    assert asked[asked.index("--attn_impl") + 1] == "eager"
    assert "--attn_impl" not in training.command(Sft(), "org/model", "d", "o")
    monkeypatch.setattr(families.importlib.util, "find_spec", lambda name: name)
    assert families.attention("phi3_vision", "org/model") is None


# --------------------------------------------------------------------------------------------------------- vocabularies


@pytest.mark.parametrize("rstrip", [False, True])
def test_candidates_of_a_vocabulary_of_pieces(rstrip: bool) -> None:
    """With and without the space that SentencePiece puts before a text; never the beginning of another word."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces_bpe({"<|end|>": 900}, rstrip))
    found = {c: set(tokenizer.convert_ids_to_tokens(ids)) for c, ids in vlm.first_tokens(tokenizer).items()}
    assert {"▁Yes", "Yes", "▁yes", "▁YES"} <= found["Yes"] and {"▁No", "No", "▁no", "▁NO"} <= found["No"]
    assert not found["Yes"] & found["No"] and all(token.strip("▁").lower() in ("yes", "no")
                                                  for tokens in found.values() for token in tokens)


def test_candidates_of_a_vocabulary_of_bytes() -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_bpe(["<|im_end|>"]))
    found = {c: set(map(tokenizer.decode, ids)) for c, ids in vlm.first_tokens(tokenizer).items()}
    assert {"Yes", " Yes"} <= found["Yes"] and {"No", " No"} <= found["No"]
    assert {text.strip().lower() for text in found["Yes"]} == {"yes"}
