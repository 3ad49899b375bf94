"""Writes an adapter that was published as a pickle (adapter_model.bin) anew, with safetensors.

    python -m data_prep.unpickle TIGER-Lab/VLM2Vec-LoRA data/released/VLM2Vec-LoRA

SOURCE is a folder or a hub id, id@revision for another than its main branch. Programs of this
project never read pickles; this one lets torch's restricted reader have the one file, which refuses
whatever is no tensor, and copies the configuration and processor files beside it.
"""

from __future__ import annotations

import argparse
import pickle
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from unime.config import ConfigError
from unime.published import ADAPTER, WANTED, fetch, split_revision
from unime.runlog import run_program

PICKLE, WEIGHTS = "adapter_model.bin", "adapter_model.safetensors"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source")
    parser.add_argument("destination", type=Path)
    args = parser.parse_args(argv)
    folder = fetch("source", *split_revision(args.source), code=True, extra=(PICKLE,)).folder
    if not (folder / ADAPTER).is_file() or not (folder / PICKLE).is_file():
        raise ConfigError(f"source: expected {ADAPTER} and {PICKLE} in {folder}")
    if args.destination.exists():
        raise ConfigError(f"destination: {args.destination} is there already")
    try:
        tensors = torch.load(folder / PICKLE, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError) as error:
        raise ConfigError(f"source: {folder / PICKLE}: {' '.join(str(error).split())}") from error
    args.destination.mkdir(parents=True)
    for pattern in (*WANTED, "*.py"):
        for path in folder.glob(pattern):
            shutil.copyfile(path, args.destination / path.name)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, args.destination / WEIGHTS, metadata={"format": "pt"})
    print(f"{args.destination}: {len(whole)} tensors")


if __name__ == "__main__":
    run_program(main)
