"""Stage 1: textual discriminative knowledge distillation (UniME, paper 3.2).

The language model alone learns, from texts, to tell apart what a text embedding model tells apart.
Needs the teacher's embeddings of the texts (python -m data_prep.teacher_embeddings --config …).

    accelerate launch -m stages.stage1_distill --config configs/stage1/qwen2-vl-2b.yaml
    accelerate launch -m stages.stage1_distill --config … run.output_dir=runs/try optim.steps=50

Any setting can be given as key=value; --print-config shows all of them. Started again, the same
command goes on from the newest checkpoint. Writes run.output_dir/final, the adapter that stage 2
starts from, and metrics.jsonl; watch effective_rank (1: collapsed) and teacher_correlation there.
mean_similarity alone says little: the loss does not see a constant that is added to all
similarities, so 0.5 is healthy where the teacher's own is 0.1.

validation.every=50 validation.rows=500 holds texts out of training and tells every 50 steps how
well the model does on them; the best checkpoint is kept, and named in best.json.
"""

from __future__ import annotations

from torch import Tensor

from unime.config import Mixing, Stage1Config, load_config
from unime.data.datasets import TextDataset
from unime.data.sampler import GlobalBatchSampler
from unime.losses import LossOutput, distillation_loss
from unime.models.encoder import Encoder
from unime.runtime.program import run_program
from unime.training.chunks import ChunkLimits
from unime.training.collator import TextCollator
from unime.training.loop import train
from unime.training.run import start_run
from unime.validation.hold_out import hold_out
from unime.validation.measure import Validation
from unime.validation.scores import HeldOutTexts


def main(argv: list[str] | None = None) -> None:
    config = load_config(Stage1Config, argv)
    run = start_run(config)
    dataset = TextDataset.load(config.data)
    run.log.info("%d texts (%d duplicates left out)", len(dataset), dataset.num_duplicates)
    least = {"texts": 2 if config.loss.include_diagonal else 3}
    if run.take_data(dataset, dataset.task_sizes, least):
        return
    dataset, held, told = hold_out(dataset, config.validation, config.run.seed)
    sampler = GlobalBatchSampler(
        dataset.task_sizes,
        run.global_batch_size,
        Mixing.mixed,
        config.run.seed,
        block=dataset.texts_per_row,
    )
    encoder = Encoder.load(
        config.model,
        config.inputs,
        lora=config.lora,
        decoder_only=True,
        device=run.accelerator.device,
        gradient_checkpointing=config.optim.gradient_checkpointing,
        sharded=run.shards_weights,
        packing=config.optim.packing,
    )
    config.loss.shares(encoder.hidden_size)
    teacher, own_limit = dataset.teacher, encoder.processor.inputs.max_text_tokens
    if teacher.cut_at not in (None, own_limit):
        run.log.info(
            "the teacher read %d tokens of a text (prompt and special tokens included; %d texts"
            " were longer), the student reads %d of its own",
            *(teacher.cut_at, teacher.num_cut, own_limit),
        )
    collate = TextCollator(encoder.processor, ChunkLimits.of(config.optim))

    def loss(
        embeddings: dict[str, Tensor], labels: dict[str, Tensor], step: int | None = None
    ) -> LossOutput:
        return distillation_loss(embeddings["text"], labels["teacher"], config.loss)

    validation, every = None, config.validation.every
    if held is not None and every is not None:
        run.log.info("%s", told)
        sizes = run.global_batch_size, config.optim.chunk_size
        validation = Validation(HeldOutTexts(held, loss, *sizes), every)
    train(run, encoder, dataset, sampler, collate, loss, validation)


if __name__ == "__main__":
    run_program(main)
