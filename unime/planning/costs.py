"""FLOPs of a step and bytes of a chunk, by formulas over the layers' shapes.

FLOPs count a multiplication and an addition as two, matrix products only, and attention in full:
chunks are padded, so attention gets a mask and no kernel skips what is above the diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass

from unime.config import (
    Engine,
    Optimizer,
    Precision,
    Quantization,
    Stage1PlanConfig,
    Stage2PlanConfig,
)
from unime.planning.architecture import PARTS_IN_ORDER, Architecture, Block, ItemShape, Linear
from unime.training.engines import SHARDS_WEIGHTS

PlannedConfig = Stage1PlanConfig | Stage2PlanConfig
DROPOUT_MASK = 1  # bytes an element on a GPU
FLASH_BACKWARD = 2.5  # of attention's forward: five products for two, as scores are made again
EAGER_BACKWARD = 2.0


@dataclass(frozen=True)
class Load:
    """What one GPU encodes, in a step or in a chunk."""

    texts: float
    images: float  # items with an image
    text: ItemShape
    image: ItemShape

    def rows(self, part: str) -> float:
        return self.texts * self.text.rows(part) + self.images * self.image.rows(part)

    def attended(self, part: str) -> float:
        """Pairs of rows that attend to each other: each sequence's length squared, added up.
        Windows are not counted as such (Qwen2.5-VL's tower), which is a little too much."""
        if part == "vision":
            return self.images * self.image.patches**2 / max(1, self.image.tiles)
        return self.texts * self.text.tokens**2 + self.images * self.image.tokens**2


def adapter_parameters(config: PlannedConfig, architecture: Architecture) -> tuple[int, int]:
    """Of the trained adapter, and of the frozen one below it that ``model.adapter`` names."""
    trained = frozen = 0
    for linear in architecture.linears:
        sides = linear.inputs + linear.outputs
        if linear.adapted:
            trained += config.lora.rank * sides + config.lora.use_dora * linear.outputs
        frozen += _stacked_rank(config, linear) * sides
    return trained, frozen


def step_flops(
    config: PlannedConfig, architecture: Architecture, step: Load, again: float = 0.0
) -> dict[str, float]:
    """One step on one GPU: every item is embedded, a share of them `again` (gradient caching), of
    a frozen vision tower that is seen once (`reuses_features`) the language model's part alone; the
    blocks once more where they are checkpointed. Backward, a frozen weight costs one more product
    (the gradient of its input), in the parts that a gradient reaches; an adapter's weights cost
    two."""
    forward = second = backward = recomputed = 0.0
    reached = reached_parts(config)
    once = ("vision", "projector") if reuses_features(config, architecture) else ()
    for part in PARTS_IN_ORDER:
        linears = [linear for linear in architecture.linears if linear.part == part]
        blocks = [block for block in architecture.blocks if block.part == part]
        here, back = _products(config, linears, blocks, step, part)
        forward += here
        second += 0.0 if part in once else again * here
        if part in reached:
            backward += back
            inside = [linear for block in blocks for linear in block.linears]
            recomputed += _products(config, inside, blocks, step, part)[0]
    return {
        "embedding every item": forward,
        "embedding again what kept no graph": second,
        "recomputed (checkpointing)": recomputed if config.optim.gradient_checkpointing else 0.0,
        "backward": backward,
    }


def reuses_features(config: PlannedConfig, architecture: Architecture) -> bool:
    """Whether the vision tower sees a picture once a step."""
    trains = {"vision", "projector"} & set(config.lora.train)
    whole = config.plan.engine.value not in SHARDS_WEIGHTS
    return architecture.takes_features and whole and not trains


def reached_parts(config: PlannedConfig) -> list[str]:
    """The parts that gradients pass: the trained one nearest to the image, and all above it."""
    first = min(PARTS_IN_ORDER.index(part) for part in config.lora.train)
    return list(PARTS_IN_ORDER[first:])


def memory_parts(
    config: PlannedConfig, architecture: Architecture, chunk: Load
) -> dict[str, float]:
    """Bytes on one GPU, of which all are there at once in the largest chunk's backward pass."""
    trained, frozen = adapter_parameters(config, architecture)
    engine, gpus = config.plan.engine, config.gpus
    weights_on = gpus if engine in (Engine.zero3, Engine.fsdp2) else 1
    moments_on = gpus if engine is not Engine.ddp else 1
    gradients_on = gpus if engine not in (Engine.ddp, Engine.zero1) else 1
    gradients = 2 if engine is Engine.ddp and gpus > 1 else 1  # DDP's buckets are copies of them
    bits = 32 if config.optim.optimizer is Optimizer.adamw else 8
    kind = config.model.quantization
    name = "" if kind is Quantization.none else f", {kind.value}"
    return {
        f"weights of the language model{name or ' quantised: none'}": architecture.quantised_bytes
        / weights_on,
        f"other weights, {config.model.precision.value}": architecture.other_bytes / weights_on,
        "adapters, float32": 4 * (trained + frozen) / weights_on,
        "gradients, float32": 4 * gradients * trained / gradients_on,
        f"optimizer, two {bits}-bit moments": 2 * bits // 8 * trained / moments_on,
        "activations of one chunk": activation_bytes(config, architecture, chunk),
        "workspace of one layer": workspace_bytes(config, architecture, chunk),
        "gathered embeddings": gathered_bytes(config, architecture),
        "CUDA and the rest": config.plan.overhead_gib * 2**30,
    }


def activation_bytes(config: PlannedConfig, architecture: Architecture, chunk: Load) -> float:
    """What autograd keeps of one chunk: all of every block, or with gradient checkpointing each
    block's input and all of the largest block; nothing in parts that no gradient reaches."""
    reached = reached_parts(config)
    blocks = [block for block in architecture.blocks if block.part in reached]
    whole = [chunk.rows(block.part) * block_bytes(config, block) for block in blocks]
    if not config.optim.gradient_checkpointing:
        return sum(whole)
    width = bytes_per_value(config)
    return sum(chunk.rows(block.part) * block.width * width for block in blocks) + max(whole)


def block_bytes(config: PlannedConfig, block: Block) -> float:
    """Kept of one row of a block: the input of every normalisation; query, key, value and output of
    attention (heads repeated, scores not kept: sdpa or flash); the feed-forward network's products;
    an fp32 copy of the input of every adapted layer, its dropout's mask and the adapter's middle.
    """
    width, lora = bytes_per_value(config), config.lora
    adapted = [linear for linear in block.linears if linear.adapted]
    copies = sum(linear.inputs for linear in adapted)
    if width == 4 and lora.dropout == 0 and adapted:  # no copies: siblings share one input
        copies = 2 * block.width + block.inner
    mask = DROPOUT_MASK if lora.dropout > 0 else 0
    return (
        block.norms * (4 if block.exact_norms else width)
        + 4 * block.attention * width
        + block.mlp_tensors * block.inner * width
        + copies * (4 + mask)
        + 4 * lora.rank * len(adapted)
    )


def workspace_bytes(config: PlannedConfig, architecture: Architecture, chunk: Load) -> float:
    """Of one layer while it works: its weight decoded from 4 bits, and the widest tensor as base
    output, adapter output (fp32) and sum, or as their gradients."""
    width = bytes_per_value(config)
    is_decoded = config.model.quantization is not Quantization.none
    weights = [linear.weights for linear in architecture.linears if linear.part == "llm"]
    widest = max(chunk.rows(block.part) * block.inner for block in architecture.blocks)
    return is_decoded * width * max(weights) + widest * (4 + 2 * width)


def gathered_bytes(config: PlannedConfig, architecture: Architecture) -> float:
    """On every GPU: embeddings of the global batch and their gradients, at each size that the loss
    is taken at, and about four matrices of its similarities (scores, mask, logits, their gradient)
    or of a block of them, all fp32.

    Raises:
        ConfigError: a size in ``loss.matryoshka_dimensions`` that the embeddings do not have.
    """
    sizes = config.loss.shares(architecture.hidden_size)
    pairs = config.gpus * config.optim.batch_size_per_device
    items = pairs * (1 if isinstance(config, Stage1PlanConfig) else 2)
    similarities = min(4 * 4 * pairs**2 * len(sizes), config.loss.block_memory * 2**30)
    return 2 * 4 * items * sum(sizes) + similarities


def bytes_per_value(config: PlannedConfig) -> int:
    return 4 if config.model.precision is Precision.float32 else 2


def _products(
    config: PlannedConfig, linears: list[Linear], blocks: list[Block], load: Load, part: str
) -> tuple[float, float]:
    """FLOPs forward, and backward if a gradient reaches the part."""
    forward = backward = 0.0
    for linear in linears:
        product = 2 * linear.weights * load.rows(part)
        side = 2 * (linear.inputs + linear.outputs) * load.rows(part)
        trained = side * config.lora.rank if linear.adapted else 0.0
        frozen = side * _stacked_rank(config, linear)
        forward += product + trained + frozen
        backward += (0.0 if linear.is_patch else product) + 2 * trained + frozen
    attention = sum(4 * block.attention * load.attended(part) for block in blocks)
    again = EAGER_BACKWARD if config.model.attention == "eager" else FLASH_BACKWARD
    return forward + attention, backward + again * attention


def _stacked_rank(config: PlannedConfig, linear: Linear) -> int:
    is_below = config.model.adapter is not None and linear.part == "llm"
    return config.plan.stacked_rank if is_below else 0
