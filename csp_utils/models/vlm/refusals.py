"""Refuse what a model cannot be asked, in one sentence that names the image or the question, before it is called."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

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


def check_length(prompts: Iterable[Prompt], lengths: Iterable[int], most: int | None) -> None:
    """Raise UserError for the first prompt whose tokens, those of its image included, are more than ``most``."""
    for prompt, tokens in zip(prompts, lengths, strict=True):
        if most is not None and tokens > most:
            raise _too_long(prompt, most)


@contextmanager
def fitting(prompt: Prompt, template: Any) -> Iterator[None]:
    """Raise UserError if ms-swift's template, within this block, finds the prompt too long for its model."""
    from swift.template import MaxLengthError

    try:
        yield
    except MaxLengthError as error:
        raise _too_long(prompt, template.max_length) from error


def _too_long(prompt: Prompt, most: int) -> UserError:
    return UserError(f"The question {short(prompt.text)} has more tokens with its image than the {most:,} that the "
                     "model takes; remove or shorten it, or set max_pixels to a smaller number.")  # fmt: skip
