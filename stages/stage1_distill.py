"""Stage 1: textual discriminative knowledge distillation (UniME, paper 3.2).

The language model alone learns, from texts, to tell apart what a text embedding model tells apart.
Needs the teacher's embeddings of the texts (python -m data_prep.teacher_embeddings --config …).

    accelerate launch -m stages.stage1_distill --config configs/stage1/qwen2-vl-2b.yaml
    accelerate launch -m stages.stage1_distill --config … run.output_dir=runs/try optim.steps=50

Any setting can be given as key=value; --print-config shows all of them. Started again, the same
command goes on from the newest checkpoint. Writes run.output_dir/final, the adapter that stage 2
starts from, and metrics.jsonl; watch mean_similarity (1: collapsed), effective_rank and
teacher_correlation there.
"""

from __future__ import annotations

from torch import Tensor

from unime.chunks import ChunkLimits
from unime.collator import TextCollator
from unime.config import Mixing, Stage1Config, load_config
from unime.data import GlobalBatchSampler, TextDataset
from unime.encoder import Encoder
from unime.loop import train
from unime.losses import LossOutput, distillation_loss
from unime.runlog import run_program, start_run


def main(argv: list[str] | None = None) -> None:
    config = load_config(Stage1Config, argv)
    run = start_run(config)
    if run.finished:
        return
    dataset = TextDataset.load(config.data)
    run.log.info("%d texts (%d duplicates left out)", len(dataset), dataset.num_duplicates)
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
    )
    teacher, own_limit = dataset.teacher, encoder.processor.inputs.max_text_tokens
    if teacher.cut_at not in (None, own_limit):
        run.log.info(
            "the teacher read %d tokens of a text (prompt and special tokens included; %d texts"
            " were longer), the student reads %d of its own",
            *(teacher.cut_at, teacher.num_cut, own_limit),
        )
    collate = TextCollator(encoder.processor, ChunkLimits.of(config.optim))

    def loss(step: int, embeddings: dict[str, Tensor], labels: dict[str, Tensor]) -> LossOutput:
        return distillation_loss(embeddings["text"], labels["teacher"], config.loss)

    train(run, encoder, dataset, sampler, collate, loss)


if __name__ == "__main__":
    run_program(main)
