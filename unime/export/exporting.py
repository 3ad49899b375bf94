"""A trained encoder written in another form, loaded again there, and compared."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from unime.config import ExportConfig, InputConfig, ModelConfig, Precision, Quantization
from unime.errors import require_package
from unime.export.merged import save_combined_adapter, save_merged
from unime.export.model_card import ADAPTER, Exported, lines_in_peft
from unime.export.verification import (
    Difference,
    SentenceTransformersModel,
    check_equal,
    difference,
    embed_kinds,
    embedded_otherwise,
    odd_items,
    probe_items,
)
from unime.inputs.items import Item
from unime.inputs.resolution import Resolution
from unime.models.encoder import Encoder
from unime.models.hub import locate
from unime.models.sentence_layout import MODULES


def export_adapter(model: ModelConfig, folder: Path, config: ExportConfig) -> Exported:
    """Write all adapters as one, and load it again.

    Raises:
        RunError: it does not embed as they do.
    """
    with tempfile.TemporaryDirectory() as pictures:
        encoder = Encoder.load(model, InputConfig())
        items = probe_items(Path(pictures))
        items |= odd_items(Path(pictures), encoder.processor.resolution)
        trained = embed_kinds(encoder, items)
        save_combined_adapter(encoder.adapters, encoder.processor, folder)
        again = Encoder.load(replace(model, adapter=str(folder)), InputConfig())
        found = difference(embed_kinds(again, items), trained)
        line = check_equal("one adapter against all, loaded again", found, model.precision)
    print(line, flush=True)
    return Exported(
        encoder.hidden_size,
        encoder.processor.inputs.decisive(),
        {"all": ADAPTER},
        [line],
        model=model,
        resizes=encoder.processor.resolution != Resolution(),
        peft=lines_in_peft(model, encoder),
    )


def export_merged(model: ModelConfig, folder: Path, config: ExportConfig) -> Exported:
    """Write the merged model, and load it again.

    Raises:
        ConfigError: sentence-transformers, which loads it, is not installed.
        RunError: it does not embed as the merged one does.
    """
    require_package("sentence_transformers", "export", "export")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    figures: list[str] = []

    def note(line: str) -> None:
        figures.append(line)
        print(line, flush=True)

    with tempfile.TemporaryDirectory() as pictures:
        items = probe_items(Path(pictures))
        encoder = Encoder.load(model, InputConfig(), device=device)
        own = Resolution() if config.code else encoder.processor.resolution
        odd = odd_items(Path(pictures), own)
        trained = embed_kinds(encoder, items)
        if model.quantization is not Quantization.none:
            del encoder
            gc.collect()
            encoder = Encoder.load(model, InputConfig(), device=device, dequantised=True)
        encoder.adapters.merge()
        inputs = encoder.processor.inputs.decisive()
        merged = embed_kinds(encoder, items)
        before = {"none": "", "nf4": "de-quantised and "}.get(model.quantization.value, "rounded, ")
        found = difference(merged, trained)
        note(f"{before}merged against as trained: {found}")
        if model.quantization is not Quantization.int8:  # which computes in 8 bits itself
            check_equal("merged against as trained", found, model.precision)
        source = locate(model).base.folder
        save_merged(encoder, folder, config.max_shard_size, source, config.code)
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
        otherwise = compare(folder, encoder, again.precision, config.code, merged, items, odd, note)
    return Exported(
        encoder.hidden_size,
        inputs,
        dict(encoder.backbone.st_limits),
        figures,
        otherwise=otherwise,
        code=config.code and (folder / MODULES).is_file(),
        model=again,
        resizes=encoder.processor.resolution != Resolution(),
    )


def compare(
    folder: Path,
    encoder: Encoder,
    precision: Precision,
    code: bool,
    merged: dict[str, Tensor],
    items: dict[str, list[Item]],
    odd: dict[str, list[Item]],
    note: Callable[[str], None],
) -> list[str]:
    """Load an export in sentence-transformers, and compare.

    Args:
        code: it carries code that reads pictures as training did.
        merged: the right vectors of `items`.
        odd: of pictures that programs read differently.

    Returns:
        Which pictures it embeds otherwise than the run does, by its having no code.

    Raises:
        RunError: others too.
    """
    otherwise: list[str] = []
    limits = dict(encoder.backbone.st_limits)
    if "all" not in limits:
        model = SentenceTransformersModel(folder, encoder, code)
        theirs = model.vectors(items)
        for kind, vectors in theirs.items():
            ours = torch.cat([merged[k] for k in theirs if k in merged and kind in (k, "mixed")])
            found = Difference.between(vectors, ours)
            note(check_equal(f"sentence-transformers, {kind}", found, precision))
        right = embed_kinds(encoder, odd)
        given = model.odd_vectors(odd)
        otherwise = embedded_otherwise(right, given, precision)
        if code:
            for way, vectors in given.items():
                found = Difference.between(vectors, torch.cat(list(right.values())))
                what = f"sentence-transformers, odd pictures, each {way}"
                note(check_equal(what, found, precision))
        elif encoder.processor.resolution != Resolution():
            otherwise = [f"pictures that are not {encoder.processor.inputs.resolution}", *otherwise]
        if not code and encoder.processor.inputs.jpeg_draft:
            otherwise.append("JPEGs of more than twice the resolution (inputs.jpeg_draft)")
        for kind in otherwise:
            note(f"sentence-transformers embeds otherwise than the run: {kind}")
    for kind, why in limits.items():
        note(f"sentence-transformers, {kind}: not supported: {why}")
    return otherwise
