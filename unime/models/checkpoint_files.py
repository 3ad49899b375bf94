"""The parts of a checkpoint as folders, and whether they hold a model that can be used: its
configuration, processor and weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import PreTrainedModel

from unime.errors import ConfigError, require
from unime.runtime.digests import add_folder
from unime.runtime.files import read_json, regular

PROCESSOR = ("processor_config.json", "preprocessor_config.json")
WEIGHTS = ".safetensors"
PICKLE = "adapter_model.bin"  # peft's
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
# Numbers that stand for themselves, in safetensors' words; some old files hold positions.
FLOATS = {"F64", "F32", "F16", "BF16"}
WHOLE = FLOATS | {"I64", "I32", "BOOL"}  # positions and masks
COUNTS, MANY = ("layer", "depth", "block", "num_labels"), 10_000  # what has objects made for each
WRITES, MOST_LETTERS = ("content", "prepend"), 1000
INCOMPLETE = {
    "missing_keys": "lacks weights of",
    "unexpected_keys": "has weights not of",
    "mismatched_keys": "has weights of another size than",
}


@dataclass(frozen=True)
class Source:
    """One checkpoint, as it was named and where it lies."""

    name: str
    folder: Path
    commit: str | None = None  # of the hub

    def describe(self) -> dict[str, str | None]:
        return {"name": self.name, "commit": self.commit}

    def add_to(self, digest: Any) -> None:
        """Put the content into a digest: on the hub a commit stands for it."""
        if self.commit is None:
            add_folder(digest, self.folder)
        else:
            digest.update(f"{self.name}@{self.commit}".encode())


@dataclass(frozen=True)
class Checkpoint:
    base: Source
    adapter: Source | None
    processor: Source
    revision: str | None  # of the base, as asked for
    elsewhere: str | None = None  # what names the processor, where neither base nor adapter has it

    def describe(self) -> dict[str, Any]:
        """What was found, for the results."""
        adapter = self.adapter.describe() if self.adapter else None
        described = {"base": self.base.describe(), "adapter": adapter}
        return described | {"processor": self.processor.describe()}

    def add_to(self, digest: Any) -> None:
        for source in self._sources():
            source.add_to(digest)

    def folders(self) -> list[Path]:
        """Local folders whose content `add_to` puts into a digest."""
        return [source.folder for source in self._sources() if source.commit is None]

    def _sources(self) -> list[Source]:
        different = dict.fromkeys((self.base, self.adapter, self.processor))
        return [source for source in different if source is not None]


def has_processor(folder: Path) -> bool:
    return any((folder / name).is_file() for name in PROCESSOR)


def own_weights(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_")]


def check_processor(source: Source) -> None:
    """Refuse a folder without one: transformers would take a tokenizer alone for it."""
    if not has_processor(source.folder):
        raise ConfigError(
            f"model.processor: {source.name} has none ({' or '.join(PROCESSOR)} in"
            f" {source.folder}); name a checkpoint that has the right one (a language model alone"
            " has none: docs/own_model.md says how to give it eyes)"
        )
    check_names(source.folder, "model.processor")
    _check_growth(source.folder / "tokenizer.json")


def _check_growth(path: Path) -> None:
    """Refuse a tokenizer that writes enormously much in place of a letter."""
    if not path.is_file():
        return
    written = 1  # letters
    parts = read_json(path, key="model.processor").get("normalizer")
    for key, value in _entries(parts if isinstance(parts, dict) else {}):
        written *= max(1, len(value)) if key in WRITES and isinstance(value, str) else 1
    key, most = f"model.processor: {path}: normalizer", MOST_LETTERS
    require(written <= most, key, f"{written} letters for one", f"at most {most}")


def check_config(source: Source) -> None:
    """Refuse a folder without one: transformers says that its model is not recognised; and one of a
    quantised model, or of more layers than are listed in no time."""
    path = source.folder / "config.json"
    if path.exists():
        config = read_json(path, key="model.name")
        for key, value in _entries(config):
            if key == "quantization_config" and value:
                raise ConfigError(
                    f"model.name: {path}: {key}: its weights are quantised already; expected full"
                    " ones, of which model.quantization makes 4 or 8 bits"
                )
            too_many = type(value) is int and value > MANY and any(of in key for of in COUNTS)
            require(not too_many, f"model.name: {path}: {key}", value, f"at most {MANY}")
        return
    found = sorted(path.name for path in source.folder.iterdir())
    what = f"found {', '.join(found[:5]) or 'nothing'}"
    if gguf := [name for name in found if name.endswith(".gguf")]:
        what = (
            f"found {gguf[0]}: llama.cpp's format, of a language model alone; docs/own_model.md"
            " says how to make a model of it"
        )
    raise ConfigError(
        f"model.name: {source.name} cannot be loaded: expected a model as transformers saves it"
        f" (config.json, *.safetensors, a processor) in {source.folder}, {what}"
    )


def _entries(value: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key of a configuration and of its parts, and what it is."""
    for key, entry in value.items():
        yield key, entry
        for part in entry if isinstance(entry, list) else [entry]:
            if isinstance(part, dict):
                yield from _entries(part)


