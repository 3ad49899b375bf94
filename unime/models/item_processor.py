"""Items become model inputs: each is prepared alone, and any set of them joins into one batch.

Preparing items one by one is what makes chunks, reordering and mixtures of texts and images exact:
whatever a processor emits per image stays with its item, and joining never looks inside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unime.backbones.backbone import Backbone
from unime.backbones.direct_call import DirectCall
from unime.config import InputConfig
from unime.errors import DataError
from unime.inputs.items import Item
from unime.inputs.media import ControlTokens, MediaReader, check_frames, check_not_empty
from unime.inputs.padding import SEQUENCE_KEYS, Sample, join
from unime.inputs.resolution import Resolution
from unime.models.chat_format import check_prompt
from unime.models.prompts import render

CHARACTERS = (16, 256)  # of a token: more than usual, and as many as any has
LONGEST_INSTRUCTION = 20_000  # characters
SPACE = re.compile(r"\s")
REFUSED = "refused by the processor"
BLANK_SIDE = 32  # pixels
NAMED = 3  # pictures of an item, by an error
FRAMES_PER_SECOND = 1.0  # taken for granted of a video, as Qwen3-VL-Embedding samples them


class TooLongError(DataError):
    """An item of more tokens than the model reads."""


class ItemProcessor:
    """One item to the inputs of one row, through the prompt and the family's own processor.

    Args:
        inputs: nulls stand for the defaults.
        most_tokens: that the model reads of one item; None: it names no limit.

    Raises:
        ConfigError: a prompt that the model's own chat template carries already.
    """

    def __init__(
        self,
        hf_processor: Any,
        backbone: Backbone,
        inputs: InputConfig,
        most_tokens: int | None = None,
    ) -> None:
        self.hf_processor = hf_processor
        self.backbone = backbone
        self.most_tokens = most_tokens
        self.inputs = inputs = inputs.filled()
        self.prompt, self.num_frames = str(inputs.prompt), int(inputs.num_frames or 0)
        check_prompt(self.prompt, hf_processor)
        self.resolution = of_frames = Resolution.parse(str(inputs.resolution))
        if self.resolution.pixels is not None and backbone.pixel_range is not None:
            backbone.pixel_range(hf_processor, *self.resolution.pixels)
            self.resolution = Resolution()  # its processor does it, wherever the model is loaded
        limit = inputs.max_image_pixels
        draft = bool(inputs.jpeg_draft)
        self.read_media = MediaReader(self.num_frames, limit, self.resolution, of_frames, draft)
        video_processor: Any = getattr(hf_processor, "video_processor", None)
        if getattr(video_processor, "cap_pixels_per_frame", False) is None:
            # As Qwen's own code and MMEB-V2 do, which transformers leaves to a later release.
            video_processor.cap_pixels_per_frame = True
        self.num_truncated = 0  # texts cut so far (by this process)
        self.tokenizer = hf_processor.tokenizer
        special = set(self.tokenizer.all_special_tokens)
        special |= {
            str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special
        }
        for name in ("image_token", "video_token", "audio_token"):
            special.add(getattr(hf_processor, name, None) or "")
        self._control = ControlTokens(special, backbone.placeholder)
        self.control_tokens = self._control.longest_first
        self.finds_control = self._control.search
        self._call = DirectCall(hf_processor)
        self._blank: Sample | None = None

    def __call__(self, item: Item, load: Callable[[str], Image.Image] | None = None) -> Sample:
        """Prepare one item.

        Args:
            load: gives the picture of a path; None: reads it.

        Raises:
            DataError: neither text nor image, an image that cannot be read or is too large, an item
                that the processor refuses, or of more tokens than the model reads.
        """
        check_not_empty(item)
        images, frames = self.read_media(item, load)
        if self.backbone.even_videos:  # as MMEB-V2's newer code fills up too short ones
            frames += frames[-1:] * (self.num_frames - len(frames))
        return self._prepare(item, images, frames)

    def _prepare(self, item: Item, images: list[Image.Image], frames: list[Image.Image]) -> Sample:
        if len(item.instruction) > LONGEST_INSTRUCTION:
            raise DataError(
                f"{_name(item)}: an instruction of {len(item.instruction):,} characters, expected"
                f" {LONGEST_INSTRUCTION:,} at most",
                "too long",
            )
        text, is_cut = self.shown(item.text)
        self.num_truncated += is_cut
        item = replace(item, text=text, instruction=self.neutralise(item.instruction))
        if frames and not self.backbone.video:
            images, frames = images + frames, []  # this family knows a video as its frames
        check_frames(item, frames)
        media = ["image"] * len(images) + ["video"] * bool(frames)
        prompt = render(item, self.hf_processor, self.backbone, self.prompt, media)
        try:
            output = self._inputs(prompt, images, frames)
        except Exception as error:  # the family's own code, or the checkpoint's
            raise DataError(f"{_name(item)}: the processor refuses it: {error}", REFUSED) from error
        self._check(output)
        sample = {
            key: value[0] if key in SEQUENCE_KEYS else value
            for key, value in output.items()
            if isinstance(value, Tensor) and key != "labels"
        }
        self._check_length(item, len(sample["input_ids"]))
        return sample

    def _check_length(self, item: Item, tokens: int) -> None:
        if self.most_tokens is None or tokens <= self.most_tokens:
            return
        keys = ["num_frames"] if item.video else []
        keys += ["max_tiles"] if self.backbone.tiles and (item.images or item.video) else []
        keys += ["resolution"] if item.images or item.video else []
        keys += ["max_text_tokens"] if item.text else []
        lower = ", ".join(f"inputs.{key}" for key in keys)
        plain = (
            f"{_name(item)}: {tokens} tokens, more than the {self.most_tokens} of the model's"
            f" {self.backbone.limit_name}"
        )
        raise TooLongError(f"{plain}; to lower: {lower}", "too long", plain=plain)

    def _inputs(
        self, prompt: str, images: list[Image.Image], frames: list[Image.Image]
    ) -> Mapping[str, Tensor]:
        if self.backbone.call_processor is not None:
            return self.backbone.call_processor(self.hf_processor, prompt, images or None)
        if not images and not frames and self.backbone.text_inputs is not None:
            return self.backbone.text_inputs(self.hf_processor, prompt)
        bos = self.tokenizer.bos_token
        begins = not (bos and prompt.startswith(bos))
        shown = ([images] if self.backbone.nested_images else images) if images else None
        if not frames:
            return self._call(prompt, shown, begins)
        return self.hf_processor(
            text=[prompt],
            images=shown,
            return_tensors="pt",
            add_special_tokens=begins,
            **_video_inputs(frames),
        )

    def _check(self, output: Mapping[str, Tensor]) -> None:
        """Refuse inputs without which the model would embed something else."""
        for key in self.backbone.required_keys:
            if key not in output:
                raise ValueError(f"the processor of {self.backbone.family} returned no {key}")
            if key != "mm_token_type_ids":
                continue
            for number, kind in enumerate(("image", "video"), start=1):
                token = getattr(self.hf_processor, f"{kind}_token_id")
                if not torch.equal(output[key] == number, output["input_ids"] == token):
                    raise ValueError(f"{self.backbone.family}: {key} miss {kind} tokens")

    def neutralise(self, text: str) -> str:
        """A text that the tokenizer reads as text alone."""
        return self._control.neutralise(text)

    def shown(self, text: str) -> tuple[str, bool]:
        """An item's own text as the model reads it, its first ``max_text_tokens`` tokens (prompt
        and images stay), and whether it was cut. Of a text of megabytes only what may be read is
        tokenised."""
        limit = int(self.inputs.max_text_tokens or 0)
        for each in (*CHARACTERS, len(text) + 1):  # of a token
            head = self.neutralise(text[: each * (limit + 1)])
            is_whole = len(text) <= each * (limit + 1)
            if is_whole and len(head.encode()) <= limit:  # no tokenizer makes more than bytes
                return head, False
            tokens = self.tokenizer(
                head, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
            offsets = tokens["offset_mapping"]
            if len(offsets) <= limit:
                if is_whole:
                    return head, False
                continue  # white space perhaps, of which tokenizers may make nothing
            end = offsets[limit][0]
            # a word that goes on where the head ends may be of other tokens
            if is_whole or each == CHARACTERS[-1] or SPACE.search(head, end + 1):
                break
        return head[:end], True

    def collate(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Join samples into one batch: sequences padded on the left, the rest along dimension 0.

        Raises:
            ValueError: no sample, sequences that some samples lack, or samples that must not share
                a forward (see `parts`).
        """
        if not samples:
            raise ValueError("no sample to collate")
        if len(self._grouped(samples)) > 1:
            raise ValueError(f"these rows of {self.backbone.family} must not share a forward")
        if self.backbone.complete is not None:
            samples = self.backbone.complete(samples)
        batch: dict[str, Tensor] = {}
        for key in {key: None for sample in samples for key in sample}:
            values = [sample[key] for sample in samples if key in sample]
            if key not in SEQUENCE_KEYS:
                batch[key] = join(values)
            elif len(values) == len(samples):
                padding = self._padding(key)
                batch[key] = pad_sequence(values, True, padding, "left")  # (B, L)
            else:
                raise ValueError(f"{len(samples) - len(values)} samples lack {key!r}")
        return batch

    def parts(self, samples: Sequence[Sample]) -> list[tuple[list[int], dict[str, Tensor]]]:
        """Join samples into as few batches as the model can embed them in, which is one in most
        families: which samples, by their place, and their batch."""
        return [
            (places, self.collate([samples[place] for place in places]))
            for places in self._grouped(samples)
        ]

    def _grouped(self, samples: Sequence[Sample]) -> list[list[int]]:
        group = self.backbone.group or (lambda sample: None)
        groups: dict[Hashable, list[int]] = {}
        for place, sample in enumerate(samples):
            groups.setdefault(group(sample), []).append(place)
        return list(groups.values())

    def with_blank_image(self, texts: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """A batch of texts (B, L) with one more row, a blank image: what a rank embeds whose vision
        tower has to run because another rank's does (grad_cache.py); in two parts where an image
        and a text must not share a forward."""
        mask = texts["attention_mask"].bool()
        samples = [
            {key: value[row, mask[row]] for key, value in texts.items()} for row in range(len(mask))
        ]
        if self._blank is None:
            image = self.resolution.apply(Image.new("RGB", (BLANK_SIDE, BLANK_SIDE)))
            self._blank = self._prepare(Item(images=("blank",)), [image], [])
        samples.append({key: value.to(mask.device) for key, value in self._blank.items()})
        return [batch for _, batch in self.parts(samples)]

    def _padding(self, key: str) -> int:
        if key != "input_ids":
            return 0
        pad, eos = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        return next((token for token in (pad, eos) if token is not None), 0)


def video_times(count: int) -> dict[str, Any]:
    """When the frames of a video are, of which all are shown; some families tell the model."""
    times: dict[str, Any] = {"fps": FRAMES_PER_SECOND, "duration": count / FRAMES_PER_SECOND}
    return times | {"total_num_frames": count, "frames_indices": list(range(count))}


def _video_inputs(frames: list[Image.Image]) -> dict[str, Any]:
    """A video whose frames are chosen already."""
    times = video_times(len(frames))
    return {"videos": [frames], "do_sample_frames": False, "video_metadata": [times]}


def _name(item: Item) -> str:
    pictures = item.images + item.video[:1]
    more = f" and {len(pictures) - NAMED} more" if len(pictures) > NAMED else ""
    return ", ".join(pictures[:NAMED]) + more or f"text {item.text[:60]!r}"
