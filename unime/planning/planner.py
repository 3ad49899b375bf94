"""What a run will need, from its configuration alone: memory of one GPU, FLOPs of a step, hours.

Everything is counted from the layers' shapes (architecture.py, costs.py) and the assumptions
of `PlanConfig`; docs/planner.md says how near it comes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from PIL import Image
from transformers import AutoConfig, AutoProcessor

from unime.config import InputConfig, ModelConfig, Precision, Stage1PlanConfig
from unime.errors import ConfigError
from unime.inputs.items import Item
from unime.inputs.resolution import Resolution
from unime.models.adapter_files import trained_inputs
from unime.models.hub import FINAL
from unime.models.item_processor import ItemProcessor
from unime.planning.architecture import (
    Architecture,
    ItemShape,
    read_architecture,
    shape_of_sample,
    shape_with_image,
)
from unime.planning.costs import (
    Load,
    PlannedConfig,
    activation_bytes,
    adapter_parameters,
    bytes_per_value,
    memory_parts,
    reuses_features,
    step_flops,
)
from unime.planning.gpus import Gpu, gpu_named
from unime.training.chunks import ChunkLimits
from unime.training.engines import KEEPS_GRAPHS, LOCKSTEP, check_combination
from unime.training.graph_memory import GIB, RESERVE
from unime.training.schedule import total_steps

STAGE1_ROWS = 273_000  # the paper's texts (Table 6)
STAGE2_ROWS = 662_000  # the paper's pairs (Table 6)

COMPARED = ("llava", "qwen")  # families of docs/planner.md


@dataclass(frozen=True)
class Plan:
    """The answer for one GPU of `config.gpus`: `memory` in bytes, `flops` of one step, by part."""

    config: PlannedConfig
    gpu: Gpu
    parameters: int  # of the encoder, with adapters
    trained: int
    step: Load
    chunks: int  # of a step
    steps: int
    kept: int  # chunks whose graph is kept between the passes
    memory: dict[str, float]
    flops: dict[str, float]
    notes: list[str]

    @property
    def seconds_per_step(self) -> float:
        peak = self.gpu.tflops * 1e12
        return sum(self.flops.values()) / (peak * self.config.plan.utilisation)

    @property
    def hours(self) -> float:
        return self.steps * self.seconds_per_step / 3600

    @property
    def fits(self) -> bool:
        return sum(self.memory.values()) <= self.gpu.memory_gib * 2**30


def make_plan(config: PlannedConfig) -> Plan:
    """What a stage will need: memory by part, FLOPs of a step, number of steps.

    Raises:
        ConfigError: an unknown GPU, an engine that cannot do what is asked, a model whose
            configuration cannot be had, or an image whose tokens nothing counts.
    """
    check_combination(config.plan.engine.value, config)
    gpu = gpu_named(config.gpu, config.plan.gpu_tflops, config.plan.gpu_memory_gib)
    is_stage1 = isinstance(config, Stage1PlanConfig)
    architecture = read_architecture(config.model, config.lora, decoder_only=is_stage1)
    text, image, counted_by = item_shapes(config, architecture)
    step = load_of_step(config, text, image)
    chunks = chunks_of_step(config, step)
    largest = max(chunks, key=lambda chunk: chunk.rows("llm"))
    trained, frozen = adapter_parameters(config, architecture)
    steps, rows = number_of_steps(config)
    memory = memory_parts(config, architecture, largest)
    features = step.images * image.image_tokens * architecture.hidden_size
    if len(chunks) > 1 and reuses_features(config, architecture):
        memory["vision features of a step"] = features * bytes_per_value(config)
    kept, taken = kept_graphs(config, architecture, chunks, gpu, sum(memory.values()))
    memory["graphs that are kept beside it"] = taken
    return Plan(
        config=config,
        gpu=gpu,
        parameters=architecture.parameters + trained + frozen,
        trained=trained,
        step=step,
        chunks=len(chunks),
        steps=steps,
        kept=kept,
        memory=memory,
        flops=step_flops(config, architecture, step, 1 - kept / len(chunks)),
        notes=_notes(config, architecture.backbone.family, counted_by, rows),
    )


def item_shapes(
    config: PlannedConfig, architecture: Architecture
) -> tuple[ItemShape, ItemShape, str]:
    """Rows of a text item, of one with an image too, and who counted them: the family's own
    processor, of a text of ``plan.text_tokens`` and a blank image, or ``plan.image_tokens``.

    Raises:
        ConfigError: neither is there.
    """
    plan, inputs = config.plan, _inputs(config.model, config.inputs)
    processor = _processor(config, architecture, inputs) if plan.image_tokens is None else None
    if processor is None:
        return *_assumed_shapes(config, architecture), "no processor, plan.prompt_tokens"
    words = " the" * 4 * plan.text_tokens  # which the processor cuts
    image_token = processor.hf_processor.image_token_id
    text = shape_of_sample(processor(Item(words)), image_token, architecture)
    if plan.images_per_pair == 0:
        return text, text, "the model's processor"
    square = Resolution.parse(inputs.resolution or "native").size
    width, height = square or (plan.image_side, plan.image_side)
    blank = Image.new("RGB", (width, height), "white")
    sample = processor(Item(words, ("blank",)), load=lambda path: blank)
    image = shape_of_sample(sample, image_token, architecture)
    return text, image, f"the model's processor, images of {width}×{height} pixels"


def load_of_step(config: PlannedConfig, text: ItemShape, image: ItemShape) -> Load:
    """One GPU's share of a step: texts, or queries and targets (explicit negatives: none)."""
    size = config.optim.batch_size_per_device
    if isinstance(config, Stage1PlanConfig):
        return Load(size, 0, text, image)
    images = size * config.plan.images_per_pair
    return Load(2 * size - images, images, text, image)


