"""What a user's environment says of the processes that launch.sh starts."""

from __future__ import annotations

import re
from collections.abc import Mapping

from unime.config.reading.values import load_yaml
from unime.errors import require


def processes_asked_for(environment: Mapping[str, str]) -> int | None:
    """How many processes launch.sh is asked to start for a stage; None: one for each GPU.

    Raises:
        ConfigError: UNIME_NUM_PROCESSES, or what UNIME_ACCELERATE_CONFIG says, is no such number.
    """
    key = "UNIME_NUM_PROCESSES"
    found = environment.get(key)
    if not found and (file := environment.get("UNIME_ACCELERATE_CONFIG")):
        key, found = f"{file}: num_processes", (load_yaml(file) or {}).get("num_processes")
    if not found:
        return None
    require(re.fullmatch("[1-9][0-9]*", str(found)) is not None, key, found, "a positive number")
    return int(found)
