"""ms-swift plugin: take Qwen2-VL's image and video token numbers from the tokenizer.

ms-swift 4.6 writes the numbers of the full-size vocabulary (151655, 151656) into its template, so that in a model with
any other vocabulary the image token is not found and the image never reaches the text. With the full-size vocabulary
this changes nothing. Used by training (``--external_plugins``) and by :mod:`csp_utils.models.vlm.load`.
"""

from swift.template.templates.qwen import Qwen2VLTemplate

_init_processor = Qwen2VLTemplate.init_processor


def init_processor(self, processor) -> None:
    """Qwen2VLTemplate.init_processor, then the token numbers of this processor."""
    _init_processor(self, processor)
    if processor is not None:
        for name in ("image", "video"):
            number = self.tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>")
            if number is not None:
                setattr(self, f"{name}_token_id", number)


if Qwen2VLTemplate.init_processor.__module__ != __name__:  # once, however often this file is loaded
    Qwen2VLTemplate.init_processor = init_processor
