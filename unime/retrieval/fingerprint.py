"""What embeddings depend on: fingerprints by which they, and results made of them, are kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from unime.config import EmbeddingConfig, InputConfig
from unime.errors import ConfigError
from unime.retrieval.loading import Found
from unime.runtime.environment import code_digest, installed_versions

PACKAGES = (
    *("python", "torch", "torchvision", "transformers", "tokenizers", "peft", "accelerate"),
    *("bitsandbytes", "sentence-transformers", "datasets", "numpy", "pillow"),
)


def package_versions() -> dict[str, str | None]:
    """Of the packages that decide an embedding or a score."""
    versions = installed_versions()
    return {package: versions.get(package) for package in PACKAGES}


def plain(config: Any) -> Any:
    """A configuration as JSON values."""
    return OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)


def check_folders(config: EmbeddingConfig, found: Found) -> None:
    """Refuse to write into a folder of the model's, which would change its fingerprint.

    Raises:
        ConfigError: results or embeddings would be written into a folder of the model's, whose
            content would then be another one each time.
    """
    for key, folder in (("output_dir", config.output_dir), ("store", config.store)):
        path = Path(folder or config.output_dir).resolve()
        for inside in found.folders():
            if inside.resolve() in (path, *path.parents):
                raise ConfigError(
                    f"{key}: got {folder!r}, expected a folder that is not inside the model's"
                    f" ({inside}), whose content is fingerprinted"
                )


def settings_fingerprint(config: EmbeddingConfig, found: Found, inputs: InputConfig) -> str:
    """Of everything that decides an embedding but the item, the code and the machine: settings, and
    the content of model, adapter and processor.

    Args:
        inputs: as they are, see `inputs_of`.
    """
    settings = json.dumps([plain(config.model), inputs.decisive()], sort_keys=True)
    digest = hashlib.blake2b(settings.encode(), digest_size=16)
    found.add_to(digest)
    return digest.hexdigest()


def vectors_fingerprint(settings: str, device_type: str) -> str:
    """Of the settings, this package's code, the packages it uses and the kind of device: embeddings
    that agree in all of it may stand beside each other."""
    words = json.dumps([settings, code_digest(), package_versions(), device_type], sort_keys=True)
    return hashlib.blake2b(words.encode(), digest_size=16).hexdigest()
