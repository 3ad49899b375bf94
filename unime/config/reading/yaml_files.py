"""YAML as nodes, of files that anybody may have written: a few lines may stand for 10^9 values, and
a pipe never ends."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import yaml
from yaml.nodes import MappingNode, Node, SequenceNode

from unime.errors import ConfigError
from unime.runtime.files import regular

LONGEST_YAML = 1 << 19  # characters, of which PyYAML reads some 50,000 a second
MOST_VALUES = 100_000  # of a document, written out
MOST_REFERENCES = 20  # ${…}: two in each that the next stands for are 2^10 values


def read_yaml(path: Path) -> Node | None:
    """The only document of a YAML file; None: it is empty.

    Raises:
        ConfigError: it cannot be read, or is no YAML.
    """
    try:
        with regular(path).open(encoding="utf-8") as file:
            return parse_yaml(file.read(LONGEST_YAML + 1))
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read it: {error}") from None


def parse_yaml(text: str) -> Node | None:
    """The only document of a YAML text; None: it is empty.

    Raises:
        ConfigError: it is no YAML, or more of it than settings need.
    """
    if len(text) > LONGEST_YAML:
        raise ConfigError(f"more than {LONGEST_YAML} characters of YAML")
    if text.count("${") > MOST_REFERENCES:
        raise ConfigError(f"more than {MOST_REFERENCES} times ${{…}}")
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        values = 0 if node is None else _count(node, {})
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"no YAML: {' '.join(str(error).split())}") from None
    if values > MOST_VALUES:
        raise ConfigError(
            f"more than {MOST_VALUES} values, those that aliases stand for among them"
        )
    return node


def _count(node: Node, known: dict[Node, int]) -> int:
    """How many values a node stands for, written out: a line of aliases may be 10^9 of them."""
    if node not in known:
        known[node] = MOST_VALUES + 1  # until it is counted: of one that holds itself
        parts = node.value if isinstance(node, MappingNode | SequenceNode) else []
        held = chain(*parts) if isinstance(node, MappingNode) else parts
        known[node] = 1 + sum(_count(part, known) for part in held)
    return known[node]
