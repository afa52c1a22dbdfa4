"""Peak memory of this process."""

import re
import resource
from pathlib import Path


def peak_mb() -> float:
    """Return the peak resident memory of this process.

    Where the system says, not that of the process it was forked from, which ru_maxrss keeps.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
