"""Stage 2: hard-negative enhanced instruction tuning (UniME, paper 3.3).

The multimodal LLM learns from pairs of queries and targets, each text, image or both, against the
hardest negatives of the global batch that a filter takes for true ones. Starts from stage 1's
adapter: model.adapter is its run.output_dir/final.

    accelerate launch -m stages.stage2_instruct --config configs/stage2/qwen2-vl-2b.yaml
    accelerate launch -m stages.stage2_instruct --config … model.adapter=null loss.temperature=0.03

Any setting can be given as key=value; --print-config shows all of them. Started again, the same
command goes on from the newest checkpoint. Writes run.output_dir/final (stage 1's adapter and the
new one, to evaluate with) and metrics.jsonl.

validation.every=50 validation.rows=500 holds pairs out of training and tells every 50 steps how
well the model does on them; validation.suite=… validation.root=… a suite of evaluation tasks
instead. The best checkpoint is kept, and named in best.json; it is evaluated and exported as final/
is: model.adapter=RUN/checkpoints/step_00000100.

data.mine_every=epoch (or a number of steps) mines new negatives among all targets, at the first
step and from then on, with the model as it then is; the section mining says which.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from eval.validation import SuiteValidation
from unime.config import Stage2Config, load_config
from unime.data.datasets import PairDataset
from unime.data.labels import RightAnswers, check_scores
from unime.data.sampler import OF_ONE_TASK, BatchPlan, GlobalBatchSampler
from unime.data.sampling.clusters import Clusters
from unime.losses import LearntTemperature, LossOutput, instruction_loss
from unime.mining.in_training import Mining
from unime.models.encoder import Encoder
from unime.runtime.distributed import on_main_in_steps
from unime.runtime.files import write_json
from unime.runtime.program import run_program
from unime.training.chunks import ChunkLimits
from unime.training.collator import PairCollator
from unime.training.loop import train
from unime.training.run import Run, start_run
from unime.training.trainer import StageLoss
from unime.validation.hold_out import hold_out
from unime.validation.measure import Validation
from unime.validation.scores import HeldOutPairs


def main(argv: list[str] | None = None) -> None:
    config = load_config(Stage2Config, argv)
    run = start_run(config)
    encoder = Encoder.load(
        config.model,
        config.inputs,
        lora=config.lora,
        device=run.accelerator.device,
        gradient_checkpointing=config.optim.gradient_checkpointing,
        sharded=run.shards_weights,
    )
    config.loss.shares(encoder.hidden_size)  # before the data are read
    share = partial(on_main_in_steps, run.accelerator)
    dataset = PairDataset.load(config.data, config.run.seed, encoder.processor, share)
    run.log.info("%d rows are trained on, %d are left out", len(dataset), len(dataset.dropped))
    if dataset.dropped:
        listed = run.output_dir / "dropped_rows.json"
        run.log.warning("%d bad rows were dropped: %s", len(dataset.dropped), listed)
        if run.is_main_process:
            write_json(listed, dataset.dropped)
    if config.loss.soft_labels:
        check_scores(dataset)
    sizes = {"of all sources": len(dataset)}
    if config.data.mixing in OF_ONE_TASK:
        sizes = dataset.task_sizes
    if run.take_data(dataset, sizes, {"queries": 2, "targets": 2}):
        return
    assert run.answers is not None
    right = RightAnswers(run.answers)
    dataset.answers = run.answers
    dataset, held, told = hold_out(dataset, config.validation, config.run.seed)
    sampler = _sampler(config, run, dataset)
    collate = PairCollator(
        encoder.processor,
        ChunkLimits.of(config.optim),
        verified=config.data.verify_images,
        apart=encoder.vision.reuses_features and not run.shards_weights,
        scored=config.loss.soft_labels > 0,
        right=right,
    )

    temperature = None
    if config.loss.learn_temperature:
        bounds = config.loss.temperature, config.loss.least_temperature
        temperature = LearntTemperature(*bounds, config.optim)

    def loss(
        embeddings: dict[str, Tensor], labels: dict[str, Tensor], step: int | None = None
    ) -> LossOutput:
        learnt = None if temperature is None else temperature.value
        return instruction_loss(embeddings, labels, config.loss, step, learnt)

    if told:
        run.log.info("%s", told)
    validation = _validation(config, run, held, loss, right)
    mining = _mining(config, dataset, sampler)
    rows = dataset if mining is None else mining.rows
    train(run, encoder, rows, sampler, collate, loss, validation, mining, temperature)


def _sampler(config: Stage2Config, run: Run, dataset: PairDataset) -> GlobalBatchSampler:
    """What ``data.mixing`` and the settings beside it ask for."""
    data = config.data
    plan = BatchPlan(
        data.temperature,
        data.sub_batch,
        dataset.answers,
        Clusters.open(data.clusters) if data.clusters else None,
        data.shared_answers,
    )
    sampler = GlobalBatchSampler(
        dataset.task_sizes,
        run.global_batch_size,
        data.mixing,
        config.run.seed,
        dataset.task_weights,
        plan=plan,
    )
    sharing, rows = sampler.sharing()
    if sharing:
        run.log.warning(
            "%d of the %d rows of an epoch share their query, target or answer with another row of"
            " their batch, which is no negative of theirs: there are too few different ones for"
            " batches of %d",
            *(sharing, rows, run.global_batch_size),
        )
    return sampler


def _validation(
    config: Stage2Config,
    run: Run,
    held: PairDataset | None,
    loss: StageLoss,
    right: RightAnswers,
) -> Validation | None:
    """What ``validation`` asks for."""
    every, chunk_size = config.validation.every, config.optim.chunk_size
    if every is None:
        return None
    if held is not None:
        measure = HeldOutPairs(held, loss, run.global_batch_size, chunk_size, right)
        return Validation(measure, every)
    return Validation(SuiteValidation(config.validation, chunk_size, run.accelerator), every)


def _mining(
    config: Stage2Config, dataset: PairDataset, sampler: GlobalBatchSampler
) -> Mining | None:
    """What ``data.mine_every`` asks for."""
    every = config.data.mine_every
    if every is None:
        return None
    steps = sampler.steps_per_epoch if every == "epoch" else int(every)
    pixels, size = config.inputs.max_image_pixels, config.optim.chunk_size
    return Mining(dataset, config.mining, steps, size, pixels, config.run.seed)


if __name__ == "__main__":
    run_program(main)
