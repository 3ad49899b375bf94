"""See tests/support/tiny/phi3_v_checkpoint.py."""

import re

import numpy as np
import torch
import transformers
from transformers import AutoImageProcessor
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ProcessorMixin


class Phi3VImageProcessor(BaseImageProcessor):
    model_input_names = ("pixel_values",)

    def __init__(self, num_crops=1, **kwargs):
        super().__init__(**kwargs)
        self.num_crops = num_crops

    def preprocess(self, images, return_tensors=None):
        pixels, sizes = [], []
        for image in images:
            ratio, columns = image.width / image.height, 1
            while (columns + 1) * np.ceil((columns + 1) / ratio) <= self.num_crops:
                columns += 1
            rows = min(int(np.ceil(columns / ratio)), self.num_crops)
            large = np.asarray(image.resize((336 * columns, 336 * rows)), dtype=np.float32) / 255
            crops = torch.tensor(large).reshape(rows, 336, columns, 336, 3).permute(0, 2, 4, 1, 3)
            small = torch.tensor(np.asarray(image.resize((336, 336)), dtype=np.float32) / 255)
            tiles = torch.cat([small.permute(2, 0, 1)[None], crops.reshape(-1, 3, 336, 336)])
            empty = torch.zeros(1 + self.num_crops - len(tiles), 3, 336, 336)
            pixels.append(torch.cat([tiles, empty]))
            sizes.append([336 * rows, 336 * columns])
        tokens = [4 * (1 + h // 336 * (w // 336)) for h, w in sizes]
        data = {"pixel_values": torch.stack(pixels), "image_sizes": sizes, "num_img_tokens": tokens}
        return BatchFeature(data=data, tensor_type=return_tensors)


AutoImageProcessor.register("Phi3VImageProcessor", Phi3VImageProcessor)
transformers.Phi3VImageProcessor = Phi3VImageProcessor


class Phi3VProcessor(ProcessorMixin):
    attributes = ("image_processor", "tokenizer")
    image_processor_class = "Phi3VImageProcessor"
    tokenizer_class = ("LlamaTokenizer", "LlamaTokenizerFast")

    def __init__(self, image_processor, tokenizer):
        self.image_processor, self.tokenizer = image_processor, tokenizer
        self.num_img_tokens = image_processor.num_img_tokens

    def __call__(
        self,
        text,
        images=None,
        padding=False,
        truncation=None,
        max_length=None,
        return_tensors="pt",
    ):
        if images is None:
            return BatchFeature(data={**self.tokenizer(text, return_tensors=return_tensors)})
        seen = self.image_processor(images, return_tensors=return_tensors)
        pieces = [self.tokenizer(piece).input_ids for piece in re.split(r"<\|image_\d+\|>", text)]
        numbers = [int(number) for number in re.findall(r"<\|image_(\d+)\|>", text)]
        assert sorted(set(numbers)) == list(range(1, len(images) + 1))
        ids = list(pieces[0])
        for number, piece in zip(numbers, pieces[1:], strict=True):
            ids += [-number] * int(seen["num_img_tokens"][number - 1]) + piece
        ids = torch.tensor([ids])
        return BatchFeature(
            data={
                "input_ids": ids,
                "attention_mask": torch.ones_like(ids),
                "pixel_values": seen["pixel_values"],
                "image_sizes": seen["image_sizes"],
            }
        )
