"""A finished run as a model that sentence-transformers, transformers and peft load as it is.

    python -m stages.export runs/qwen2-vl-2b/stage2 models/my-embedder [key=value …]
    python -m stages.export RUN OUT report=runs/…/report.json license=apache-2.0
    python -m stages.export RUN OUT form=adapter             one LoRA adapter, for peft
    python -m stages.export RUN OUT --push-to-hub me/my-embedder [dry_run=true]

RUN is the run.output_dir of a stage (or a folder of adapters). Merges the adapters into the base
model (a quantised one is de-quantised first, and the difference printed), writes the model, its
processor, a chat template that carries the prompt, sentence-transformers' files, a model card and
the configuration, loads all of it again and compares the vectors.

    form=merged|adapter precision=float32|bfloat16|float16 base=FOLDER max_shard_size=5GB
    report=report.json name=… license=… push_to_hub=… private=true dry_run=false
    trust_remote_code=false              (what they mean: ExportConfig in unime/config.py)
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from omegaconf import OmegaConf

from eval.tables import markdown, table_sections, title_of
from unime.adapter_files import DESCRIPTION, adapter_folders, read_description
from unime.config import (
    ConfigError,
    ExportConfig,
    ExportForm,
    InputConfig,
    ModelConfig,
    Precision,
    Quantization,
    build_config,
    require,
)
from unime.config_file import parse_words, program_name
from unime.encoder import Encoder
from unime.export import save_combined_adapter, save_merged
from unime.facts import git_commit, installed_versions
from unime.model_card import ADAPTER, Exported, model_card, recipes
from unime.progress import quiet_transformers
from unime.published import locate
from unime.runlog import run_program
from unime.verification import (
    check_equal,
    difference,
    embed_kinds,
    probe_items,
    sentence_transformers_vectors,
)


def main(argv: list[str] | None = None) -> None:
    config = parse(argv)
    folder, run = Path(config.output_dir), Path(config.run)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"output_dir: {folder} exists already")
    _check_words(config)
    report, stages = read_report(config.report), recipes(run)
    final = final_folder(run)
    base = read_description(final)["base"]
    model = described_model(final, base, config)
    quiet_transformers()
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        form = export_adapter if config.form is ExportForm.adapter else export_merged
        done = form(model, aside, config)
        write_card(aside, config, base, done, report, stages)
        if folder.exists():
            folder.rmdir()
        aside.rename(folder)
    except OSError as error:
        raise ConfigError(f"output_dir: {folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    print(f"written: {folder}")
    if config.push_to_hub is not None:
        push(config, folder)


def _check_words(config: ExportConfig) -> None:
    """Before hours of work, not after them."""
    size = config.max_shard_size
    require(bool(re.fullmatch(r"\d+[KMGT]B", size)), "max_shard_size", size, "such as 5GB")
    try:
        if config.push_to_hub is not None:
            validate_repo_id(config.push_to_hub)
    except HFValidationError as error:
        raise ConfigError(f"push_to_hub: {' '.join(str(error).split())}") from None


def parse(argv: list[str] | None) -> ExportConfig:
    parser = argparse.ArgumentParser(
        prog=program_name(),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("output_dir", metavar="OUT")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--push-to-hub", metavar="REPOSITORY")
    args = parse_words(parser, argv)
    words = [*args.overrides, "run=RUN", "output_dir=OUT"]
    try:
        config = build_config(ExportConfig, None, words)
    except ConfigError as error:
        parser.exit(2, f"error: {error}\n")
    run, output_dir = map(os.path.expanduser, (args.run, args.output_dir))
    config = replace(config, run=run, output_dir=output_dir)
    return replace(config, push_to_hub=args.push_to_hub or config.push_to_hub)


def final_folder(run: Path) -> Path:
    """Where a run's adapters are.

    Raises:
        ConfigError: there are none.
    """
    for folder in (run / "final", run):
        if (folder / DESCRIPTION).is_file():
            adapter_folders(folder)  # raises where it cannot be read
            return folder
    raise ConfigError(f"run: {run} holds no finished run (no final/{DESCRIPTION} in it)")


def described_model(final: Path, base: dict[str, Any], config: ExportConfig) -> ModelConfig:
    """The model that a run trained, as it was held."""
    return ModelConfig(
        name=config.base or base["name"],
        revision=base["revision"] if config.base is None else None,
        trust_remote_code=config.trust_remote_code,
        quantization=Quantization(base["quantization"]),
        precision=config.precision or Precision(base["precision"]),
        adapter=str(final),
        processor=base.get("processor"),
    )


def export_adapter(model: ModelConfig, folder: Path, config: ExportConfig) -> Exported:
    """Write all adapters as one, and load it again.

    Raises:
        RunError: it does not embed as they do.
    """
    with tempfile.TemporaryDirectory() as pictures:
        items = probe_items(Path(pictures))
        encoder = Encoder.load(model, InputConfig())
        trained = embed_kinds(encoder, items)
        save_combined_adapter(encoder.adapters, encoder.processor, folder)
        again = Encoder.load(replace(model, adapter=str(folder)), InputConfig())
        found = difference(embed_kinds(again, items), trained)
        line = check_equal("one adapter against all, loaded again", found, model.precision)
    print(line, flush=True)
    limits = {"all": ADAPTER}
    return Exported(encoder.hidden_size, asdict(encoder.processor.inputs), limits, [line])


def export_merged(model: ModelConfig, folder: Path, config: ExportConfig) -> Exported:
    """Write the merged model, and load it again.

    Raises:
        RunError: it does not embed as the merged one does.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    figures: list[str] = []

    def note(line: str) -> None:
        figures.append(line)
        print(line, flush=True)

    with tempfile.TemporaryDirectory() as pictures:
        items = probe_items(Path(pictures))
        encoder = Encoder.load(model, InputConfig(), device=device)
        trained = embed_kinds(encoder, items)
        if model.quantization is not Quantization.none:
            del encoder
            gc.collect()
            encoder = Encoder.load(model, InputConfig(), device=device, dequantised=True)
        encoder.adapters.merge()
        inputs = asdict(encoder.processor.inputs)
        merged = embed_kinds(encoder, items)
        before = {"none": "", "nf4": "de-quantised and "}.get(model.quantization.value, "rounded, ")
        found = difference(merged, trained)
        note(f"{before}merged against as trained: {found}")
        if model.quantization is not Quantization.int8:  # which computes in 8 bits itself
            check_equal("merged against as trained", found, model.precision)
        source = locate(model).base.folder
        save_merged(encoder.base, encoder.processor, folder, config.max_shard_size, source)
        del encoder
        gc.collect()
        again = replace(
            model,
            name=str(folder),
            revision=None,
            adapter=None,
            processor=None,
            quantization=Quantization.none,
        )
        encoder = Encoder.load(again, InputConfig(), device=device)
        found = difference(embed_kinds(encoder, items), merged)
        note(check_equal("written and loaded again", found, model.precision))
        theirs = sentence_transformers_vectors(folder, encoder, items)
        for kind, vectors in theirs.items():
            ours = torch.cat([merged[k] for k in theirs if k in merged and kind in (k, "mixed")])
            found = difference({kind: vectors}, {kind: ours})
            note(check_equal(f"sentence-transformers, {kind}", found, model.precision))
        for kind, why in encoder.backbone.st_limits:
            note(f"sentence-transformers, {kind}: not supported: {why}")
    limits = dict(encoder.backbone.st_limits)
    return Exported(encoder.hidden_size, inputs, limits, figures)


