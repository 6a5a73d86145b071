"""PIC's chunk size ablated in plain functions, three seeds at once: python examples/ablate_chunk_size.py [STEPS]"""

import sys
from functools import partial

import jax
import numpy as np
import optax

from pic_jax.config import CompressorConfig, DataConfig, RunConfig
from pic_jax.data.loader import Batches
from pic_jax.evaluation.harness import held_out
from pic_jax.run import open_run
from pic_jax.training.objectives import objective_totals

steps, optimizer = int([*sys.argv, '100'][1]), optax.adam(3e-3)
data = DataConfig(source='generated', size=600, context_length=128, target_length=40)


def update(run, state, batch):
    def loss(trainable):
        totals = objective_totals(run, trainable, run.base, batch)['lm']
        return totals.nats.sum() / totals.tokens.sum()

    value, grads = jax.value_and_grad(loss)(state[0])
    updates, moments = optimizer.update(grads, state[1])
    return (optax.apply_updates(state[0], updates), moments), value


def train(run, batches, key):  # losses [steps], a pure function of the key
    start = run.compressor.init(key, run.base)
    return jax.lax.scan(partial(update, run), (start, optimizer.init(start)), batches)[1]


for c in (8, 16, 32, 64):
    run = open_run(RunConfig(base='tiny_base', data=data, compressor=CompressorConfig.preset('pic', chunk_size=c)))
    source = Batches(held_out(run, 'train'), data, ('lm',), run.eos_id, 8, seed=0)
    batches = jax.tree.map(lambda *x: np.stack(x), *map(source.__getitem__, range(steps)))
    losses = jax.jit(jax.vmap(partial(train, run, batches)))(jax.random.split(jax.random.key(0), 3))[:, -5:]
    print(f'chunk size {c}: {losses.mean():.3f} +- {losses.mean(1).std():.3f} nats per token')
