"""English grammar that questions about nouns need."""


def article(words: str) -> str:
    """Put "a" or "an" before words, by their first letter alone: "a red star", "an anchor", but also "a hour"."""
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"
