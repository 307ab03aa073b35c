"""What the program prints and logs: the one place through which texts of rows, names and models reach a terminal or a log."""

from __future__ import annotations

import logging
import os
import re
import sys

# Characters that a terminal acts on or that a reader can't see: C0 without tab and line feed, DEL, C1, marks and overrides of direction
# (CVE-2021-42574), separators of lines and paragraphs; and surrogates, which no encoding of a terminal has.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def plain(text: str) -> str:
    """Return ``text`` with control characters as JSON's and Python's literals have them (``\\u001b``); tabs and line feeds stay."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def one_line(text: str) -> str:
    """Return ``text`` as ``plain`` does, its line feeds escaped too."""
    return plain(text).replace("\n", "\\n")


def block(text: str) -> str:
    """Return ``text`` as ``plain`` does, with every line but the first indented: no text of a row passes for a line of ours."""
    return plain(text).replace("\n", "\n  ")


def say(text: str) -> bool:
    """Print ``text`` to standard output; return whether it was taken. A reader that has gone, as ``head`` does, wants no more of it."""
    try:
        print(plain(text), flush=True)
    except BrokenPipeError:
        _close_output()
    except OSError as error:
        _close_output()
        complain(f"standard output can't be written: {error.strerror}")
        return False
    return True


def complain(text: str) -> None:
    """Print the message ``text`` to standard error, if there is someone who reads it."""
    try:
        print(f"nightshift: {block(text)}", file=sys.stderr, flush=True)
    except OSError:
        pass


def _close_output() -> None:
    """Let standard output lead nowhere, since Python writes what it could not write once more when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return block(super().format(record))


def log_to_stderr() -> None:
    """Write log records to standard error, unless whoever calls has set up logging."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(LOG_FORMAT))
    logging.basicConfig(handlers=[handler])


def quiet_logs(verbose: bool) -> None:
    """Keep what TensorFlow and Beam log out, unless it is asked for; called before either is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if verbose else "3")
    log_to_stderr()
    logging.getLogger().setLevel(logging.INFO if verbose else logging.ERROR)
    # An engine logs a failing step's stack, sometimes twice; what a person can use of it is printed at the end.
    logging.getLogger("apache_beam").setLevel(logging.INFO if verbose else logging.CRITICAL)
    logging.getLogger("tensorflow").setLevel(logging.WARNING if verbose else logging.ERROR)
    logging.getLogger("nightshift").setLevel(logging.DEBUG if verbose else logging.INFO)
