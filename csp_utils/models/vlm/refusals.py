"""Refuse what a model cannot be asked, in one sentence that names the image or the question, before it is called."""

from collections.abc import Iterable

from PIL import Image

from csp_utils.base.errors import UserError, short
from csp_utils.data.images import MOST_RATIO, too_thin
from csp_utils.models.vlm.reply import Prompt
from csp_utils.words.control_tokens import control_token


def refuse(prompts: Iterable[Prompt], special: Iterable[str]) -> None:
    """Check the prompts before a model gets any of them.

    Args:
        special: the special tokens of the model's tokenizer.

    Raises:
        UserError: an image is too thin for a model, or a question says a control token, which the model would read as
            an image, the end of a turn or the like. An image that cannot be read is left to whoever opens it.
    """
    prompts, special = list(prompts), list(special)
    for path in dict.fromkeys(getattr(prompt.image, "path", prompt.image) for prompt in prompts):
        try:
            with Image.open(path) as image:
                size = image.size
        except (OSError, AttributeError):  # the latter: no image
            continue
        if too_thin(size):
            raise UserError(f"The image {path} has {size[0]} x {size[1]} pixels; models take images that are at most "
                            f"{MOST_RATIO} times as long as wide: remove its questions or crop it.")  # fmt: skip
    for text in dict.fromkeys(prompt.text for prompt in prompts):
        if token := control_token(text, special):
            raise UserError(f"The question {short(text)} says {token}, which the model reads as a control token, not "
                            "as text; remove the question or write it without that.")  # fmt: skip


def too_long(prompt: Prompt, tokens: int | None, most: int | None) -> UserError | None:
    """Return the sentence about a prompt of more tokens than the model takes, its image included; None if it fits."""
    if tokens is not None and (most is None or tokens <= most):
        return None
    count = "too many" if tokens is None else f"{tokens:,}"
    return UserError(f"The question {short(prompt.text)} has {count} tokens with its image, and the model takes "
                     f"{most:,}; remove or shorten it, or set max_pixels to a smaller number.")  # fmt: skip
