"""What a vision tower and its projector make of the media of items, apart from the decoder, through
transformers' own argument for it: a forward that takes ``mm_encoder_outputs`` instead of pixels.

A unit of media is what one item shows: all of its images, and its video. Its `Features` are what
``get_image_features`` and ``get_video_features`` return of it, flat, so that they can be stored and
moved; those of any rows make up the argument again.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from unime.inputs.padding import SEQUENCE_KEYS, Sample, join
from unime.models.features.fingerprint import media_key

Features = dict[str, Tensor]  # of one unit: its tokens (T, D), or (entries, tokens, D), by place

ARGUMENT = "mm_encoder_outputs"
PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}


def split_media(sample: Sample) -> tuple[Sample, Sample | None]:
    """A sample without its pixels, and its media: what the model's parts that see need of it; None:
    it shows nothing."""
    if not any("pixel_values" in key for key in sample):
        return sample, None
    rest = {key: value for key, value in sample.items() if not key.startswith("pixel")}
    return rest, {key: value for key, value in sample.items() if key not in SEQUENCE_KEYS}


@dataclass
class Media:
    """What the items of a batch show, each distinct unit once, with its key (`media_key`)."""

    units: list[Sample] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)


def set_apart(samples: Sequence[Sample]) -> tuple[list[Sample], Media]:
    """Samples whose pixels are set apart: in their place "media" is the number of a unit, which
    `with_features` resolves in any batch that they join into."""
    rests, media, numbers = [], Media(), dict[bytes, int]()
    for sample in samples:
        rest, unit = split_media(sample)
        if unit is not None:
            key = media_key(unit)
            number = numbers.setdefault(key, len(numbers))
            rest["media"] = torch.tensor([number])
            if number == len(media.units):
                media.units.append(unit)
                media.keys.append(key)
        rests.append(rest)
    return rests, media


def with_features(
    part: dict[str, Any], features: Sequence[Features] | Mapping[int, Features]
) -> dict[str, Any]:
    """A batch of `set_apart` samples as the encoder takes it.

    Args:
        features: of the units, by their numbers.
    """
    if "media" not in part:
        return part
    rest = {key: value for key, value in part.items() if key != "media"}
    return {**rest, "features": [features[number] for number in part["media"].tolist()]}


def takes_features(model: nn.Module) -> bool:
    """Whether a model's forward takes what its vision tower returned instead of pixels."""
    return ARGUMENT in inspect.signature(model.forward).parameters


def draws_dropout(module: nn.Module) -> bool:
    """Whether a module would draw random numbers in training, itself or through a rate it keeps."""
    rates = [value for name, value in vars(module).items() if "drop" in name]
    if isinstance(module, nn.modules.dropout._DropoutNd):
        rates.append(module.p)
    return any(isinstance(rate, (int, float)) and rate > 0 for rate in rates)


def compute(model: Any, media: Sequence[Sample]) -> list[Features]:
    """The features of units of media, in one call of the tower for all images and one for videos.

    Args:
        model: which takes features.
        media: as `split_media` gives them, on the model's device, pixels in its precision.

    Raises:
        ValueError: an output that is of neither images nor rows of pixels.
    """
    found: list[Features] = [{} for _ in media]
    for kind, pixels in PIXELS.items():
        places = [place for place, unit in enumerate(media) if pixels in unit]
        if not places:
            continue
        call = getattr(model, f"get_{kind}_features")
        units = [media[place] for place in places]
        taken = [key for key in inspect.signature(call).parameters if key in units[0]]
        inputs = {key: join([unit[key] for unit in units]) for key in taken}
        output = call(**inputs, return_dict=True)
        layers = getattr(output, "deepstack_features", None) or []
        values = {kind: output.pooler_output}
        values |= {f"{kind}.deepstack.{depth}": layer for depth, layer in enumerate(layers)}
        for name, value in values.items():
            counts = _counts([[len(unit[key]) for key in taken] for unit in units], len(value))
            for place, share in zip(places, _split(value, counts), strict=True):
                found[place][name] = share
    return found


def _counts(sizes: Sequence[Sequence[int]], entries: int) -> list[int]:
    """How many entries of an output each unit has: as many as it has images, videos, or rows of
    pixels, whichever are as many in all."""
    for counts in zip(*sizes, strict=True):
        if sum(counts) == entries:
            return list(counts)
    raise ValueError(f"{entries} features of {len(sizes)} items: of neither images nor pixels")


def _split(value: Tensor | Sequence[Tensor], counts: list[int]) -> list[Tensor]:
    """Of each unit, in memory of its own: a tensor is cut; the matrices of a list are joined, as
    every forward would."""
    if isinstance(value, Tensor):
        return [part.clone() for part in value.split(counts)]
    starts = [sum(counts[:place]) for place in range(len(counts))]
    return [torch.cat(list(value[a : a + n])) for a, n in zip(starts, counts, strict=True)]


def as_argument(features: Sequence[Features]) -> dict[str, SimpleNamespace]:
    """``mm_encoder_outputs`` of the rows that show media, in their order."""
    outputs = {}
    for kind in PIXELS:
        units = [unit for unit in features if kind in unit]
        if not units:
            continue
        depths = range(sum(name.startswith(f"{kind}.deepstack.") for name in units[0]))
        outputs[kind] = SimpleNamespace(
            pooler_output=_joined(units, kind),
            deepstack_features=[_joined(units, f"{kind}.deepstack.{depth}") for depth in depths],
        )
    return outputs


def _joined(units: Sequence[Features], name: str) -> Any:
    """In the container that the model's own call returns: a list of matrices, or one tensor."""
    values = [unit[name] for unit in units]
    return values if values[0].dim() == 2 else torch.cat(values)