def chunks_of_step(config: PlannedConfig, step: Load) -> list[Load]:
    """The step's items in chunks, cut as the collators cut them; queries get the images first."""
    size = config.optim.batch_size_per_device
    groups = ["text"] if isinstance(config, Stage1PlanConfig) else ["query", "target"]
    shown = iter([True] * round(step.images) + [False] * (2 * size))
    has_image = {group: [next(shown) for _ in range(size)] for group in groups}
    tokens = {True: step.image.tokens, False: step.text.tokens}
    lengths = {group: [tokens[has] for has in of] for group, of in has_image.items()}
    chunks = []
    for chunk in ChunkLimits.of(config.optim).plan(lengths):
        kinds = [has_image[group][item] for group, items in chunk.items() for item in items]
        chunks.append(replace(step, texts=kinds.count(False), images=kinds.count(True)))
    return chunks


def kept_graphs(
    config: PlannedConfig,
    architecture: Architecture,
    chunks: list[Load],
    gpu: Gpu,
    needed: float,
) -> tuple[int, float]:
    """How many chunks keep their graph between the passes (``optim.graph_memory``), and the bytes
    of these graphs that are not one chunk's.

    Args:
        needed: bytes of a step that keeps none.
    """
    if len(chunks) == 1:
        return 1, 0.0
    if config.plan.engine.value not in KEEPS_GRAPHS:
        return 0, 0.0
    sizes = [activation_bytes(config, architecture, chunk) for chunk in chunks]
    limit = config.optim.graph_memory
    if isinstance(limit, str):  # auto
        if config.plan.engine.value in LOCKSTEP:
            return 0, 0.0
        room = max(sizes) + (1 - RESERVE) * gpu.memory_gib * GIB - needed
    else:
        room = limit * GIB
    kept = sum(taken <= room for taken in accumulate(sizes))
    return kept, max(0.0, sum(sizes[:kept]) - max(sizes))


