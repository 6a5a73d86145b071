"""What a training starts from: fresh parameters, or those of another run's compressor."""

import dataclasses
from typing import Any

import numpy as np

from pic_jax.budget import num_embeddings
from pic_jax.compressors.registry import make_compressor
from pic_jax.errors import ConfigError
from pic_jax.nested import trainable_at
from pic_jax.run import Run, named_folder
from pic_jax.training import weights
from pic_jax.training.checkpoint import restore_trainable
from pic_jax.training.workdir import read_config

# What a compressor may change when it trains on.
RESIZABLE = ('ratio', 'ratios', 'chunk_size', 'window', 'context_length')


def initial_trainable(run: Run) -> Any:
    """Fresh parameters, or those of the compressor in `config.start`.

    That compressor may have been trained at other ratios and on other lengths (RESIZABLE); its memory embeddings are
    then repeated or left out at even distances. A nested one gives those that it uses at the run's ratio.

    Raises:
      PicJaxError: that workdir has no checkpoint.
      ConfigError: it holds another compressor.
    """
    if not run.config.start:
        return run.init_trainable()
    folder = named_folder(run.config.start)
    config, ours = read_config(folder), run.config.compressor
    resized = dataclasses.replace(config.compressor, **{name: getattr(ours, name) for name in RESIZABLE})
    compared = [('base', config.base, run.config.base), ('compressor', resized, ours)]
    if not (folder / weights.NAME).is_file():  # checkpoints belong to a base of one dtype
        compared.append(('dtype', config.dtype, run.config.dtype))
    for name, theirs, own in compared:
        if theirs != own:
            raise ConfigError(f'start={run.config.start} has {name}={theirs}, this run has {name}={own}')
    saved = dataclasses.replace(run, config=config, compressor=make_compressor(config.compressor, run.decoder))
    trainable = restore_trainable(saved, folder).trainable
    if ours.ratio in config.compressor.ratios:
        trainable = trainable_at(config.compressor, trainable, ours.ratio)
    if 'memory_embeddings' not in trainable:
        return trainable
    embeddings_MD = trainable['memory_embeddings']
    rows = np.arange(num_embeddings(ours)) * len(embeddings_MD) // num_embeddings(ours)
    return trainable | {'memory_embeddings': embeddings_MD[rows]}
