"""What ran, for the folder of its results: commit, packages and machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path

from unime.errors import ConfigError
from unime.runtime.files import write_aside

PACKAGE = Path(__file__).parents[1]
WRITTEN = ("config.yaml", "commit.txt", "versions.txt")  # by write_facts


def git_commit() -> str:
    """The commit of this code, "(with uncommitted changes)" if so; "unknown" outside a checkout."""
    root = PACKAGE.resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return "unknown"  # installed into some other repository's folder
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + (" (with uncommitted changes)" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@cache
def installed_versions() -> dict[str, str]:
    """Python first, then every installed package by name."""
    found: dict[str, str] = {}
    for package in importlib.metadata.distributions():
        found.setdefault(package.name, package.version)  # the first on the path is what runs
    return {"python": platform.python_version()} | dict(
        sorted(found.items(), key=lambda entry: entry[0].lower())
    )


@cache
def code_digest(*folders: Path) -> str:
    """Of the code in such folders, of this whole package if none is named: what it computed before
    a change may not be what it computes."""
    paths = [path for folder in folders for path in folder.glob("*.py")]
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(paths or PACKAGE.rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def device_name() -> str:
    """The first GPU; or the CPU, its cores, and the threads that this process uses of them."""
    import torch  # slow to import, not always needed

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def write_facts(output_dir: Path, config: str, commit: str) -> None:
    """Write config.yaml (its text is `config`), commit.txt and versions.txt."""
    python, *packages = (f"{name}=={version}" for name, version in installed_versions().items())
    machine = f"# {platform.platform()}, {device_name()}"
    versions = "\n".join([python, machine, *packages]) + "\n"
    facts = dict(zip(WRITTEN, (config, commit + "\n", versions), strict=True))
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for name, text in facts.items():
            write_aside(output_dir / name, text)
    except OSError as error:
        raise ConfigError(f"output_dir: {output_dir} cannot be written: {error}") from None
