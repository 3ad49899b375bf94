"""The lines of Python on a model card; they run as they stand beside a picture, bird.jpg.

`{folder}` is where the model lies, which the card says (model_card.py); other braces are doubled.
"""

from __future__ import annotations

from typing import Any

from unime.config import ModelConfig, Quantization
from unime.inputs.items import Item
from unime.inputs.resolution import Resolution
from unime.models.encoder import Encoder
from unime.models.prompts import render

QUESTION = "Which bird is it?"
SENTENCE_TRANSFORMERS = """\
```python
from PIL import Image
from sentence_transformers import SentenceTransformer  # 6 or newer

model = SentenceTransformer("{folder}"TRUST)
picture = Image.open("bird.jpg")
vectors = model.encode(["a red bird", picture, {{"image": picture, "text": "Which bird is it?"}}])
print(model.similarity(vectors, vectors))
```
"""
UNIME = """\
```python
from unime import Encoder, Item, ModelConfig
from unime.config import Precision, Quantization

model = ModelConfig(
    "{folder}", quantization=Quantization.HELD, precision=Precision.PRECISIONTRUST
)
encoder = Encoder.load(model)
vectors = encoder.encode([Item("a red bird"), Item("Which bird is it?", ("bird.jpg",))])
print(vectors @ vectors.T)
```
"""
PEFT = """\
```python
import torch
from peft import PeftConfig, PeftModel
from PIL import Image, ImageOps
from transformers import AUTO, AutoProcessor, BitsAndBytesConfig

name = PeftConfig.from_pretrained("{folder}").base_model_name_or_path
base = AUTO.from_pretrained(name, OPTIONS)
EXACTmodel = PeftModel.from_pretrained(base, "{folder}").eval()
processor = AutoProcessor.from_pretrained(name)
picture = ImageOps.exif_transpose(Image.open("bird.jpg")).convert("RGB")
RESIZEinputs = processor(
    text=[PROMPT],
    images=PICTURE,
    add_special_tokens=SPECIAL,
    return_tensors="pt",
)
with torch.inference_mode():
    hidden = base.base_model(**inputs, use_cache=False).last_hidden_state
vector = torch.nn.functional.normalize(hidden[:, -1].float(), dim=1)
print(vector)
```
"""

# With AVX512-BF16, bitsandbytes repacks 4-bit weights on CPU: other numbers than in training.
EXACT = """\
for module in base.modules():  # on CPUs with AVX512-BF16, bitsandbytes would compute otherwise
    if hasattr(module, "support_avx512bf16_for_cpu"):
        module.support_avx512bf16_for_cpu = False
"""


def unime_lines(model: ModelConfig) -> str:
    """A text, and a picture with one, in unime."""
    words = {
        "HELD": model.quantization.value,
        "PRECISION": model.precision.value,
        "TRUST": _trust(model.trust_remote_code),
    }
    return _filled(UNIME, words)


def sentence_transformers_lines(trust: bool) -> str:
    return _filled(SENTENCE_TRANSFORMERS, {"TRUST": _trust(trust)})


def peft_lines(model: ModelConfig, encoder: Encoder) -> str | None:
    """A picture with a text in transformers and peft alone; None where that takes more than their
    own processor does as it is saved."""
    of, backbone = encoder.processor, encoder.backbone
    pixels = Resolution.parse(str(of.inputs.resolution)).pixels
    if backbone.call_processor is not None or of.inputs.max_tiles or pixels is not None:
        return None
    prompt = render(Item(QUESTION, ("bird.jpg",)), of.hf_processor, backbone, of.prompt)
    size, bos = of.resolution.size, of.tokenizer.bos_token
    options = f"dtype=torch.{model.precision.value}"
    if model.quantization is Quantization.nf4:
        options += (
            ", quantization_config=BitsAndBytesConfig(load_in_4bit=True,"
            " bnb_4bit_quant_type='nf4', bnb_4bit_use_double_quant=True,"
            f" bnb_4bit_compute_dtype=torch.{model.precision.value},"
            f" llm_int8_skip_modules={backbone.not_quantised})"
        )
    elif model.quantization is Quantization.int8:
        options += (
            ", quantization_config=BitsAndBytesConfig(load_in_8bit=True,"
            f" llm_int8_skip_modules={backbone.not_quantised})"
        )
    attention = backbone.attention(model.attention)
    if attention is not None:
        options += f", attn_implementation={attention!r}"
    if encoder.base_description["revision"]:
        options = f"revision={encoder.base_description['revision']!r}, {options}"
    words: dict[str, Any] = {
        "AUTO": backbone.auto_class,
        "OPTIONS": options,
        "EXACT": EXACT if model.quantization is Quantization.nf4 else "",
        "RESIZE": f"picture = picture.resize({size}, Image.Resampling.BICUBIC)\n" if size else "",
        "PROMPT": repr(prompt),
        "PICTURE": "[[picture]]" if backbone.nested_images else "[picture]",
        "SPECIAL": not (bos and prompt.startswith(bos)),
    }
    return _filled(PEFT, words)


def _filled(lines: str, words: dict[str, Any]) -> str:
    for name, value in words.items():
        lines = lines.replace(name, str(value).replace("{", "{{").replace("}", "}}"))
    return lines


def _trust(trust: bool) -> str:
    return ", trust_remote_code=True" if trust else ""
