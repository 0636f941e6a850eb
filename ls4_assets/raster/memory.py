"""Peak memory of this process, resettable on Linux, so that a pool worker's figures belong to one step of one frame."""

import resource
import sys
from pathlib import Path


def reset_peak() -> None:
    """Start a new measurement where the kernel lets us (Linux, /proc/self/clear_refs); otherwise peaks only rise."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        # Not Linux, or a container without it: the figure is then the highest since the process began.
        return


def peak_rss_mb() -> float:
    """Peak resident memory in MB (10^6 bytes) since `reset_peak`, or since the process began."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024 / 1e6
