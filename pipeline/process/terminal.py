"""Printing and logging: the one place through which texts of rows, names and models reach a terminal or a log."""

from __future__ import annotations

import logging
import os
import re
import sys

# Characters that a terminal acts on or that a reader can't see: C0 without tab and line feed, DEL, C1, marks and overrides of direction
# (CVE-2021-42574), separators of lines and paragraphs; and surrogates, which no terminal's encoding can write.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def plain(text: str) -> str:
    """Return ``text`` with control characters escaped as in JSON (``\\u001b``); tabs and line feeds stay."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def one_line(text: str) -> str:
    """Return ``text`` with control characters and line feeds escaped."""
    return plain(text).replace("\n", "\\n")


def block(text: str) -> str:
    """Return ``text`` escaped, with every line but the first indented, so that no text of a row looks like a line of the program."""
    return plain(text).replace("\n", "\n  ")


def say(text: str) -> bool:
    """Print ``text`` to standard output; return False where that can't be written. A reader that has closed it (``head``) is no error."""
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
    """Print the message ``text`` to standard error; do nothing where that can't be written."""
    try:
        print(f"nightshift: {block(text)}", file=sys.stderr, flush=True)
    except OSError:
        pass


def _close_output() -> None:
    """Point standard output to the null device, since Python tries again at its end to write what it could not write."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return block(super().format(record))


def log_to_stderr() -> None:
    """Write log records to standard error, unless the caller has set up logging."""
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
