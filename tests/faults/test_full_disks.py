"""On a full disk every program ends with one line, and the same command finishes once there is
room: ./launch.sh test -m faults tests/faults/test_full_disks.py"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.programs import PAGE, Workshop

pytestmark = pytest.mark.faults
SHARES = {"teacher": (0.3, 0.9, 0.97), "stage1": (0.1, 0.5, 0.9), "stage2": (0.3, 0.7, 0.97),
          "eval": (0.1, 0.5, 0.9), "report": (0.3, 0.9), "export": (0.2, 0.8),
          "miniatures": (0.3, 0.8), "demo_data": (0.2, 0.9)}  # fmt: skip
CASES = [(name, share) for name, shares in SHARES.items() for share in shares]
Disk = Callable[[Path, int], None]


@pytest.fixture
def disk() -> Iterator[Disk]:
    """``disk(folder, size)``: a file system of so many bytes in a folder, or the one there, which
    has this size now."""
    mounted: list[Path] = []

    def mount(folder: Path, size: int) -> None:
        option = f"size={max(size, PAGE)}" + (",remount" if folder in mounted else "")
        command = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError as error:
            pytest.skip(f"no program mounts a small disk here: {error}")
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)

    yield mount
    for folder in set(mounted):
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(("name", "share"), CASES)
def test_a_full_disk_is_said_and_loses_nothing(
    workshop: Workshop, disk: Disk, name: str, share: float
) -> None:
    """A disk of a share of what the program writes in the end."""
    need = workshop.straight(name).size
    folder = workshop.fresh(name)
    disk(folder.parent, int(share * need))
    fork = workshop.start(name)
    wrong = not_said(fork.wait(), fork.said, folder.parent)
    disk(folder.parent, 10 * need)
    workshop.finish(name)
    assert not wrong, f"{wrong}:\n{fork.said[-3000:]}"


def not_said(status: int, said: str, folder: Path) -> str:
    """What is wrong with the way in which a program ended on a full disk."""
    errors = [line for line in said.splitlines() if "rror: " in line]
    if status not in (1, 2):
        return f"ended with status {status}"
    if "Traceback" in said:
        return "a traceback"
    if len(errors) != 1:
        return f"{len(errors)} lines of errors"
    is_said = any(words in errors[0] for words in ("No space left on device", "are free"))
    if not is_said or str(folder) not in errors[0]:
        return f"{folder} and what is wrong with it are not named"
    return ""
