"""ms-swift plugin: lets the code that comes with the weights of three families work under the pinned transformers.

* InternVL2's language model (InternLM2) was written when every transformers model could ``generate``; since 4.50 a
  class must inherit that from GenerationMixin, and ms-swift 4.6 asks for the method as it loads the model
  ("'InternLM2ForCausalLM' object has no attribute 'generate'", ms-swift issue 4324). The class is given the mixin.
* Qwen-VL imports transformers_stream_generator, in its ``chat_stream`` alone, which nothing here calls; transformers
  tries every import before it loads a model's code, and this one fails since 4.57 (BeamSearchScorer is gone). It is
  taken off the list of what is tried.
* Phi-3-Vision's image embedding holds the text's word embedding a second time and does not say that the two are one, so
  that a checkpoint cannot be saved ("contained shared tensors", after all of the training; transformers issue 32354).
  The second name is marked as tied, and saved once. Its processor lacks a field that transformers reads as it saves
  since 4.53 ("LlamaTokenizerFast has no attribute audio_tokenizer"); it is given the empty one.
* Phi-3-Vision asks its cache for ``get_usable_length``, which DynamicCache has lost; for a cache without a bound, as it
  is, that is the length. The cache is given the method back.

None of them changes a number. Used by training (``--external_plugins``) and by :mod:`csp_utils.models.vlm.load`.
"""

import transformers.dynamic_module_utils as dynamic
from swift.model.models import internlm
from swift.model.models.microsoft import Phi3VisionLoader
from transformers import DynamicCache, GenerationMixin

_use_submodel_func, _get_imports = internlm.use_submodel_func, dynamic.get_imports
_get_phi3, _get_phi3_processor = Phi3VisionLoader.get_model, Phi3VisionLoader.get_processor


def use_submodel_func(model, submodel_name: str, func_list: list[str] | None = None) -> None:
    """ms-swift's use_submodel_func, for a submodel that has all that it asks for."""
    own = type(getattr(model, submodel_name))
    if not hasattr(own, "generate"):
        own.__bases__ = (*own.__bases__, GenerationMixin)
    _use_submodel_func(model, submodel_name, func_list)


def get_imports(filename) -> list[str]:
    """transformers' get_imports without the package that only Qwen-VL's chat_stream uses."""
    return [name for name in _get_imports(filename) if name != "transformers_stream_generator"]


def get_phi3(self, *args, **kwargs):
    """Phi3VisionLoader.get_model, whose model knows that its two word embeddings are one."""
    model = _get_phi3(self, *args, **kwargs)
    model._dynamic_tied_weights_keys = ["model.vision_embed_tokens.wte.weight"]
    return model


def get_phi3_processor(self, *args, **kwargs):
    """Phi3VisionLoader.get_processor, whose processor can be saved."""
    processor = _get_phi3_processor(self, *args, **kwargs)
    if "audio_tokenizer" not in dir(processor):  # hasattr would ask the tokenizer
        type(processor).audio_tokenizer = None
    return processor


def get_usable_length(self, new_seq_length: int, layer_idx: int = 0) -> int:
    """Positions before those that a layer gets now; ``new_seq_length`` matters to caches with a bound alone."""
    return self.get_seq_length(layer_idx)


if not hasattr(Phi3VisionLoader, "csp_repaired"):  # once, however often and under whatever name this file is loaded
    internlm.use_submodel_func, dynamic.get_imports = use_submodel_func, get_imports
    Phi3VisionLoader.get_model, Phi3VisionLoader.get_processor = get_phi3, get_phi3_processor
    if not hasattr(DynamicCache, "get_usable_length"):
        DynamicCache.get_usable_length = get_usable_length
    Phi3VisionLoader.csp_repaired = True
