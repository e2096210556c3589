"""Find the tokens of a part of a reply, from the tokens that were sampled.

The reply's text is never tokenized again: sampled tokens are often not those that a tokenizer would make of the text,
and every token after such a place would be counted wrongly. Instead the tokens' own strings are joined. The tags are
ASCII, which byte-level and SentencePiece vocabularies write as it is, so a tag that is found in the joined string is
exact to the token, whether it is one added token or many pieces.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from csp_utils.vlcal.formats import DESCRIPTION, tags

_BLANK = " \t\r\n\u0120\u010a\u010d\u0109\u2581"
"""White space, and how vocabularies write it: byte-level ones shifted by U+0100, SentencePiece's as U+2581."""


def token_strings(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return the vocabulary's string of each token id; "" for an id that the tokenizer does not know.

    Args:
        tokenizer: a Hugging Face tokenizer (``convert_ids_to_tokens``).
        ids: the sampled ids of one reply, without padding.
    """
    return [token or "" for token in tokenizer.convert_ids_to_tokens(list(ids))]


def part_tokens(strings: Sequence[str], name: str = DESCRIPTION) -> range | None:
    """Return the positions of the tokens of one part, by default of the visual description.

    A token belongs to the part if one of its characters does; the tags and white space at the part's ends do not
    count. So a token such as ">The", which closes the tag and begins the text, belongs to it, and ">" with a line break
    does not. The released code counts from the first "<vision>" to the next "</vision>" whatever follows.

    Args:
        strings: the tokens of one reply, as :func:`token_strings` returns them.
        name: name of the part, as in :mod:`csp_utils.vlcal.formats`.

    Returns:
        a range of positions in ``strings`` that is not empty; None unless both tags occur exactly once, in order, with
        text between them, which is when :func:`csp_utils.vlcal.reply.read_reply` reads the part.
    """
    text = "".join(strings)
    opening, closing = tags(name)
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    start, end = text.index(opening) + len(opening), text.index(closing)
    while start < end and text[start] in _BLANK:
        start += 1
    while start < end and text[end - 1] in _BLANK:
        end -= 1
    if start >= end:
        return None
    ends = list(accumulate(map(len, strings)))
    return range(bisect_right(ends, start), bisect_right(ends, end - 1) + 1)
