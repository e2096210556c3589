"""The tiny VLM: a Qwen2-VL of transformers with some two million parameters, and its tokenizer.

Everything but the sizes is Qwen2-VL: patches of 14 px merged 2 x 2, multimodal rotary positions, the special tokens and
the chat template. So transformers, qwen-vl-utils and ms-swift treat it as they treat Qwen2-VL-7B-Instruct.
"""

import json
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2TokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from csp_utils.tiny_world.models.tokenizer import train_bpe
from csp_utils.tiny_world.world.questions import is_there
from csp_utils.tiny_world.world.scenes import COLORS, NOUNS, SIZE
from csp_utils.words.prompts import confidence_question

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
"""Qwen2-VL's special tokens, in its order."""

SYSTEM = "You are a helpful assistant."
"""The default system prompt of ms-swift and Qwen2-VL."""

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
    """Write lines with every word of the tiny world, with and without a space before it, often enough for one token."""
    words = [*NOUNS, *(f"{n}s" for n in NOUNS), *COLORS, "Yes", "No", "one", "two", "standing", "lying"]
    words += ["clear", "soft", "grainy", "rough", "noisy", "hidden", "touching", "apart"]
    lines = [f"{word} {word} {word}" for word in words] * 4
    for noun in NOUNS:
        for color in COLORS:
            lines += [
                confidence_question(is_there(noun), f"Yes, the {noun} is {color}."),
                confidence_question(f"What is the color of the {noun} in the image?", f"No, there is no {noun}."),
                f"Is the {noun} standing upright or lying on its side?\nIs the {noun} {color} in this image?",
                f"Are there two {noun}s in this image? Is there direct contact between the {noun} and {noun}?",
                f"system\n{SYSTEM}\nuser\nassistant\nDoes the {noun} stand in this image? Does the {noun} lie",
                f"How many {noun}s are there in the image? There are two {noun}s. There is one {noun}.",
                f"Is the answer right? How clear is the {noun} in the image? Is the {noun} clearer than",
                f"Question: Is the {noun} clear?\nAnswer: No\nHow clearly does the image show what the answer says,",
                f"in percent? Yes, the {noun} touches the {noun}. No, the {noun} and the {noun} are apart.",
            ]
    return lines


def make_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Train the tokenizer, write its files into ``folder`` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    train_bpe(vocabulary_text(), 1200, min_frequency=4).model.save(str(folder))
    tokenizer = Qwen2TokenizerFast(
        str(folder / "vocab.json"), str(folder / "merges.txt"),
        eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token=None, bos_token=None,
        additional_special_tokens=list(SPECIAL[1:]), model_max_length=4096,
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return Qwen2TokenizerFast.from_pretrained(folder)


def new_vlm(folder: Path, seed: int = 0) -> tuple[Qwen2VLForConditionalGeneration, PreTrainedTokenizerBase]:
    """Make a model with random float32 weights, and write its tokenizer and processor into ``folder``."""
    tokenizer = make_tokenizer(Path(folder))
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


def save_vlm(model: Qwen2VLForConditionalGeneration, folder: Path) -> None:
    """Write configuration and weights (safetensors); the model's weights become float16, half the size."""
    model.half().save_pretrained(folder, safe_serialization=True)
    config = Path(folder) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()), indent=2, sort_keys=True) + "\n")
