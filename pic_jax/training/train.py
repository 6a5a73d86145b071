"""Trains a compressor: what the training loop needs of a run."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from pic_jax.compressors.registry import make_compressor
from pic_jax.data.examples import packed
from pic_jax.data.loader import Batches
from pic_jax.data.prepare import prepare
from pic_jax.run import Run, check_fits
from pic_jax.training.identity import identity
from pic_jax.training.loop import UNWATCHED, Job, Watch, fit
from pic_jax.training.objectives import Loss, compressor_loss
from pic_jax.training.ratios import nested_losses
from pic_jax.training.sharding import check_mesh, rows_of_process
from pic_jax.training.start import initial_trainable
from pic_jax.training.summary import summary
from pic_jax.training.validation import make_validation


def train(run: Run, workdir: Path, watch: Watch = UNWATCHED) -> dict[str, Any]:
    """Trains the run's compressor up to `train.steps`, from the workdir's newest checkpoint if it has one.

    Returns:
      the trained parameters.

    Raises:
      ConfigError: the workdir holds another run, or memory and text do not fit the decoder.
      PicJaxError: data or checkpoint cannot be used, or a loss is not finite (the message has step and batch).
      RunInterruptedError: the machine is being taken away; a checkpoint has been saved.
    """
    config = run.config
    check_fits(run)
    check_mesh(config, run.decoder.config, run.mesh)
    names = config.objective.names
    settings = run.tokenizer, run.template, run.eos_id, run.vocab_size
    records, dropped = prepare(config.data, names, *settings, ('train', 'validation'))
    training = packed(records['train'], config.data, run.eos_id)
    rows = rows_of_process(run.mesh, config.train.batch_size)
    job = Job(
        config=config,
        loss=compressor_loss(run),
        init=lambda base: run.compressor.init(jax.random.key(config.seed), base),
        given=(lambda: initial_trainable(run)) if config.start else None,
        frozen=run.base,
        batches=Batches(training, config.data, names, run.eos_id, config.train.batch_size, config.seed, rows),
        sources=lambda batch: ', '.join(training[index].source for index in batch['index']),
        validate=make_validation(run, records['validation']),
        summary=lambda trainable: summary(run, trainable, training, dropped),
        mesh=run.mesh,
        base=identity(run.base, run.decoder.config),
        nested=nested_losses(run),
        counted={} if config.remat == 'none' and not may_call_kernels(run) else plain_losses(run),
    )
    return fit(job, workdir, watch)


def may_call_kernels(run: Run) -> bool:
    """Whether attention may be a Pallas kernel, whose operations a walk over jaxprs can only bound."""
    return run.decoder.attention == 'splash' or (run.decoder.attention, run.decoder.platform) == ('auto', 'tpu')


def plain_losses(run: Run) -> Mapping[int, Loss]:
    """See `Job.counted`."""
    attention = 'structured' if may_call_kernels(run) else run.decoder.attention
    decoder = run.decoder.clone(remat='none', attention=attention)
    plain = dataclasses.replace(run, decoder=decoder, compressor=make_compressor(run.config.compressor, decoder))
    return nested_losses(plain) or {0: compressor_loss(plain)}
