"""A child that never outlives its parent. Called first by every command that `paddock up` or a front starts.

The parent names itself in PADDOCK_PARENT_PID; without it this module does nothing, as in a container.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

VARIABLE = "PADDOCK_PARENT_PID"
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent dies; exits at once (code 1) if it is gone already.

    Raises SystemExit with a clear message when the variable holds no process id.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return
    if not text.isdecimal():
        sys.exit(f"{VARIABLE} must be a process id, not {text[:32]!r}")
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
    # The parent may have died between fork and prctl; then the signal never comes.
    if os.getppid() != int(text):
        sys.exit(f"the parent process {text} is gone")
