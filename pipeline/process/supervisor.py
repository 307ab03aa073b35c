"""The process that waits for a run's: it says why when the run's process ends before its work does."""

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
    """Run ``work`` in a child process and exit with its status; where the child ends before ``work`` returns, say what was being predicted.

    The status is the one that ``work`` returned, which the child writes into a pipe. The exit status of the process proves nothing: an op
    of a model, or any native code, can call ``exit(0)`` in the middle of the work. Forked before anything heavy is imported, so
    that it costs neither time nor memory.
    """
    if sys.platform != "linux":
        return work()
    open_standard_streams()
    outputs = [NativeOutput(number) for number in STREAMS]
    waited_for = {signal.SIGCHLD, *PASSED_ON}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    reached, word = os.pipe()  # neither end is inherited by a program that the child starts
    child = os.fork()
    if child == 0:
        os.close(reached)
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, waited_for)
        for output in outputs:
            output.redirect()
        status = work()
        os.write(word, bytes([status]))
        return status
    os.close(word)
    for output in outputs:
        output.pass_on()
    code = os.waitstatus_to_exitcode(_wait(child, waited_for))
    for output in outputs:
        output.finish()
    returned = _returned(reached)
    if returned is None:
        complain(_explain(child, code))
    os._exit(ENDED_EARLY if returned is None else returned)


def _wait(child: int, waited_for: set[signal.Signals]) -> int:
    """Return the wait status of ``child``, passing signals on to it until it ends."""
    while True:
        got = signal.sigwaitinfo(waited_for)
        if got.si_signo != signal.SIGCHLD:
            # What a terminal sends, its whole group gets; the kernel says so by a code above 0.
            if got.si_code <= 0:
                os.kill(child, got.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status


def _returned(reached: int) -> int | None:
    """Return the status that the child's work returned, or None where the child ended before."""
    os.set_blocking(reached, False)  # a process that the child forked, and that outlives it, keeps the other end open
    try:
        word = os.read(reached, 1)
    except BlockingIOError:
        return None
    return word[0] if word else None


def _explain(child: int, code: int) -> str:
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
            f"--run_id={crash.run_id} --resume=true goes on with what was finished"
        )
    return f"the run's process ended {how}, {why}, and no model was running; whether it had published, manifest.json in the output says"
