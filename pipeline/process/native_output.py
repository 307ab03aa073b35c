"""Output of native code in the working process, read by the waiting process, which escapes its control characters.

TensorFlow's C++ logs, and a model's ``tf.print``, write to the descriptors 1 and 2, where Python can't see the text of a row. Python's own
streams keep the terminal, which a progress bar needs.
"""

from __future__ import annotations

import codecs
import os
import sys
import threading

from pipeline.process.terminal import plain

READ_BYTES = 64 << 10
# A process that outlives the work (a worker of an engine) may keep its end open; its output after the work is not waited for.
LAST_OUTPUT_SECONDS = 1.0
STREAMS = {1: "stdout", 2: "stderr"}


def open_standard_streams() -> None:
    """Open the descriptors 0 to 2 where the caller closed them: otherwise the next file opened, perhaps a result, would get the output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    for number, name in STREAMS.items():
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", closefd=False))


class NativeOutput:
    """A pipe that replaces descriptor ``number`` in the working process; created before the fork."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._reader, self._writer = os.pipe()
        self._thread: threading.Thread | None = None

    def redirect(self) -> None:
        """Let native code of this, the working process, write to the pipe, while Python's stream keeps its target."""
        os.close(self._reader)
        name = STREAMS[self._number]
        stream = getattr(sys, name)
        stream.flush()
        setattr(sys, name, os.fdopen(os.dup(self._number), "w", 1, stream.encoding, stream.errors))
        os.dup2(self._writer, self._number)
        os.close(self._writer)

    def pass_on(self) -> None:
        """Start a thread in this, the waiting process, that copies the pipe's text to the descriptor, escaped."""
        os.close(self._writer)
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait, in the waiting process, until the output of the working process, which has ended, is copied."""
        if self._thread is not None:
            self._thread.join(LAST_OUTPUT_SECONDS)

    def _copy(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        while data := os.read(self._reader, READ_BYTES):
            rest = plain(decoder.decode(data)).encode()
            try:
                while rest:
                    rest = rest[os.write(self._number, rest) :]
            except OSError:  # the reader is gone, but the pipe must still be emptied
                continue
