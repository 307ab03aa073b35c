"""What native code of the working process prints: read by the waiting process, which escapes control characters in it.

TensorFlow's C++ logs, and a model's ``tf.print``, write to the descriptors 1 and 2, where Python can't look at a row's text. Python's own
streams keep the terminal, since a bar of progress needs one.
"""

from __future__ import annotations

import codecs
import os
import sys
import threading

from pipeline.process.terminal import plain

READ_BYTES = 64 << 10
# A process that outlives the work (a worker of an engine) may keep its end open: what it says then is no more of interest.
LAST_WORDS_SECONDS = 1.0
STREAMS = {1: "stdout", 2: "stderr"}


def open_standard_streams() -> None:
    """Open the descriptors 0 to 2 where the caller closed them: else the next file, a result maybe, would get what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
    for number, name in STREAMS.items():
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", closefd=False))


class NativeOutput:
    """A pipe that takes the place of descriptor ``number`` in the working process; made before the fork."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._reader, self._writer = os.pipe()
        self._thread: threading.Thread | None = None

    def redirect(self) -> None:
        """In the working process: let native code write to the pipe, and Python's stream to where both went before."""
        os.close(self._reader)
        name = STREAMS[self._number]
        before = getattr(sys, name)
        before.flush()
        setattr(sys, name, os.fdopen(os.dup(self._number), "w", 1, before.encoding, before.errors))
        os.dup2(self._writer, self._number)
        os.close(self._writer)

    def pass_on(self) -> None:
        """In the waiting process: begin to write what comes to the descriptor, escaped."""
        os.close(self._writer)
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """In the waiting process: wait for the last words of the working one, which has ended."""
        if self._thread is not None:
            self._thread.join(LAST_WORDS_SECONDS)

    def _copy(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        while data := os.read(self._reader, READ_BYTES):
            rest = plain(decoder.decode(data)).encode()
            try:
                while rest:
                    rest = rest[os.write(self._number, rest) :]
            except OSError:  # nobody reads it; the pipe must be emptied all the same
                continue
