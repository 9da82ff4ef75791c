"""What every connection is held to."""

import os
import tempfile

from ..values import Json


def limits() -> Json:
    """Settings of every connection: nothing is downloaded, variables of the caller are no tables, memory is bounded."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",
        "threads": str(cores),
        "memory_limit": "60%",  # beyond it DuckDB spills, to the system's folder rather than the caller's
        "enable_external_file_cache": "false",  # it would fill the memory with what the system's page cache has already
        "temp_directory": os.path.join(tempfile.gettempdir(), f"tracelake-{os.getpid()}"),
    }
