"""Stage 2: hard-negative enhanced instruction tuning (UniME, paper 3.3).

The multimodal LLM learns from pairs of queries and targets, each text, image or both, against the
hardest negatives of the global batch that a filter takes for true ones. Starts from stage 1's
adapter: model.adapter is its run.output_dir/final.

    accelerate launch -m stages.stage2_instruct --config configs/stage2/qwen2-vl-2b.yaml
    accelerate launch -m stages.stage2_instruct --config … model.adapter=null loss.temperature=0.03

Any setting can be given as key=value; --print-config shows all of them. Started again, the same
command goes on from the newest checkpoint. Writes run.output_dir/final (stage 1's adapter and the
new one, to evaluate with) and metrics.jsonl.
"""

from __future__ import annotations

from torch import Tensor

from unime.checkpoint import write_json
from unime.chunks import ChunkLimits
from unime.collator import PairCollator
from unime.config import Stage2Config, load_config
from unime.data import GlobalBatchSampler, PairDataset
from unime.encoder import Encoder
from unime.loop import train
from unime.losses import LossOutput, instruction_loss
from unime.runlog import run_program, start_run


def main(argv: list[str] | None = None) -> None:
    config = load_config(Stage2Config, argv)
    run = start_run(config)
    if run.finished:
        return
    encoder = Encoder.load(
        config.model,
        config.inputs,
        lora=config.lora,
        device=run.accelerator.device,
        gradient_checkpointing=config.optim.gradient_checkpointing,
        sharded=run.shards_weights,
    )
    dataset = PairDataset.load(config.data, config.run.seed, encoder.processor)
    if dataset.dropped:
        listed = run.output_dir / "dropped_rows.json"
        run.log.warning("%d bad rows were dropped: %s", len(dataset.dropped), listed)
        if run.is_main_process:
            write_json(listed, dataset.dropped)
    sampler = GlobalBatchSampler(
        dataset.task_sizes,
        run.global_batch_size,
        config.data.mixing,
        config.run.seed,
        dataset.task_weights,
    )
    collate = PairCollator(
        encoder.processor,
        ChunkLimits.of(config.optim),
        verified=config.data.verify_images,
    )

    def loss(step: int, embeddings: dict[str, Tensor], labels: dict[str, Tensor]) -> LossOutput:
        return instruction_loss(embeddings, labels, config.loss, step)

    train(run, encoder, dataset, sampler, collate, loss)


if __name__ == "__main__":
    run_program(main)
