"""The line of a foreign error that a message shows, and a long text cut."""

from __future__ import annotations

import pytest

from transforms.specs.messages import cut, first_line, text_lines


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n  why \nmore"), "why"),
        (OSError(2, "no", "file"), "[Errno 2] no: 'file'"),
        (KeyError(), "KeyError"),
        (ValueError(" \n"), "ValueError"),
    ],
)
def test_the_first_line_of_an_error_that_says_something(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_lines_that_hold_something() -> None:
    assert text_lines(" a \n\n\tb\r\n") == ["a", "b"]
    assert text_lines(" \n") == []


def test_a_long_text_ends_with_an_ellipsis() -> None:
    assert cut("x" * 5, 5) == "x" * 5
    assert cut("x" * 6, 5) == "xxxx…"
