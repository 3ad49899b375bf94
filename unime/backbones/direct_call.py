"""A processor of transformers called part by part, with its arguments resolved once.

Its own call merges, copies and validates all arguments for every item, which is most of what a
short text costs and half of a small picture. The parts here are its own, in its own order. What
they return is compared with its own call, bit by bit, for the first items of every kind; where it
differs, and for a processor that goes another way, its own call stays.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import ProcessorMixin

COMPARED = 2  # items of each kind
REMEMBERED = 1024  # prompts whose tokens are kept
STEPS = (  # of a processor's own call that are taken over here, so must not be another class's
    *("__call__", "_process_images", "get_text_with_replacements", "create_mm_token_type_ids"),
    *("_merge_kwargs", "_check_special_mm_tokens"),
)
PLAIN = {"return_tensors", "add_special_tokens", "padding_side"}  # without padding, no side matters
MODALITIES = ("image", "video", "audio")  # by their numbers in mm_token_type_ids, from 1
PROBES = ([(40, 40)], [(40, 40), (56, 40)])  # sizes of images, in pixels


class DirectCall:
    """A processor's own output for one prompt and its images, for less."""

    def __init__(self, hf_processor: Any) -> None:
        self.hf_processor = hf_processor
        kind = type(hf_processor)
        self.works = isinstance(hf_processor, ProcessorMixin) and all(
            getattr(kind, step, None) is getattr(ProcessorMixin, step, kind) for step in STEPS
        )
        self._compared: Counter[tuple[int, bool]] = Counter()
        self._resolved: dict[bool, dict[str, Any]] = {}  # by add_special_tokens
        self._of_pixels: dict[str, Any] | None = None
        self._tokens: dict[tuple[Any, ...], dict[str, Tensor]] = {}

    def __call__(
        self, prompt: str, images: list[Any] | None, add_special_tokens: bool
    ) -> Mapping[str, Any]:
        """What the processor returns as tensors.

        Args:
            images: as it takes them, for one text: a list, or a list of one list.

        Raises:
            Exception: whatever the processor's own call raises.
        """
        kind = (len(_flat(images or [])), add_special_tokens)
        if self.works:
            try:
                found = self._direct(prompt, images, add_special_tokens)
            except Exception:  # its own call will say what is wrong, if anything is
                return self._own(prompt, images, add_special_tokens)
            if self._compared[kind] >= COMPARED:
                return found
            self._compared[kind] += 1
        own = self._own(prompt, images, add_special_tokens)
        self.works = self.works and _equal(found, own)
        return own

    def _own(
        self, prompt: str, images: list[Any] | None, add_special_tokens: bool
    ) -> Mapping[str, Any]:
        output: Mapping[str, Any] = self.hf_processor(
            text=[prompt],
            images=images,
            return_tensors="pt",
            add_special_tokens=add_special_tokens,
        )
        return output

    def _direct(
        self, prompt: str, images: list[Any] | None, add_special_tokens: bool
    ) -> dict[str, Tensor]:
        processor = self.hf_processor
        settings = self._settings(add_special_tokens)
        pixels: Mapping[str, Any] = {}
        shown: list[str] = []
        if images is not None:
            of_images = settings["images_kwargs"]
            images, *_ = processor.prepare_inputs_layout(images=images, text=[prompt])
            pixels = self._pixels(images, of_images)
            if getattr(processor, "image_token", None) is not None:
                count = len(_flat(images))
                shown = [
                    processor.replace_image_token(pixels, image_idx=place, **of_images)
                    for place in range(count)
                ]
        key = (prompt, add_special_tokens, *shown)
        if key not in self._tokens:
            if len(self._tokens) >= REMEMBERED:
                self._tokens.clear()
            self._tokens[key] = self._tokenised(prompt, images, shown, settings)
        output = {**self._tokens[key], **pixels}
        unused = processor.unused_input_names
        return {
            name: value
            for name, value in output.items()
            if isinstance(value, Tensor) and name not in unused
        }

    def _settings(self, add_special_tokens: bool) -> dict[str, Any]:
        if add_special_tokens not in self._resolved:
            self._resolved[add_special_tokens] = self.hf_processor._merge_kwargs(
                tokenizer_init_kwargs=self.hf_processor.tokenizer.init_kwargs,
                return_tensors="pt",
                add_special_tokens=add_special_tokens,
            )
        return self._resolved[add_special_tokens]

    def _pixels(self, images: list[Any], of_images: dict[str, Any]) -> Mapping[str, Any]:
        processor = self.hf_processor.image_processor
        if self._of_pixels is None:
            self._of_pixels = resolved(processor, of_images)
        if not self._of_pixels:
            return dict(processor(images, **of_images))
        return dict(processor._preprocess_image_like_inputs(images, **self._of_pixels))

    def _tokenised(
        self, prompt: str, images: list[Any] | None, shown: list[str], settings: dict[str, Any]
    ) -> dict[str, Tensor]:
        processor = self.hf_processor
        processor.validate_inputs(images=images, text=[prompt])
        text, _ = processor.get_text_with_replacements([prompt], shown)
        asked = dict(settings["text_kwargs"])
        with_types = asked.pop("return_mm_token_type_ids", settings["return_mm_token_type_ids"])
        asked.pop("return_text_replacement_offsets", None)
        tokens = _encoded(processor.tokenizer, text[0], asked)
        if with_types:
            tokens["mm_token_type_ids"] = types = torch.zeros_like(tokens["input_ids"])
            for number, name in enumerate(MODALITIES, start=1):
                for token in getattr(processor, f"{name}_token_ids"):
                    if token is not None:
                        types[tokens["input_ids"] == token] = number
        return tokens


def _encoded(tokenizer: Any, text: str, asked: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tokens and mask, from the library below where nothing but special tokens is asked for.

    Raises:
        ValueError: a text may be cut, of which the processor's own call checks whether images are.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if asked.get("truncation"):
        raise ValueError("texts may be cut")
    if backend is None or asked.keys() - PLAIN or backend.padding or backend.truncation:
        return dict(tokenizer([text], **asked))
    encoding = backend.encode(text, add_special_tokens=asked["add_special_tokens"])
    tokens = torch.tensor([encoding.ids])
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def resolved(image_processor: Any, of_images: Mapping[str, Any]) -> dict[str, Any]:
    """What an image processor's `preprocess` makes of its settings before it looks at an image;
    nothing where that depends on the images, or is more than settings."""
    recorder = copy.copy(image_processor)
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    recorder._preprocess_image_like_inputs = lambda *args, **settings: seen.append((args, settings))
    probes = [[Image.new("RGB", size) for size in sizes] for sizes in PROBES]
    given = [*probes, *([images] for images in probes)]
    for images in given:
        recorder.preprocess(images, **of_images)
    as_given = len(seen) == len(given) and all(
        len(args) == 1 and args[0] is images and settings == seen[0][1]
        for images, (args, settings) in zip(given, seen, strict=True)
    )
    return dict(seen[0][1]) if as_given else {}


def _flat(images: Sequence[Any]) -> list[Any]:
    nested = bool(images) and isinstance(images[0], list | tuple)
    return [image for of in images for image in of] if nested else list(images)


def _equal(found: Mapping[str, Tensor], own: Mapping[str, Any]) -> bool:
    tensors = {name: value for name, value in own.items() if isinstance(value, Tensor)}
    return found.keys() == tensors.keys() and all(
        found[name].dtype == value.dtype and torch.equal(found[name], value)
        for name, value in tensors.items()
    )
