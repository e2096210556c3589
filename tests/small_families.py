"""Folders of small models with the interfaces of the families whose code comes with their weights (family_code/)."""

import json
import shutil
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE

from csp_utils.words.prompts import confidence_question

CODE = Path(__file__).parent / "family_code"
TEXT = [confidence_question("Is there a dog in the image?", "Yes") + " system user assistant Picture 75%\n"] * 9 + [
    "Yes No yes no YES NO \nYes \nNo \tYes \tNo"] * 9

FAMILIES = {"internvl_chat": "internvl2", "phi3_vision": "phi3_vision", "qwen_vl": "qwen_vl"}
"""ms-swift's model type and template."""


def byte_characters() -> dict[int, str]:
    """The printable character by which byte-level BPE writes each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def bytes_bpe(special: list[str]) -> Tokenizer:
    """Like Qwen's: token b is byte b, then merges, then ``special``, which are no special tokens to transformers."""
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "merged_with_next"),
                                   pre_tokenizers.ByteLevel(False, use_regex=False)])
    merges = _merges(pre)
    pieces = [byte_characters()[b] for b in range(256)] + ["".join(pair) for pair in merges]
    found = Tokenizer(BPE({piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, merges))
    found.pre_tokenizer, found.decoder = pre, decoders.ByteLevel()
    found.add_tokens([AddedToken(token, special=False, normalized=False) for token in special])
    return found


def pieces_bpe(special: dict[str, int], rstrip: bool) -> Tokenizer:
    """Like SentencePiece's: spaces are ``▁``, and one is put before every stretch of text; ``special`` by its numbers.

    Args:
        rstrip: whether special tokens swallow white space behind them, as Phi-3's do.
    """
    merges = _merges(pre_tokenizers.Metaspace(prepend_scheme="always"))
    letters = sorted({letter for text in TEXT for letter in text} - {" "} | {"▁"})
    pieces = list(dict.fromkeys(["<unk>", "<s>", "</s>", *letters, *("".join(pair) for pair in merges)]))
    taken = set(special.values())
    pieces += [f"<unused{i}>" for i in range(len(pieces), max(taken)) if i not in taken]
    numbers = (i for i in range(max(taken) + len(pieces)) if i not in taken)
    vocabulary = {piece: next(numbers) for piece in pieces} | special
    found = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True))
    found.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    found.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    found.add_special_tokens([AddedToken(token, special=True, normalized=False, rstrip=rstrip) for token in special])
    found.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<s>", "</s>", "<unk>")])
    found.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return found


def _merges(pre: pre_tokenizers.PreTokenizer) -> list[tuple[str, str]]:
    learned = Tokenizer(BPE())
    learned.pre_tokenizer = pre
    learned.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=500, show_progress=False))
    return [tuple(pair) for pair in json.loads(learned.to_str())["model"]["merges"]]


def make(model_type: str, folder: Path) -> Path:
    """Writes a small model of random weights into ``folder``, as its publisher would; returns it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from csp_utils.models.swift_plugins import remote_code  # noqa: F401  (takes effect on import)

    folder.mkdir(parents=True)
    tokenizer, special, config, module = _parts(model_type)
    shutil.copy(CODE / f"{module}.py", folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in {"tokenizer_config.json": special, "config.json": config}.items():
        (folder / name).write_text(json.dumps(content))
    if model_type == "phi3_vision":
        names = {"AutoProcessor": f"{module}.Phi3VProcessor", "AutoImageProcessor": f"{module}.Phi3VImageProcessor"}
        content = {"auto_map": names, "image_processor_type": "Phi3VImageProcessor",
                   "processor_class": "Phi3VProcessor"}
        (folder / "preprocessor_config.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    read = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    read._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(read, trust_remote_code=True)
    for parameter in model.parameters() if model_type != "qwen_vl" else [model.lm_head.weight]:
        parameter.data *= 3  # small random weights say one token for ever
    if model_type == "phi3_vision":
        model._dynamic_tied_weights_keys = ["model.vision_embed_tokens.wte.weight"]
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))  # not what this version of transformers made of it
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


def _parts(model_type: str) -> tuple[Tokenizer, dict, dict, str]:
    """Tokenizer, tokenizer_config.json, config.json, and the name of the file with the code."""
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
             "num_key_value_heads": 2, "torch_dtype": "float32", "tie_word_embeddings": False}  # fmt: skip
    if model_type == "internvl_chat":
        names = ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")
        tokenizer = pieces_bpe({name: 600 + i for i, name in enumerate(names)}, rstrip=False)
        llm = small | {"vocab_size": 605, "max_position_embeddings": 8192, "architectures": ["InternLM2ForCausalLM"]}
        config = {"architectures": ["InternVLChatModel"], "model_type": "internvl_chat", "llm_config": llm,
                  "torch_dtype": "float32", "tie_word_embeddings": False}
        return (tokenizer, _special("</s>", "<s>"), config | _map("modeling_internvl_chat", "InternVLChatConfig",
                "InternVLChatModel"), "modeling_internvl_chat")  # fmt: skip
    if model_type == "phi3_vision":  # the real numbers: ms-swift's template has that of <|image|> written into it
        names = {"<|endoftext|>": 32000, "<|assistant|>": 32001, "<|system|>": 32006, "<|end|>": 32007,
                 "<|user|>": 32010, "<|image|>": 32044}  # fmt: skip
        config = small | {"architectures": ["Phi3VForCausalLM"], "model_type": "phi3_v", "vocab_size": 32064,
                          "max_position_embeddings": 4096, "original_max_position_embeddings": 4096,
                          "pad_token_id": 32000, "_attn_implementation": "flash_attention_2"}  # fmt: skip
        return (pieces_bpe(names, rstrip=True), _special("<|endoftext|>", "<s>"),
                config | _map("modeling_phi3_v", "Phi3VConfig", "Phi3VForCausalLM"), "modeling_phi3_v")  # fmt: skip
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>"]
    tokenizer = bytes_bpe(names)
    config = {"architectures": ["QWenLMHeadModel"], "model_type": "qwen", "vocab_size": tokenizer.get_vocab_size(),
              "hidden_size": 32, "visual": {"image_start_id": tokenizer.token_to_id("<img>")}, "torch_dtype": "float32",
              "tie_word_embeddings": False}
    special = _special("<|endoftext|>", None) | {
        "tokenizer_class": "QWenTokenizer", "auto_map": {"AutoTokenizer": ["modeling_qwen.QWenTokenizer", None]}}
    return tokenizer, special, config | _map("modeling_qwen", "QWenConfig", "QWenLMHeadModel"), "modeling_qwen"


def _special(end: str, begin: str | None) -> dict:
    return {"eos_token": end, "pad_token": end, "bos_token": begin, "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False, "model_max_length": 8192}  # fmt: skip


def _map(module: str, config: str, model: str) -> dict:
    return {"auto_map": {"AutoConfig": f"{module}.{config}", "AutoModelForCausalLM": f"{module}.{model}"}}
