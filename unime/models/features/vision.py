"""An encoder's parts that see: what they make of pictures, computed once or taken from the disk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import send_to_device
from torch import nn
from transformers import PreTrainedModel

from unime.backbones.backbone import Backbone
from unime.backbones.families import BACKBONES
from unime.config import InputConfig
from unime.inputs.padding import Sample
from unime.models.features import frozen
from unime.models.features.fingerprint import tower_fingerprint
from unime.models.features.store import FeatureStore

log = logging.getLogger("unime")

SEEING = {"vision", "projector"}


class Vision:
    """Vision tower and projector of a model, apart from its decoder.

    Args:
        model: that takes pixels, on its device; None: the decoder alone is used.

    Attributes:
        store: of what they made before (``inputs.feature_store``).
    """

    def __init__(
        self, model: nn.Module | None, base: PreTrainedModel, backbone: Backbone, dtype: torch.dtype
    ) -> None:
        self.model, self.base, self.backbone, self.dtype = model, base, backbone, dtype
        self.store: FeatureStore | None = None

    @property
    def takes_features(self) -> bool:
        """Whether the model's forward takes features in place of pixels: a known family's own
        does."""
        known = BACKBONES.get(self.backbone.family) is self.backbone
        return known and self.model is not None and frozen.takes_features(self.model)

    @property
    def reuses_features(self) -> bool:
        """Whether features that were computed once are those of every pass, in training too: they
        train nothing, and draw no dropout."""
        return (
            self.takes_features
            and not SEEING & set(self.backbone.trained_parts(self.base))
            and not any(
                frozen.draws_dropout(module)
                for name, module in self.base.named_modules()
                if self.backbone.part_of(name) in SEEING
            )
        )

    def open_store(self, inputs: InputConfig, sharded: bool) -> None:
        """Keep features on the disk, where they stay as they are; else a warning says why not."""
        trains = bool(self.backbone.trained_parts(self.base))
        problem = (
            f"{self.backbone.family} takes no features in place of pixels"
            if not self.takes_features
            else "vision tower or projector train, or draw dropout"
            if trains and not self.reuses_features
            else "the engine splits the weights of the vision tower over processes"
            if sharded
            else ""
        )
        if problem:
            log.warning("inputs.feature_store: not used: %s", problem)
            return
        fingerprint = tower_fingerprint(self.base, self.backbone)
        most = int(inputs.feature_store_gib * 2**30)
        self.store = FeatureStore(Path(str(inputs.feature_store)), fingerprint, most)

    def precise(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """In the model's precision, pixels alone: rounded seconds would be other positions."""
        return {
            key: value.to(self.dtype) if "pixel_values" in key else value
            for key, value in inputs.items()
        }

    @torch.no_grad()
    def compute(self, media: Sequence[Sample]) -> list[frozen.Features]:
        """What they make of units of media (`frozen.split_media`).

        Raises:
            ValueError: an output that cannot be split by unit.
        """
        units = [self.precise(send_to_device(unit, self._device)) for unit in media]
        return frozen.compute(self.model, units)

    def features(self, media: frozen.Media) -> list[frozen.Features]:
        """Of each unit, on the model's device: out of the store, if there is one, else computed and
        put there; each alone then, so that it is the same to the last bit whoever needs it first,
        beside whatever else."""
        if self.store is None:
            return self.compute(media.units)
        found = dict(zip(media.keys, self.store.get(media.keys), strict=True))
        missing = [n for n, key in enumerate(media.keys) if found[key] is None]
        if missing:
            keys = [media.keys[n] for n in missing]
            computed = [one for n in missing for one in self.compute([media.units[n]])]
            self.store.put(keys, computed)
            found |= dict(zip(keys, computed, strict=True))
        return [cast(frozen.Features, send_to_device(found[k], self._device)) for k in media.keys]

    @property
    def _device(self) -> torch.device:
        return next(cast(nn.Module, self.model).parameters()).device
