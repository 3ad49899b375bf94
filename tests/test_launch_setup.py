"""What launch.sh installs, and when: pytest tests/test_launch_setup.py"""

from __future__ import annotations

import shutil
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.checkout import Checkout
from tests.support.paths import ROOT

LOCKED = [  # what an installation takes
    "pip install --disable-pip-version-check --requirement requirements.lock",
    "pip install --disable-pip-version-check --no-deps --editable .",
]
NEWEST = (
    "pip install --disable-pip-version-check --upgrade --upgrade-strategy eager"
    " --editable .[demo,dev]"
)


def somebody_elses(checkout: Checkout) -> None:
    """An environment that launch.sh did not make."""
    (checkout.venv / "bin").mkdir(parents=True)
    shutil.copy(checkout.python, checkout.venv / "bin" / "python")
    (checkout.venv / "pyvenv.cfg").touch()


def test_sets_up_once(checkout: Checkout) -> None:
    assert checkout.launch("test")[0] == 0
    assert checkout.calls() == ["venv", *LOCKED]
    assert checkout.launch("test", UNIME_VENV=f"{checkout.venv}/")[0] == 0
    relative = {"cwd": checkout.venv.parent, "UNIME_VENV": f"./{checkout.venv.name}"}
    assert checkout.launch("test", **relative)[0] == 0
    assert checkout.calls() == []


@pytest.mark.parametrize("file", ["pyproject.toml", "requirements.lock"])
def test_installs_again_when_the_requirements_change(checkout: Checkout, file: str) -> None:
    checkout.launch("test")
    with (checkout.root / file).open("a") as lines:
        lines.write("# more\n")
    checkout.calls()
    assert checkout.launch("test")[0] == 0
    assert checkout.calls() == LOCKED
    assert checkout.launch("test")[0] == 0
    assert checkout.calls() == []


def test_what_is_built_is_built_with_locked_tools(checkout: Checkout) -> None:
    """setuptools is in the lock, and packages that have no wheel are built with it."""
    checkout.launch("test")
    seen = Path(f"{checkout.log}.constraints").read_text().splitlines()
    assert seen == ["requirements.lock requirements.lock"] * 2


def test_the_newest_versions_go_into_an_environment_of_their_own(checkout: Checkout) -> None:
    checkout.launch("test")
    checkout.calls()
    assert checkout.launch("test", "-k", "a", UNIME_LATEST="1")[0] == 0
    assert checkout.ran()[1:] == ["-m", "pytest", "-k", "a"]
    newest = checkout.venv.with_name(f"{checkout.venv.name}-latest")
    assert checkout.calls() == ["venv", NEWEST] and (newest / "pyvenv.cfg").exists()
    assert checkout.launch("test", UNIME_LATEST="1")[0] == 0
    assert checkout.calls() == [NEWEST]  # as new as it gets today
    then = {"UNIME_TEST_THEN": 'echo "latest: ${UNIME_LATEST:-unset}"'}
    assert "latest: unset\n" in checkout.launch("test", UNIME_VENV=str(newest), **then)[1]
    assert "latest: unset\n" in checkout.launch("test", UNIME_LATEST="1", **then)[1]
    assert checkout.calls() == [NEWEST]  # the first of these took what was there
    assert checkout.launch("test")[0] == 0
    assert checkout.calls() == []  # the ordinary one is as it was


@pytest.mark.parametrize(
    ("python", "latest", "status"),
    [("3 10", "", 2), ("3 13", "", 0), ("3 14", "", 2), ("3 14", "1", 0), ("3 10", "1", 2)],
)
def test_only_a_python_that_was_tried_takes_the_lock(
    checkout: Checkout, python: str, latest: str, status: int
) -> None:
    settings = {"UNIME_TEST_PYTHON": python, "UNIME_LATEST": latest}
    found, output = checkout.launch("test", **settings)
    assert found == status, output
    if status:
        assert output.startswith("launch.sh: needs Python 3.11") and output.count("\n") == 1
        somebody_elses(checkout)
        found, output = checkout.launch("test", **settings | {"UNIME_VENV": str(checkout.venv)})
        assert (found, output.count("\n")) == (2, 1), output
        assert checkout.calls() == []


@pytest.mark.parametrize("minor", [11, 12, 13])
def test_the_lock_holds_what_pyproject_asks_for(minor: int) -> None:
    python = {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.0"}
    locked = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if text := line.split("#")[0].strip():
            pin = Requirement(text)
            if pin.marker is None or pin.marker.evaluate(python):
                assert pin.name not in locked and len(pin.specifier) == 1
                locked[pin.name] = str(pin.specifier).removeprefix("==")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [Requirement(text) for text in [*project["dependencies"], *chain(*extras.values())]]
    missing = [
        f"{one}, and the lock has {locked.get(one.name)}"
        for one in asked
        if one.name != "unime" and not one.specifier.contains(locked.get(one.name, "0.dev0"))
    ]
    assert not missing, "make requirements.lock anew (CONTRIBUTING.md, Versions)"


def test_repairs_an_interrupted_installation(checkout: Checkout) -> None:
    fail = Path(f"{checkout.log}.fail")
    fail.touch()
    assert checkout.launch("test")[0] != 0
    assert checkout.calls() == ["venv", LOCKED[0]]
    fail.unlink()
    (checkout.venv / "half a package").touch()
    assert checkout.launch("test")[0] == 0
    assert checkout.calls() == ["venv", *LOCKED]
    assert not (checkout.venv / "half a package").exists()


def test_makes_a_moved_environment_anew(checkout: Checkout) -> None:
    checkout.launch("test")
    moved = checkout.venv.rename(checkout.venv.with_name("moved"))
    checkout.calls()
    assert checkout.launch("test", UNIME_VENV=str(moved))[0] == 0
    assert checkout.calls() == ["venv", *LOCKED]


def test_never_removes_what_it_did_not_make(checkout: Checkout) -> None:
    checkout.venv.mkdir()
    (checkout.venv / "thesis.tex").touch()
    status, output = checkout.launch("test")
    assert (status, (checkout.venv / "thesis.tex").exists()) == (2, True)
    assert "is not empty and is no virtual environment" in output
    somebody_elses(checkout)  # now it is one
    Path(f"{checkout.log}.fail").touch()
    assert checkout.launch("test")[0] != 0
    Path(f"{checkout.log}.fail").unlink()
    assert checkout.launch("test")[0] == 0
    assert (checkout.venv / "thesis.tex").exists()
    assert checkout.calls() == [LOCKED[0], *LOCKED]


def test_says_that_python_is_too_old(checkout: Checkout, tmp_path: Path) -> None:
    tools = tmp_path / "tools"  # a PATH without python
    tools.mkdir()
    for name in ("bash", "dirname", "readlink", "mkdir", "flock", "ls", "env", "sha256sum"):
        found = shutil.which(name)
        if found:
            (tools / name).symlink_to(found)
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tools / "python3").chmod(0o755)
    status, output = checkout.launch("test", PATH=str(tools), UNIME_PYTHON="python3")
    assert status == 2
    assert "needs Python 3.11, 3.12 or 3.13" in output
