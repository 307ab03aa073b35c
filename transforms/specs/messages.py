"""Parts of messages: the first line of a foreign error, a long text cut."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Return the first line of a foreign error's text; the name of its class where it has none."""
    return next(iter(text_lines(str(error))), type(error).__name__)


def text_lines(text: str) -> list[str]:
    """Return the lines of ``text`` that are not blank, without the space around them."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def cut(text: str, most: int) -> str:
    """Return ``text``, cut to ``most`` characters with an ellipsis at the end where it is longer."""
    return text if len(text) <= most else text[: most - 1] + "…"
