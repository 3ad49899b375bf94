"""What an attack is: something that a stranger does to files, and who meets them.

An area of attacks builds what is attacked once; every attack has a copy of it, beside a folder that
nobody may touch and a secret that nobody may repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

SECRET = "sesame-7391"  # in the environment and in ../outside
SECRET_NAME = "UNIME_TEST_SECRET"

Deed = Callable[[], object]
Harm = Callable[[Any], str | None]


def harmless(_: Any) -> str | None:
    """What came out may be anything."""
    return None


def nothing() -> None:
    """The deed of a control."""


@dataclass(frozen=True)
class Attack:
    """What a stranger does to the files of the folder it runs in, and who meets it there.

    Attributes:
        names: of which a refusal has to hold one: the attacked file, a key.
        harm: of what the victim returns, what is wrong with it.
    """

    name: str
    deed: Deed
    victim: Callable[[], Any]
    names: tuple[str, ...] = ()
    harm: Harm = harmless


def each(
    deeds: Mapping[str, Deed],
    victim: Callable[[], Any],
    names: tuple[str, ...] = (),
    harm: Harm = harmless,
) -> list[Attack]:
    """Attacks that one victim meets."""
    return [Attack(name, deed, victim, names, harm) for name, deed in deeds.items()]


@dataclass(frozen=True)
class Area:
    """Attacks on one kind of thing.

    Attributes:
        build: makes what is attacked, in the folder it runs in; what it puts into a folder
            ``outside`` there lies beside that folder, for links and paths that lead out of it.
        attacks: the attacks, each by its name in the area; "control" does nothing and survives.
        sample: names of those that a plain run of the tests takes.
    """

    name: str
    build: Deed
    attacks: Callable[[], list[Attack]]
    sample: tuple[str, ...]
