"""The time that a worker may take for everything before the first pixel of a frame.

Headers, sidecars and coordinate systems are parsed by C code, which no Python code can interrupt. The kernel can: a timer ends
the process, the pool starts another one, and only that frame fails.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

HEADER_SECONDS = 20.0
"""CPU time, so that neither a busy machine nor a jump of the clock ends a worker. A normal header takes milliseconds."""
_WAIT_SECONDS = 300.0
"""Time by the clock, for a process that waits without using the CPU, as for a FIFO that nothing writes to."""
EXIT_CODES = {-signal.SIGPROF: HEADER_SECONDS, -signal.SIGALRM: _WAIT_SECONDS}
"""Exit code of a worker that took longer than the seconds."""


@contextmanager
def limit_header_time(seconds: float = HEADER_SECONDS, wait_seconds: float = _WAIT_SECONDS) -> Iterator[None]:
    """Kill this process if the block takes more CPU time than `seconds`, or longer than `wait_seconds`."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, wait_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
