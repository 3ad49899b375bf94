"""What a frozen vision tower makes of a step's pictures: computed when a chunk first shows them,
and kept for every pass."""

from __future__ import annotations

from typing import Any

import torch

from unime.models.encoder import Encoder
from unime.models.features.frozen import Features, Media, with_features
from unime.training.chunks import Batch

SHARE_OF_GPU = 0.1  # of its memory, which features may take; those beyond it wait on the host


class FeaturesOfStep:
    """Features of the batch's media, each unit once however many items show it.

    Args:
        last: the batch takes no other step, so that its pixels go as they are seen.
    """

    def __init__(
        self, encoder: Encoder, batch: Batch, device: torch.device, last: bool = False
    ) -> None:
        self.encoder, self.batch, self.device, self.last = encoder, batch, device, last
        self._known: dict[int, Features] = {}
        self._room = 0.0
        if device.type == "cuda":
            self._room = SHARE_OF_GPU * torch.cuda.get_device_properties(device).total_memory

    def beside(self, chunk: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The parts of a chunk with the features that their rows name."""
        named = [n for part in chunk if "media" in part for n in part["media"].tolist()]
        missing = [n for n in dict.fromkeys(named) if n not in self._known]
        if missing:
            whole = self.batch.media
            media = Media([whole.units[n] for n in missing], [whole.keys[n] for n in missing])
            for n, features in zip(missing, self.encoder.vision.features(media), strict=True):
                self._known[n] = self._kept(features)
                if self.last:
                    whole.units[n] = {}
        return [with_features(part, self._known) for part in chunk]

    def _kept(self, features: Features) -> Features:
        if self.device.type != "cuda":
            return features
        self._room -= sum(value.nbytes for value in features.values())
        if self._room >= 0:
            return features
        return {name: value.to("cpu").pin_memory() for name, value in features.items()}
