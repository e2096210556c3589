"""The tiny VLM: a Qwen2-VL of transformers with some two million parameters, and its tokenizer.

Everything but the sizes is Qwen2-VL: patches of 14 px merged 2 x 2, multimodal rotary positions, the special tokens and
the chat template, so that transformers, qwen-vl-utils and ms-swift treat it as they treat Qwen2-VL-7B-Instruct.
"""

import json
from pathlib import Path

from csp_utils.tiny_world.world.questions import article
from csp_utils.tiny_world.world.scenes import COLORS, NOUNS, SIZE
from csp_utils.words.prompts import confidence_question

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
"""Qwen2-VL's special tokens, in its order."""

SYSTEM = "You are a helpful assistant."
"""ms-swift's and Qwen2-VL's default system prompt."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    + SYSTEM
    + "<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2-VL's conversation format for text and images."""


def vocabulary_text() -> list[str]:
    """Every word of the tiny world, with and without a leading space, often enough to become one token each."""
    words = [*NOUNS, *(f"{n}s" for n in NOUNS), *COLORS, "Yes", "No", "one", "two", "standing", "lying"]
    words += ["clear", "grainy", "noisy", "hidden"]
    lines = [f"{word} {word} {word}" for word in words] * 4
    for noun in NOUNS:
        for color in COLORS:
            lines += [
                confidence_question(f"Is there {article(noun)} in the image?", f"Yes, the {noun} is {color}."),
                confidence_question(f"What is the color of the {noun} in the image?", f"No, there is no {noun}."),
                f"Is the {noun} standing upright or lying on its side?\nIs the {noun} {color} in this image?",
                f"Are there two {noun}s in this image? Is there direct contact between the {noun} and {noun}?",
                f"system\n{SYSTEM}\nuser\nassistant\nDoes the {noun} stand in this image? Does the {noun} lie",
                f"How many {noun}s are there in the image? There are two {noun}s. There is one {noun}.",
                f"Is the answer right? How clear is the {noun} in the image?",
            ]
    return lines


def build_tokenizer(folder: Path) -> None:
    """Train the byte-level BPE and write vocab.json, merges.txt and tokenizer_config.json into the folder."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast

    pattern = (  # Qwen2's own: words with their leading space, single digits, punctuation, line breaks
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    settings = {"vocab_size": 1200, "min_frequency": 4, "initial_alphabet": alphabet, "show_progress": False}
    bpe.train_from_iterator(vocabulary_text(), trainers.BpeTrainer(**settings))
    folder.mkdir(parents=True, exist_ok=True)
    bpe.model.save(str(folder))
    tokenizer = Qwen2TokenizerFast(
        str(folder / "vocab.json"), str(folder / "merges.txt"),
        eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token=None, bos_token=None,
        additional_special_tokens=list(SPECIAL[1:]), model_max_length=4096,
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)


def new_vlm(folder: Path, seed: int = 0):
    """Write tokenizer and processor into ``folder`` and return ``(model, tokenizer)`` with random float32 weights."""
    import torch
    from transformers import (
        AutoTokenizer,
        GenerationConfig,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
    )
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    folder = Path(folder)
    build_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    pixels = {"min_pixels": 56 * 56, "max_pixels": SIZE * SIZE}
    Qwen2VLProcessor(
        Qwen2VLImageProcessor(**pixels), tokenizer, Qwen2VLVideoProcessor(**pixels), chat_template=CHAT_TEMPLATE
    ).save_pretrained(folder)
    width, heads = 128, 4
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 384, "num_hidden_layers": 4,
            "num_attention_heads": heads, "num_key_value_heads": heads, "max_position_embeddings": 4096,
            "tie_word_embeddings": False, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
            "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
            "bos_token_id": ids["<|endoftext|>"], "pad_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
        },
        vision_config={
            "depth": 4, "embed_dim": 128, "hidden_size": width, "num_heads": 4, "mlp_ratio": 3, "patch_size": 14,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3,
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]], pad_token_id=ids["<|endoftext|>"], do_sample=False
    )
    return model, tokenizer


def save_vlm(model, folder: Path) -> None:
    """Write weights (float16 safetensors: half the size, and every value is exact again in float32)."""
    import copy

    import torch

    half = copy.deepcopy(model).to(torch.float16)
    half.save_pretrained(folder, safe_serialization=True)
    config = json.loads((Path(folder) / "config.json").read_text())
    (Path(folder) / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
