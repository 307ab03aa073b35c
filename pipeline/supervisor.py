"""The process that waits for a run's: it is there to say why when the run's process is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def supervise(work: Callable[[], int]) -> int:
    """Runs ``work`` in a child and gives its status; where a signal ends the child, says which and what was being predicted.

    Forked before anything heavy is imported, so that it costs neither time nor memory.
    """
    if sys.platform != "linux":
        return work()
    waited_for = {signal.SIGCHLD, *PASSED_ON}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, waited_for)
        return work()
    while True:
        got = signal.sigwaitinfo(waited_for)
        if got.si_signo != signal.SIGCHLD:
            # What a terminal sends, its whole group gets; the kernel says so by a code above 0.
            if got.si_code <= 0:
                os.kill(child, got.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        print(f"nightshift: {_explain(child, -code)}", file=sys.stderr, flush=True)
    os._exit(code if code >= 0 else 1)


def _explain(child: int, number: int) -> str:
    from transforms.model import crashes

    name = signal.Signals(number).name
    why = "most likely since memory ran out" if number == signal.SIGKILL else "as native code does that crashes"
    for path, crash in crashes.find_crashes(child):
        path.unlink(missing_ok=True)
        return (
            f"the run's process ended by {name}, {why}, while it ran {crash}; nothing was published. "
            f"Correct the model, leave those rows out, or make the calls smaller with --batch_size; "
            f"--run_id={crash.run_id} --resume=true goes on with what was finished"
        )
    return f"the run's process ended by {name}, {why}, and no model was running; nothing was published"
