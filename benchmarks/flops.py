"""What one forward pass of the paper's models costs: floating-point operations, weights and memory, without weights.

    python benchmarks/flops.py [--models sam grounding_dino qwen2_vl]

Counted by torch's FlopCounterMode: matrix products, convolutions and attention, two operations for a multiplication
and an addition. Element-wise work is not counted (nor is GroundingDINO's sampling of its feature maps), and memory
traffic is not: a GPU reaches a part of its peak only. The classes are those that the notebooks load, in the official
sizes. SAM and Qwen2-VL are built and run on torch's "meta" device, which has shapes and no numbers; GroundingDINO looks
at its numbers on the way, so it runs on the CPU with random ones (about half a minute).

"alive" is the most memory that the tensors of the pass occupy at once beside the weights, in float32 (Qwen2-VL:
bfloat16), from their sizes; what an allocator or a convolution adds is not in it.
"""

import argparse
import contextlib
import sys
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from csp_utils.models.grounding_dino import build_grounding_dino, read_config  # noqa: E402
from csp_utils.models.sam import build_sam  # noqa: E402

META = torch.device("meta")


class Alive(TorchDispatchMode):
    """Follows the storages that operations make, until they are freed; ``peak`` is the most bytes at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        old = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in old | self._seen:
                storage = leaf.untyped_storage()
                self._seen.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def count(work: Callable[[], Any]) -> tuple[float, float]:
    """(TFLOP, GB alive at most beside what was there before) of one call, without gradients."""
    with torch.no_grad(), FlopCounterMode(display=False) as flops, Alive() as alive:
        work()
    return flops.get_total_flops() / 1e12, alive.peak / 1e9


def parameters(*modules: torch.nn.Module) -> float:
    """Parameters in millions, each once."""
    return sum(weight.numel() for weight in {w for module in modules for w in module.parameters()}) / 1e6


def row(model: str, given: str, modules: list[torch.nn.Module], work: Callable[[], Any]) -> None:
    tflop, alive = count(work)
    print(f"| {model} | {given} | {tflop:.3f} | {parameters(*modules):,.1f} | {alive:.2f} |", flush=True)


# ----------------------------------------------------------------------------------------------------------- the models


def sam() -> None:
    """SAM ViT-H: the encoder once an image, the decoder once a box."""
    with META:
        model = build_sam({"model_type": "vit_h"})
        pixels, boxes = torch.empty(1, 3, 1024, 1024), torch.empty(1, 4)
        row("SAM ViT-H, image encoder", "1024 x 1024", [model.image_encoder], lambda: model.image_encoder(pixels))
        sparse, dense = model.prompt_encoder(points=None, boxes=boxes, masks=None)

        def decode() -> None:
            place = torch.empty(1, 256, 64, 64)  # of the image's tokens, the same for every image
            model.mask_decoder(torch.empty(1, 256, 64, 64), place, sparse, dense, multimask_output=False)

        row("SAM ViT-H, mask decoder", "one box", [model.mask_decoder, model.prompt_encoder], decode)


@contextlib.contextmanager
def bert_folder() -> Iterator[Path]:
    """A folder "bert-base-uncased" of that size (the defaults of BertConfig), with a vocabulary of a few words."""
    from transformers import BertConfig, BertTokenizer

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "bert-base-uncased"
        home.mkdir()
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "dog"]
        (home / "vocab.txt").write_text("\n".join(words) + "\n")
        BertTokenizer(str(home / "vocab.txt")).save_pretrained(home)
        BertConfig().save_pretrained(home)
        yield Path(folder)


def official_grounding_dino() -> torch.nn.Module:
    """GroundingDINO Swin-T as configured in the installed package's GroundingDINO_SwinT_OGC.py, on the CPU."""
    import groundingdino

    official = Path(groundingdino.__file__).parent / "config" / "GroundingDINO_SwinT_OGC.py"
    with bert_folder() as folder:
        (folder / official.name).write_text(official.read_text())
        return build_grounding_dino(read_config(folder), folder)


def grounding_dino() -> None:
    """GroundingDINO Swin-T: the whole model, and its backbone alone."""
    from groundingdino.util.misc import NestedTensor

    model = official_grounding_dino()

    pixels, mask = torch.rand(1, 3, 800, 1066), torch.zeros(1, 800, 1066, dtype=torch.bool)
    backbone = model.backbone[0]
    row("GroundingDINO Swin-T", "800 x 1066, 'dog.'", [model], lambda: model(pixels, captions=["dog."]))
    row("of which its Swin-T", "800 x 1066", [backbone], lambda: backbone(NestedTensor(pixels, mask)))


def qwen2_vl_config(**ids: int) -> Any:
    """Qwen2-VL-7B's configuration; ``ids`` are those of its special tokens, for another tokenizer than its own."""
    from transformers import Qwen2VLConfig

    return Qwen2VLConfig(
        text_config={"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064,
                     "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
                     "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}},
        vision_config={"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16, "patch_size": 14,
                       "spatial_merge_size": 2, "temporal_patch_size": 2},
        tie_word_embeddings=False, **ids,
    )  # fmt: skip


def qwen2_vl() -> None:
    """Qwen2-VL-7B: the vision tower, the language model, and the logits of every position (as training needs them)."""
    from transformers import Qwen2VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    with META:
        model = Qwen2VLForConditionalGeneration(qwen2_vl_config()).to(torch.bfloat16)
    height, width = smart_resize(480, 640, factor=28)
    rows, columns = height // 14, width // 14
    patches, seen = rows * columns, rows * columns // 4
    tokens = seen + 100
    tower, language = model.model.visual, model.model.language_model
    pixels = torch.empty(patches, 3 * 2 * 14 * 14, device=META, dtype=torch.bfloat16)
    grid = torch.tensor([[1, rows, columns]])  # looked at, so on the CPU
    embedded = torch.empty(1, tokens, 3584, device=META, dtype=torch.bfloat16)
    place = torch.empty(3, 1, tokens, device=META, dtype=torch.long)
    angles = torch.empty(3, 1, tokens, 128, device=META, dtype=torch.bfloat16)
    language.rotary_emb.forward = lambda x, place: (angles, angles)  # it asks for autocast, which "meta" has not
    row("Qwen2-VL-7B, vision tower", f"640 x 480: {patches} patches, {seen} tokens", [tower],
        lambda: tower(pixels, grid_thw=grid))  # fmt: skip
    row("Qwen2-VL-7B, language model", f"{seen} + 100 tokens", [language],
        lambda: language(inputs_embeds=embedded, position_ids=place, use_cache=False))  # fmt: skip
    row("Qwen2-VL-7B, logits", f"{tokens} positions", [model.lm_head], lambda: model.lm_head(embedded))


MODELS = {"sam": sam, "grounding_dino": grounding_dino, "qwen2_vl": qwen2_vl}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # the libraries' words to their own authors
    print("| model | input | TFLOP forward | parameters, million | alive, GB |\n| --- | --- | --- | --- | --- |")
    for name in options.models:
        MODELS[name]()


if __name__ == "__main__":
    main()