def check_weights(source: Source) -> int:
    """Refuse a folder without weights, with pickled ones, which may run any code when read, with
    quantised ones, or with such outside of it.

    Returns:
        How many numbers they are.
    """
    check_names(source.folder)
    files = own_weights(source.folder)
    if not files:
        pickles = sorted(path.name for form in PICKLES for path in source.folder.glob(form))
        found = f"only {', '.join(pickles[:3])}: pickles, which are not read" if pickles else "none"
        raise ConfigError(
            f"model.name: {source.name} cannot be loaded: expected *.safetensors in"
            f" {source.folder}, found {found}"
        )
    total = 0
    for path in files:
        try:
            total += _count(path)
        except Exception as error:  # of a library in Rust
            raise ConfigError(f"model.name: {path}: {error}") from error
    return total


def _count(path: Path) -> int:
    """The numbers in a file of weights, all of which stand for themselves."""
    total = 0
    with safe_open(regular(path), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (it is no dictionary)
            tensor = file.get_slice(name)
            kind = tensor.get_dtype()
            if kind not in (FLOATS if name.endswith("weight") else WHOLE):
                raise ValueError(
                    f"{name} is of {kind}: quantised weights; expected full ones, of which"
                    " model.quantization makes 4 or 8 bits"
                )
            total += prod(tensor.get_shape())
    return total


def check_names(folder: Path, key: str = "model.name") -> None:
    """Refuse files that name others outside of their folder, or weights that are no safetensors.

    Args:
        key: the setting that names the folder, for messages.
    """
    for path in sorted(folder.glob("*.json")):
        if path.name == "tokenizer_config.json":
            names, end = read_json(path, key=key).get("fast_tokenizer_files") or [], ".json"
        elif path.name == "config.json":
            names, end = [read_json(path, key=key).get("transformers_weights") or ""], WEIGHTS
        elif path.name.endswith(".index.json"):
            weights = read_json(path, key=key).get("weight_map")
            require(isinstance(weights, dict), key, weights, f"a mapping: weight_map in {path}")
            names, end = list(weights.values()), WEIGHTS
        else:
            continue
        for name in dict.fromkeys(filter(None, map(str, names))):
            plain = Path(name).name == name and name.endswith(end)
            require(plain, key, name, f"the name of a *{end} beside {path}, which names it")
            require((folder / name).is_file(), key, name, f"a file that is there: {path} names it")


def check_complete(name: str, base: PreTrainedModel, loaded: dict[str, Any]) -> None:
    """Refuse weights that transformers filled with random numbers where a checkpoint lacks them, or
    left out since it does not know them (a projection after the last layer, say): other vectors,
    either way. The vocabulary head is never used."""
    head = base.get_output_embeddings()
    unused = {path for path, module in base.named_modules() if module is head}
    for kind, problem in INCOMPLETE.items():
        keys = sorted(key if isinstance(key, str) else key[0] for key in loaded[kind])
        keys = [key for key in keys if key.rpartition(".")[0] not in unused]
        if keys:
            raise ConfigError(
                f"model.name: {name} {problem} {type(base).__name__}: {len(keys)}, first"
                f" {', '.join(keys[:3])}"
            )