def number_of_steps(config: PlannedConfig) -> tuple[int, str]:
    """Optimizer steps, and where the number of rows comes from if it decides."""
    if config.optim.steps is not None:
        return config.optim.steps, ""
    is_stage1 = isinstance(config, Stage1PlanConfig)
    rows = config.plan.rows or (STAGE1_ROWS if is_stage1 else STAGE2_ROWS)
    per_epoch = max(1, rows // (config.gpus * config.optim.batch_size_per_device))
    source = "plan.rows" if config.plan.rows else "the paper's; plan.rows"
    return total_steps(config.optim, per_epoch), f"{rows:,} rows an epoch ({source})"


def _assumed_shapes(
    config: PlannedConfig, architecture: Architecture
) -> tuple[ItemShape, ItemShape]:
    plan = config.plan
    tokens = plan.text_tokens + plan.prompt_tokens
    if plan.images_per_pair == 0:
        return ItemShape(tokens), ItemShape(tokens)
    if plan.image_tokens is None:
        raise ConfigError(
            f"plan.image_tokens: {config.model.name} has no processor here to count an image's"
            " tokens; give their number"
        )
    shown = plan.image_tokens
    patches = plan.image_patches or shown * architecture.patches_per_row
    tiles = max(1, round(patches / (architecture.patches_per_tile or patches)))
    image = shape_with_image(tokens + shown, shown, patches, tiles, architecture)
    return ItemShape(tokens), image


def _inputs(model: ModelConfig, inputs: InputConfig) -> InputConfig:
    """The settings of the inputs with nulls filled in, as the model or its adapter was trained as
    far as they lie here."""
    adapter = None if model.adapter is None else Path(model.adapter)
    if adapter is not None and (adapter / FINAL).is_dir():
        adapter = adapter / FINAL
    return inputs.filled(trained_inputs(Path(model.name), adapter))


def _processor(
    config: PlannedConfig, architecture: Architecture, inputs: InputConfig
) -> ItemProcessor | None:
    """None where there is a configuration but no processor."""
    model, plan = config.model, config.plan
    where = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    try:
        hf_processor = AutoProcessor.from_pretrained(model.name, **where)
    except (OSError, ImportError, ValueError, KeyError):
        return None
    most = min(plan.text_tokens, inputs.max_text_tokens or plan.text_tokens)
    inputs = replace(inputs, max_text_tokens=most)
    of_model = AutoConfig.from_pretrained(model.name, **where)
    architecture.backbone.limit_tiles(inputs.max_tiles or 0, hf_processor, of_model)
    most_tokens = architecture.backbone.most_tokens(of_model)
    return ItemProcessor(hf_processor, architecture.backbone, inputs, most_tokens)


def _notes(config: PlannedConfig, family: str, counted_by: str, rows: str) -> list[str]:
    """What the numbers rest on, each with the key that changes it."""
    plan = config.plan
    notes = [
        f"plan.utilisation={plan.utilisation:g} of the GPU's dense bf16 peak",
        f"texts of plan.text_tokens={plan.text_tokens} tokens (counted by: {counted_by})",
        f"plan.engine={plan.engine.value}",
    ]
    if isinstance(config, Stage1PlanConfig):
        notes.append("stage 1 runs the decoder only: no images")
    else:
        notes.append(f"plan.images_per_pair={plan.images_per_pair:g}, no explicit negatives")
        if not family.startswith(COMPARED):
            notes.append(f"{family}: what its vision tower costs was never compared with a run")
    if rows:
        notes.append(rows)
    if config.model.adapter is not None:
        notes.append(f"model.adapter: a frozen adapter of plan.stacked_rank={plan.stacked_rank}")
    if config.model.attention == "eager":
        notes.append("model.attention=eager keeps matrices of scores, which are not counted")
    if config.model.precision is Precision.float32:
        notes.append("model.precision=float32 does not reach the bf16 peak: hours are too few")
    if config.lora.use_dora:
        notes.append("lora.use_dora: its parameters are counted, its norms and time are not")
    return notes
