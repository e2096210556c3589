"""ms-swift plugin: take the ids of Qwen2-VL's image and video tokens from the tokenizer.

ms-swift 4.6 hard-codes the ids of the full-size vocabulary (151655, 151656) in its template. In a model with another
vocabulary it does not find the image token, and the image never reaches the text. With the full-size vocabulary this
plugin changes nothing. Training (``--external_plugins``) and :mod:`csp_utils.models.vlm.load` use it.
"""

from swift.template.templates.qwen import Qwen2VLTemplate

_init_processor = Qwen2VLTemplate.init_processor


def init_processor(self, processor) -> None:
    """Run Qwen2VLTemplate.init_processor, then set the token ids of this processor's vocabulary."""
    _init_processor(self, processor)
    if processor is not None:
        for name in ("image", "video"):
            number = self.tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>")
            if number is not None:
                setattr(self, f"{name}_token_id", number)


if Qwen2VLTemplate.init_processor.__module__ != __name__:  # once, however often this file is loaded
    Qwen2VLTemplate.init_processor = init_processor