def read_report(path: str | None) -> str | None:
    """The table of an evaluation's report.json.

    Raises:
        ConfigError: it is not one.
    """
    if path is None:
        return None
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
        table = markdown(*table_sections(report))
        title = title_of(report)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"report: {path} is not a report of eval.report: {error!r}") from None
    return f"{title}:\n\n{table}"


def write_card(
    folder: Path,
    config: ExportConfig,
    base: dict[str, Any],
    done: Exported,
    scores: str | None,
    stages: dict[str, dict[str, Any]],
) -> None:
    """README.md and config.yaml: how it was made."""
    resizes = (folder / "resizing_transformer.py").is_file()
    name = config.name or config.push_to_hub or Path(config.output_dir).name
    commit = git_commit()
    card = model_card(name, base, done, resizes, stages, scores, config.license, commit)
    (folder / "README.md").write_text(card, encoding="utf-8")
    made = {"base": base, "inputs": done.inputs, "stages": stages}
    made |= {"commit": commit, "versions": installed_versions()}
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(made)), encoding="utf-8")


def push(config: ExportConfig, folder: Path) -> None:
    """Upload a folder; credentials and address are huggingface_hub's (HF_TOKEN, HF_ENDPOINT).

    Raises:
        ConfigError: the hub refuses.
    """
    repository = str(config.push_to_hub)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files)
    kind = "private" if config.private else "public"
    print(f"{len(files)} files, {size / 1e9:.2f} GB, to {repository} ({kind} if it is new)")
    if config.dry_run:
        print("\n".join(f"  {path.relative_to(folder)}" for path in files))
        print(f"to upload them: hf upload {repository} {folder}")
        return
    api = HfApi()
    try:
        api.create_repo(repository, private=config.private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Export from unime"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"push_to_hub: {repository}: {reason}; the model is in {folder}, to upload it again:"
            f" hf upload {repository} {folder}"
        ) from None
    print(f"uploaded: {done.commit_url}")


if __name__ == "__main__":
    run_program(main)
