"""Peak memory of this process, resettable on Linux, so that a worker can report it for each step of each frame."""

import resource
import sys
from pathlib import Path


def reset_peak() -> None:
    """Start a new measurement where the kernel allows it (Linux, /proc/self/clear_refs); elsewhere the peak only rises."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        # Not Linux, or a container without this file: the figure is then the peak since the process started.
        return


def peak_rss_mb() -> float:
    """Peak resident memory in MB (10^6 bytes) since `reset_peak`, or since the process started."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024 / 1e6
