"""Items to unit vectors: a frozen multimodal LLM (in 4 bits if asked) with LoRA adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import send_to_device
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from unime.backbones.backbone import Backbone
from unime.backbones.families import BACKBONES
from unime.backbones.last_token import LastTokenAlone
from unime.backbones.layers import is_quantised
from unime.backbones.packing import LAST, PROBES, check_apart, decoder_inputs, pack
from unime.config import InputConfig, LoraSettings, ModelConfig, Quantization
from unime.errors import ConfigError, DataError
from unime.inputs.images import longest_first
from unime.inputs.items import Item, distinct_places
from unime.inputs.padding import Sample, shows_images
from unime.losses import first_unsound
from unime.models.adapter_files import trained_inputs
from unime.models.adapters import (
    Adapters,
    adapter_tensors,
    load_last,
    save_adapters,
    stack_adapters,
)
from unime.models.belonging import check_fits, check_not_merged, describe_base
from unime.models.chat_format import check_carries
from unime.models.checkpoint_files import Checkpoint
from unime.models.explaining import explained
from unime.models.features import frozen
from unime.models.features.vision import Vision
from unime.models.hub import locate
from unime.models.item_processor import BLANK_SIDE, ItemProcessor, TooLongError
from unime.models.loading import check_quantised, dequantise, load_pretrained
from unime.models.sentence_layout import is_exported
from unime.runtime.files import replacing
from unime.runtime.progress import progress_bar

DECODER_KEYS = ("input_ids", "attention_mask")
Parts = Sequence[tuple[list[int], dict[str, Tensor]]]  # of a batch (`ItemProcessor.parts`)


class Encoder(nn.Module):
    """Embeds items: the L2-normalised last real token of the base model's last hidden state.

    Only what the forward pass needs is registered: the core of the model (vision tower, projector,
    language model) without the vocabulary head, or with ``decoder_only`` the language model alone.
    ``.to(device)``, DDP and ``parameters()`` see nothing else.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        adapters: Adapters,
        backbone: Backbone,
        processor: ItemProcessor,
        described: dict[str, Any],
        decoder_only: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.processor = processor
        self.decoder_only = decoder_only
        self.precision: torch.dtype = getattr(torch, described["precision"])
        self.base_description = described
        self.hidden_size: int = base.config.get_text_config().hidden_size
        alone = decoder_only and not backbone.whole_for_texts
        self.model: nn.Module = base.get_decoder() if alone else base.base_model
        present = {type(module).__name__ for module in self.model.modules()}
        units = [name for name in base._no_split_modules or [] if name in present]
        self._no_split_modules = units  # what FSDP2 gathers at a time, by class name
        self._unregistered = (base, adapters)  # a tuple: nn.Module registers what it is assigned
        self.vision = Vision(None if decoder_only else self.model, base, backbone, self.precision)
        known = BACKBONES.get(backbone.family) is backbone
        self._last_token = LastTokenAlone(base.get_decoder() if known else None)
        self._is_checkpointed = False  # asking the model costs a walk through it in every chunk

    @classmethod
    def load(
        cls,
        model: ModelConfig,
        inputs: InputConfig | None = None,
        *,
        lora: LoraSettings | None = None,
        decoder_only: bool = False,
        device: torch.device | str = "cpu",
        gradient_checkpointing: bool = False,
        sharded: bool = False,
        dequantised: bool = False,
        packing: bool = False,
    ) -> Encoder:
        """Load the base model that `model` names, freeze it, and stack its adapters on it.

        Args:
            inputs: how items become model input; None: as it was trained.
            lora: settings of a new adapter to train on top of the loaded ones, whose output it
                equals at the start; None: evaluation.
            decoder_only: the rest of the model stays on the CPU, unregistered (stage 1).
            sharded: the engine will split weights over processes (ZeRO-3, FSDP2): 4-bit ones are
                then held in a floating type, which FSDP2 can split; their values are the same.
            dequantised: hold quantised weights as what they stand for, so that adapters can be
                merged into them.
            packing: of `decoder_only`, that packed texts are embedded (backbones/packing.py).

        Returns:
            The encoder on `device`, in evaluation mode.

        Raises:
            ConfigError: a model or adapter that cannot be used, or that do not belong together.
        """
        if decoder_only:
            _check_decoder_only(model, lora, torch.device(device))
        checkpoint = locate(model)
        with explained(model):
            return cls._load(
                model, checkpoint, inputs or InputConfig(), lora, decoder_only,
                torch.device(device), gradient_checkpointing, sharded, dequantised, packing,
            )  # fmt: skip

    @classmethod
    def _load(
        cls,
        model: ModelConfig,
        checkpoint: Checkpoint,
        inputs: InputConfig,
        lora: LoraSettings | None,
        decoder_only: bool,
        device: torch.device,
        gradient_checkpointing: bool,
        sharded: bool,
        dequantised: bool,
        packing: bool,
    ) -> Encoder:
        folder = checkpoint.base.folder
        adapter = checkpoint.adapter.folder if checkpoint.adapter else None
        if adapter is not None:
            with explained(model, "model.adapter"):
                check_not_merged(folder, adapter, checkpoint.elsewhere, model.pickled_adapter)
        named = replace(
            model,
            name=checkpoint.base.name,
            revision=checkpoint.base.commit or checkpoint.revision,
            processor=checkpoint.elsewhere,
        )
        start = torch.device("cpu") if decoder_only else device
        backbone, hf_processor, base = load_pretrained(named, checkpoint, start, sharded, packing)
        check_quantised(base, backbone, model.quantization, device)
        merges = model.merge_adapter and model.quantization is not Quantization.none
        if dequantised or merges:
            dequantise(base)
        base.requires_grad_(False)
        head, embeddings = base.get_output_embeddings(), base.get_input_embeddings()
        if head is not None and head.weight is not cast(nn.Embedding, embeddings).weight:
            head.to("cpu")  # the vocabulary projection is never computed
        described = describe_base(base, named, folder)
        with explained(model, "model.adapter" if adapter else "model.name"):
            if adapter is not None:
                check_fits(adapter, described, inputs)
            adapters = stack_adapters(
                base, adapter, lora, backbone, model.merge_adapter, model.pickled_adapter
            )
        if gradient_checkpointing:
            # non-reentrant: works although the input of the first layer needs no gradient
            enable = getattr(base, "activation_checkpointing_enable", None)
            (enable or base.gradient_checkpointing_enable)({"use_reentrant": False})
            base.disable_input_require_grads()  # else frozen towers are back-propagated for nothing
        trained = trained_inputs(folder, adapter)
        if trained.get("prompt") == "chat" and inputs.prompt is None and is_exported(folder):
            check_carries(hf_processor)
        inputs = inputs.filled(trained)
        backbone.limit_tiles(inputs.max_tiles or 0, hf_processor, base.config)
        processor = ItemProcessor(hf_processor, backbone, inputs, backbone.most_tokens(base.config))
        encoder = cls(base, adapters, backbone, processor, described, decoder_only).to(device)
        encoder._is_checkpointed = gradient_checkpointing
        encoder._try_out(packing)
        if inputs.feature_store and not decoder_only:
            encoder.vision.open_store(inputs, sharded)
        return encoder

    @torch.no_grad()
    def _try_out(self, packing: bool) -> None:
        """Embed a text, and a picture where it sees any, and texts in a row where there will be
        any: what does not fit each other is then said before anything is done with it."""
        blank = Image.new("RGB", (BLANK_SIDE, BLANK_SIDE))
        samples = [self.processor(Item("a"))]
        if not self.decoder_only:
            with suppress(TooLongError):  # it can read texts all the same
                samples.append(self.processor(Item(images=("blank",)), lambda _: blank))
        vectors = self.eval().embed(self.processor.parts(samples))
        if packing:
            texts = [self.processor(Item(text)) for text in PROBES]
            alone = torch.cat([self.embed(self.processor.parts([text])) for text in texts])
            packed = self.embed([(list(range(len(texts))), pack(texts))])
            check_apart(packed, alone)
        if not vectors.isfinite().all():
            raise ConfigError("model.name: its vectors are not finite: damaged weights?")

    @property
    def base(self) -> PreTrainedModel:
        """The whole model, adapters inside, of which only a part is registered."""
        return self._unregistered[0]

    @property
    def adapters(self) -> Adapters:
        return self._unregistered[1]

    def forward(
        self, inputs: dict[str, Tensor] | list[dict[str, Tensor]], blank: Sequence[bool] = ()
    ) -> Tensor:
        """Embed one batch, padded on either side, or the parts of a chunk, padded on the left as
        `processor.parts` has them: of their last layer only the last column is computed.

        Args:
            inputs: with pixels, or in their place "features": of each row that shows media, in
                their order (`vision`); or packed texts.
            blank: parts whose texts get a blank image beside them, so that the vision tower runs
                (and is in the graph) although it changes nothing.

        Returns:
            fp32 embeddings of norm 1 (B, D), those of several parts one after the other.

        Raises:
            ValueError: inputs that this encoder would not see, or that it lacks.
        """
        if not isinstance(inputs, list):
            return self._embed(inputs)
        rows = []
        for index, part in enumerate(inputs):  # in one forward, which is all that DDP can count on
            if any(blank[index : index + 1]) and not self.decoder_only:
                # The blank first where it is a forward of its own: backward then reaches the layers
                # in the order of a rank that has an image, by which ZeRO-2 tells gradients apart.
                both = self.processor.with_blank_image(part)
                embedded = torch.cat([self._embed(batch, True) for batch in both[::-1]][::-1])
                rows.append(embedded[:-1] + 0 * embedded[-1:].sum())
            else:
                rows.append(self._embed(part, True))
        return torch.cat(rows)

    def _embed(self, inputs: dict[str, Any], padded_left: bool = False) -> Tensor:
        pooled = self._pooled(inputs, padded_left)
        if torch.is_grad_enabled() and not pooled.requires_grad:
            # Texts where only vision or projector train: a graph that gives all of them zeros.
            pooled = pooled + sum(p.sum() * 0 for _, p in self.trainable_named_parameters())
        return functional.normalize(pooled, dim=1)

    def _pooled(self, inputs: dict[str, Any], padded_left: bool) -> Tensor:
        """The last hidden state of the last real token of each row, float32 (B, D)."""
        if self.decoder_only and shows_images(inputs):
            raise ValueError("a decoder_only encoder takes texts only, got pixel_values")
        packed = inputs.get(LAST)
        if packed is not None:
            inputs = decoder_inputs(inputs, self.backbone)
        elif self.decoder_only and not self.backbone.whole_for_texts:
            inputs = {key: inputs[key] for key in DECODER_KEYS}
        else:
            for key in self.backbone.required_keys:
                if key not in inputs:
                    raise ValueError(f"{self.backbone.family} needs {key}, which is missing")
            inputs = self.vision.precise(inputs)
            if "features" in inputs:
                inputs[frozen.ARGUMENT] = frozen.as_argument(inputs.pop("features"))
        self._last_token.active = padded_left and packed is None
        hidden = self.model(**inputs, use_cache=False).last_hidden_state  # (B, L, D)
        # what is checkpointed is computed once more while the gradient is
        self._last_token.active &= self._is_checkpointed
        if packed is not None:
            return hidden[0, packed].float()  # (B, D)
        mask = inputs["attention_mask"]
        last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)  # (B,)
        return hidden[torch.arange(len(hidden), device=hidden.device), last].float()

    @torch.no_grad()
    def encode(
        self, items: Sequence[Item], batch_size: int = 32, show_progress: bool = False
    ) -> Tensor:
        """Embed items in evaluation mode, each distinct one once, the longest first.

        Args:
            show_progress: a bar, where there is a terminal.

        Returns:
            (N, D) float32 of norm 1, on the CPU, in the order of the items.

        Raises:
            ValueError: a batch size below 1.
            DataError: an item that cannot be read, or has nothing in it, or whose embedding is zero
                or not finite, by its index.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: got {batch_size}, expected 1 or more")
        places = distinct_places(items)
        distinct = list(places)
        order = longest_first([item for item, _ in distinct])
        embeddings = torch.empty(len(items), self.hidden_size)
        training = self.training
        self.eval()
        try:
            with progress_bar(total=len(order), unit="item", shown=show_progress) as bar:
                for start in range(0, len(order), batch_size):
                    batch = [distinct[index] for index in order[start : start + batch_size]]
                    firsts = [places[key][0] for key in batch]
                    samples = [
                        self._sample(key[0], n) for key, n in zip(batch, firsts, strict=True)
                    ]
                    rows = self.embed(*self.parts(samples))
                    if bad := first_unsound(rows):
                        raise DataError(f"items[{firsts[bad[0]]}]: {bad[1]}")
                    for key, row in zip(batch, rows, strict=True):
                        embeddings[places[key]] = row
                    bar.update(len(batch))
        finally:
            self.train(training)
        return embeddings

    def _sample(self, item: Item, index: int) -> Sample:
        try:
            return self.processor(item)
        except DataError as error:
            raise DataError(f"items[{index}]: {error}") from error

    def parts(self, samples: Sequence[Sample]) -> tuple[Parts, frozen.Media | None]:
        """What `embed` takes of one batch; media apart, where features are kept."""
        if self.vision.store is None:
            return self.processor.parts(samples), None
        rests, media = frozen.set_apart(samples)
        return self.processor.parts(rests), media

    def embed(self, parts: Parts, media: frozen.Media | None = None) -> Tensor:
        """Embed the parts of one batch: (B, D) on the CPU, in its order.

        Args:
            media: of parts whose media were set apart (`parts`).
        """
        return _in_order(parts, self(self._on_device(parts, media)))

    @torch.no_grad()
    def last_hidden(self, parts: Parts, media: frozen.Media | None = None) -> Tensor:
        """As `embed`, but before it is normalised: what the vocabulary head would read (B, D)."""
        rows = [self._pooled(part, True) for part in self._on_device(parts, media)]
        return _in_order(parts, torch.cat(rows))

    def _on_device(self, parts: Parts, media: frozen.Media | None) -> list[dict[str, Tensor]]:
        device = next(self.parameters()).device
        inputs = [part for _, part in parts]
        if media is not None:
            features = self.vision.features(media)
            inputs = [frozen.with_features(part, features) for part in inputs]
        return [send_to_device(part, device) for part in inputs]

    @property
    def trained_parts(self) -> list[str]:
        """Which of llm, projector and vision hold trainable parameters.

        A batch of texts leaves the last two without gradients (and LLaVA never reads its last
        vision layer), which DDP has to be told: ``find_unused_parameters``.
        """
        return self.backbone.trained_parts(self.base)

    def trainable_named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                yield name, parameter

    def save_adapters(self, folder: str | Path, writes: bool = True) -> None:
        """Write the adapters, in the order of the stack, and what they were trained with; called by
        every rank, since an engine may have split them, of which one `writes`.

        Raises:
            ValueError: there is no adapter.
        """
        adapters = self.adapters
        if not adapters.names:
            raise ValueError("this encoder has no adapter to save")
        tensors = adapter_tensors(adapters.stack) if adapters.stack else {}
        if writes:
            described = (self.base_description, self.processor.inputs, self.decoder_only)
            with replacing(Path(folder)) as aside:
                save_adapters(aside, adapters, tensors, *described)

    def load_trained(self, folder: Path) -> None:
        """Put the trained adapter back as `save_adapters` wrote it, before an engine splits it.

        Raises:
            ConfigError: the folder cannot be read, or holds other adapters.
        """
        load_last(self.adapters, folder)

    def describe(self) -> str:
        """One paragraph for the log: sizes, what is trained, what is quantised."""
        base, adapters = self.base, self.adapters
        total = sum(_numel(parameter) for parameter in self.parameters())
        trained = sum(parameter.numel() for _, parameter in self.trainable_named_parameters())
        layers = [name for name, module in self.named_modules() if is_quantised(module)]
        kind = self.base_description["quantization"]
        names = [f"{name} (merged)" if name in adapters.merged else name for name in adapters.names]
        return (
            f"{self.base_description['name']} ({type(base).__name__}):"
            f" {'decoder only, ' if self.decoder_only else ''}{total:,} parameters, of which"
            f" {trained:,} ({trained / total:.2%}) are trained"
            f" ({', '.join(self.trained_parts) or 'none'}); adapters: {', '.join(names) or 'none'};"
            f" {len(layers)} linear layers in {kind}, the rest in"
            f" {self.base_description['precision']}, adapters in float32"
        )


def _in_order(parts: Parts, rows: Tensor) -> Tensor:
    """The rows of a batch's parts in the batch's order, on the CPU."""
    places = [place for of, _ in parts for place in of]
    return rows.float().cpu()[torch.tensor(places).argsort()]


def _check_decoder_only(
    model: ModelConfig, lora: LoraSettings | None, device: torch.device
) -> None:
    if lora is not None and lora.train != ["llm"]:
        raise ConfigError(f"lora.train: got {lora.train}, expected [llm] for the decoder only")
    if model.quantization is Quantization.int8 and device.type != "cpu":
        raise ConfigError(  # Module.to leaves Int8Params.CB and .SCB behind (bitsandbytes 0.50.2)
            "model.quantization: got 'int8', expected nf4 or none where the decoder alone runs on"
            f" {device}: bitsandbytes cannot move 8-bit weights there"
        )


def _numel(parameter: nn.Parameter) -> int:
    """Of a 4-bit parameter too, which packs two weights in a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()
