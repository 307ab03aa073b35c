"""The process that waits for a run's process, and prints why that ended before its work was done."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

from pipeline.process.native_output import STREAMS, NativeOutput, open_standard_streams
from pipeline.process.terminal import complain

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
ENDED_EARLY = 1


def supervise(work: Callable[[], int]) -> int:
    """Run ``work`` in a child process and exit with its status; if the child ends before ``work`` returns, print what was being predicted.

    The status is the one that ``work`` returned, which the child writes to a pipe. The exit status of the process proves nothing: an op
    of a model, or any native code, can call ``exit(0)`` in the middle of the work. The fork comes before heavy imports, so that it costs
    neither time nor memory.
    """
    if sys.platform != "linux":
        return work()
    open_standard_streams()
    outputs = [NativeOutput(number) for number in STREAMS]
    signals = {signal.SIGCHLD, *PASSED_ON}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    reader, writer = os.pipe()  # neither end is inherited by a program that the child starts
    child = os.fork()
    if child == 0:
        os.close(reader)
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        for output in outputs:
            output.redirect()
        status = work()
        os.write(writer, bytes([status]))
        return status
    os.close(writer)
    for output in outputs:
        output.pass_on()
    code = os.waitstatus_to_exitcode(_wait(child, signals))
    for output in outputs:
        output.finish()
    work_status = _read_status(reader)
    if work_status is None:
        complain(_explain(child, code))
    os._exit(ENDED_EARLY if work_status is None else work_status)


def _wait(child: int, signals: set[signal.Signals]) -> int:
    """Wait for the end of ``child``, passing other ``signals`` on to it; return its wait status."""
    while True:
        arrival = signal.sigwaitinfo(signals)
        if arrival.si_signo != signal.SIGCHLD:
            # A terminal's signal goes to its whole group, the child included; its code is above 0.
            if arrival.si_code <= 0:
                os.kill(child, arrival.si_signo)
            continue
        child_id, status = os.waitpid(child, os.WNOHANG)
        if child_id:
            return status


def _read_status(reader: int) -> int | None:
    """Return the status that the child's work returned, or None where the child ended before."""
    os.set_blocking(reader, False)  # a process that the child forked, and that outlives it, keeps the other end open
    try:
        status = os.read(reader, 1)
    except BlockingIOError:
        return None
    return status[0] if status else None


def _explain(child: int, code: int) -> str:
    """Return the message that the child, of exit code ``code``, ended before its work was done."""
    from transforms.model import crashes

    if code >= 0:
        how, why = f"with status {code} before its work was done", "as native code does that calls exit()"
    else:
        how = f"by {signal.Signals(-code).name}"
        why = "most likely since memory ran out" if -code == signal.SIGKILL else "as native code does that crashes"
    for path, crash in crashes.find_crashes(child):
        path.unlink(missing_ok=True)
        return (
            f"the run's process ended {how}, {why}, while it ran {crash}; nothing was published. "
            f"Correct the model, leave those rows out, or make the calls smaller with --batch_size; "
            f"--run_id={crash.run_id} --resume=true keeps the splits that were finished"
        )
    return f"the run's process ended {how}, {why}, and no model was running; manifest.json in the output says whether it had published"
