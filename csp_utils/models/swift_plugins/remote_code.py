"""ms-swift plugin: make the remote code of three model families work under the pinned transformers.

* InternVL2's language model (InternLM2) has no ``generate`` method: since transformers 4.50 a class must inherit it
  from GenerationMixin. ms-swift 4.6 needs the method when it loads the model ("'InternLM2ForCausalLM' object has no
  attribute 'generate'", ms-swift issue 4324). The plugin adds the mixin to the class.
* Qwen-VL imports transformers_stream_generator for its ``chat_stream``, which we do not use. transformers checks all
  imports before it loads remote code, and this one fails since 4.57 (BeamSearchScorer is gone). The plugin removes it
  from the imports to check.
* Phi-3-Vision's image embedding holds a second reference to the word embedding and does not declare it as tied, so
  saving a checkpoint fails ("contained shared tensors", after all of the training; transformers issue 32354). The
  plugin declares the tie. Its processor lacks a field that transformers reads on saving since 4.53
  ("LlamaTokenizerFast has no attribute audio_tokenizer"); the plugin adds an empty one.
* Phi-3-Vision calls its cache's ``get_usable_length``, which DynamicCache no longer has. For a cache without a maximum
  length it equals the sequence length. The plugin adds the method.

None of this changes a number. Training (``--external_plugins``) and :mod:`csp_utils.models.vlm.load` use the plugin.
"""

import transformers.dynamic_module_utils as dynamic
from swift.model.models import internlm
from swift.model.models.microsoft import Phi3VisionLoader
from transformers import DynamicCache, GenerationMixin

_use_submodel_func, _get_imports = internlm.use_submodel_func, dynamic.get_imports
_get_phi3, _get_phi3_processor = Phi3VisionLoader.get_model, Phi3VisionLoader.get_processor


def use_submodel_func(model, submodel_name: str, func_list: list[str] | None = None) -> None:
    """Add GenerationMixin to the submodel's class if it lacks ``generate``, then run ms-swift's use_submodel_func."""
    own = type(getattr(model, submodel_name))
    if not hasattr(own, "generate"):
        own.__bases__ = (*own.__bases__, GenerationMixin)
    _use_submodel_func(model, submodel_name, func_list)


def get_imports(filename) -> list[str]:
    """Run transformers' get_imports, and leave out the package that only Qwen-VL's chat_stream uses."""
    return [name for name in _get_imports(filename) if name != "transformers_stream_generator"]


def get_phi3(self, *args, **kwargs):
    """Run Phi3VisionLoader.get_model, and declare the two word embeddings as tied."""
    model = _get_phi3(self, *args, **kwargs)
    model._dynamic_tied_weights_keys = ["model.vision_embed_tokens.wte.weight"]
    return model


def get_phi3_processor(self, *args, **kwargs):
    """Run Phi3VisionLoader.get_processor, and add the field that saving the processor needs."""
    processor = _get_phi3_processor(self, *args, **kwargs)
    if "audio_tokenizer" not in dir(processor):  # hasattr would look it up in the tokenizer
        type(processor).audio_tokenizer = None
    return processor


def get_usable_length(self, new_seq_length: int, layer_idx: int = 0) -> int:
    """Return the number of cached positions. ``new_seq_length`` matters only for a cache with a maximum length."""
    return self.get_seq_length(layer_idx)


if not hasattr(Phi3VisionLoader, "csp_repaired"):  # once, however often and under whatever name this file is loaded
    internlm.use_submodel_func, dynamic.get_imports = use_submodel_func, get_imports
    Phi3VisionLoader.get_model, Phi3VisionLoader.get_processor = get_phi3, get_phi3_processor
    if not hasattr(DynamicCache, "get_usable_length"):
        DynamicCache.get_usable_length = get_usable_length
    Phi3VisionLoader.csp_repaired = True
