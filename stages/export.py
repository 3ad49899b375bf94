"""A finished run as a model that sentence-transformers, transformers and peft load as it is.

    python -m stages.export runs/qwen2-vl-2b/stage2 models/my-embedder [key=value …]
    python -m stages.export RUN OUT report=runs/…/report.json license=apache-2.0
    python -m stages.export RUN OUT form=adapter             one LoRA adapter, for peft
    python -m stages.export RUN OUT --push-to-hub me/my-embedder [dry_run=true]

RUN is the run.output_dir of a stage (or one of its checkpoints, or a folder of adapters). Merges
the adapters into the base model (a quantised one is de-quantised first, and the difference
printed), writes the model, its processor, a chat template that carries the prompt, the files of
sentence-transformers, a model card and the configuration, loads all of it again and compares the
vectors, of odd pictures too.

With code=true it carries code that reads pictures as training did, which is typed as
SentenceTransformer(OUT, trust_remote_code=True); with code=false it is loaded without, and the
card says which pictures it embeds otherwise than the run does.

    form=merged|adapter precision=float32|bfloat16|float16 base=FOLDER max_shard_size=5GB
    code=true|false
    report=report.json name=… license=… push_to_hub=… private=true dry_run=false
    trust_remote_code=false
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from omegaconf import OmegaConf

from eval.report.table import as_words, markdown, table_sections, title_of
from unime.config import (
    ExportConfig,
    ExportForm,
    ModelConfig,
    Precision,
    Quantization,
)
from unime.config.loader import built, parse_words, program_parser
from unime.errors import ConfigError
from unime.export.exporting import export_adapter, export_merged
from unime.export.merged import write_sizes
from unime.export.model_card import Exported, model_card
from unime.export.run_facts import (
    public,
    recipes,
    remarks_on_report,
    signs_of_collapse,
    trained_sizes,
)
from unime.export.upload import push
from unime.models.adapter_files import ADAPTER, DESCRIPTION, adapter_folders, read_description
from unime.models.hub import FINAL, NamedBase, inside_of_run, trained_base
from unime.runtime.environment import git_commit, installed_versions
from unime.runtime.files import read_json, write_json
from unime.runtime.folder_lock import new_folder
from unime.runtime.names import for_others
from unime.runtime.program import run_program
from unime.runtime.progress import quiet_transformers


def main(argv: list[str] | None = None) -> None:
    config = parse(argv)
    folder, run = Path(config.output_dir), Path(config.run)
    quiet_transformers()
    with new_folder("output_dir", folder) as aside:
        remarks = write_export(config, run, aside)
    for remark in remarks:
        print(f"warning: {remark}", flush=True)
    print(f"written: {folder}")
    if config.push_to_hub is not None:
        push(config, folder)


def write_export(config: ExportConfig, run: Path, folder: Path) -> list[str]:
    """Write all of the exported folder; returns what has to be said of it.

    Raises:
        ConfigError: there is nothing to export, or a setting does not fit.
        RunError: what was written embeds otherwise than the run does.
    """
    _check_words(config)
    (scores, remarks), stages = read_report(config.report), recipes(run)
    final = final_folder(run)
    base = read_description(final)["base"]
    model = described_model(final, base, config)
    signs = signs_of_collapse(run)
    form = export_adapter if config.form is ExportForm.adapter else export_merged
    done = form(model, folder, config)
    sizes = trained_sizes(stages, done.size)
    if sizes and config.form is ExportForm.merged:
        write_sizes(folder, sizes)
    done = replace(done, collapsed=signs, sizes=sizes)
    write_card(folder, config, base, done, scores, stages)
    return [*signs, *remarks]


def _check_words(config: ExportConfig) -> None:
    """Before hours of work, not after them."""
    try:
        if config.push_to_hub is not None:
            validate_repo_id(config.push_to_hub)
    except HFValidationError as error:
        raise ConfigError(f"push_to_hub: {' '.join(str(error).split())}") from None


def parse(argv: list[str] | None) -> ExportConfig:
    parser = program_parser(ExportConfig)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("output_dir", metavar="OUT")
    parser.add_argument("--push-to-hub", metavar="REPOSITORY")
    args = parse_words(parser, argv)
    words = [*args.overrides, "run=RUN", "output_dir=OUT"]
    config = built(parser, ExportConfig, None, words)
    run, output_dir = map(os.path.expanduser, (args.run, args.output_dir))
    config = replace(config, run=run, output_dir=output_dir)
    return replace(config, push_to_hub=args.push_to_hub or config.push_to_hub)


def final_folder(run: Path) -> Path:
    """Where a run's adapters are.

    Raises:
        ConfigError: there are none.
    """
    folder = run / inside_of_run("run", str(run))
    if not (folder / DESCRIPTION).is_file():
        raise ConfigError(f"run: {run} holds no finished run (no {FINAL}/{DESCRIPTION} in it)")
    adapter_folders(folder)  # raises where it cannot be read
    return folder


def described_model(final: Path, base: dict[str, Any], config: ExportConfig) -> ModelConfig:
    """The model that a run trained, as it was held."""
    name = config.base
    if name is None:
        try:
            trained_on = NamedBase(base["name"], base["revision"], base.get("folder"))
            name = trained_base(final, trained_on, config.trust_remote_code).name
        except ConfigError as error:
            raise ConfigError(f"run: {final}: {error}; or base=FOLDER says where it is") from error
    return ModelConfig(
        name=name,
        revision=base["revision"] if config.base is None else None,
        trust_remote_code=config.trust_remote_code,
        quantization=Quantization(base["quantization"]),
        precision=config.precision or Precision(base["precision"]),
        adapter=str(final),
        processor=base.get("processor"),
    )


def read_report(path: str | None) -> tuple[str | None, list[str]]:
    """The table of an evaluation's report.json, and what has to be said of it.

    Raises:
        ConfigError: it is not one.
    """
    if path is None:
        return None, []
    try:
        report = for_others(read_json(Path(path)))
        table = markdown(*table_sections(report))
        title = title_of(report | {"suite": public(report["suite"])})
        remarks = remarks_on_report(report)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"report: {path} is not a report of eval.report: {error!r}") from None
    lines = [f"{as_words(title)}:\n\n{table}", *(f"- {as_words(line)}" for line in remarks)]
    return "\n".join(lines), remarks


def write_card(
    folder: Path,
    config: ExportConfig,
    base: dict[str, Any],
    done: Exported,
    scores: str | None,
    stages: dict[str, dict[str, Any]],
) -> None:
    """README.md and config.yaml: how it was made."""
    own_name = os.path.basename(os.path.abspath(config.output_dir))
    name = for_others(config.name or config.push_to_hub or own_name)
    stages, base = for_others((stages, base), longest=None)
    commit = git_commit()
    card = model_card(name, base, done, stages, scores, config.license, commit)
    (folder / "README.md").write_text(card, encoding="utf-8")
    named = {key: value for key, value in base.items() if key != "folder"}
    made: dict[str, Any] = {
        "base": named | {"name": public(base["name"])},
        "inputs": done.inputs,
        "stages": stages,
    }
    made |= {"embeds_otherwise": done.otherwise, "signs_of_collapse": done.collapsed}
    made |= {"commit": commit, "versions": installed_versions()}
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(made)), encoding="utf-8")
    if (path := folder / ADAPTER).is_file():
        write_json(path, for_others(read_json(path), longest=None))


if __name__ == "__main__":
    run_program(main)
