"""Find control tokens in a question or an answer: texts that a chat template or a tokenizer reads as something else.

ms-swift replaces its tags by files, boxes or options (its ``Template.special_tokens``). Tokenizers read the tokens of
the models' families as an image's place, a turn's end and so on, also where a user's text says them.
"""

import re
from collections.abc import Iterable

_TAGS = ("image video audio bbox ref-object cot-process start-image end-image "  # ms-swift's
         "img imgpad IMG_CONTEXT IMG_START IMG_END box ref quad patch "  # Qwen-VL's and InternVL's
         "image_soft_token start_of_image end_of_image start_of_turn end_of_turn end_of_utterance "
         "fake_token_around_image image_placeholder image_newline row_sep "  # Gemma's, SmolVLM's, LLaVA's
         "s pad unk bos eos mask").split()  # of tokenizers
_CONTROL = re.compile(rf"<\|[^<>|\s]{{1,40}}\|>|<｜[^<>｜]{{1,40}}｜>|</?(?:{'|'.join(_TAGS)})>|\[(?:IMG|/?INST)\]")


def control_token(text: str, others: Iterable[str] = ()) -> str | None:
    """Return the first control token in a text; None if it has none.

    Args:
        others: special tokens of a tokenizer, which count as well.
    """
    found = _CONTROL.search(text)
    return found[0] if found else next((token for token in others if token and token in text), None)
