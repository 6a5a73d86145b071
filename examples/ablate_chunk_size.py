"""A functional ablation of PIC's chunk size: three seeds at once by vmap, one compilation per size.

python examples/ablate_chunk_size.py [STEPS]
"""

import sys
from functools import partial

import jax
import numpy as np
import optax

from pic_jax.config import CompressorConfig, DataConfig, ObjectiveConfig, RunConfig
from pic_jax.data.loader import Batches
from pic_jax.evaluation.harness import held_out
from pic_jax.run import open_run
from pic_jax.training.objectives import objective_totals

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 100
data = DataConfig(source='generated', size=600, context_length=208, answer_length=40)
objective = ObjectiveConfig(lm=0.0, ft=1.0)


def train(run, optimizer, batches, key):
    """Losses [STEPS] of one seed: a pure function of its key."""

    def loss(trainable, batch):
        totals = objective_totals(run, trainable, run.base, batch)['ft']
        return totals.nats.sum() / totals.tokens.sum()

    def step(state, batch):
        value, grads = jax.value_and_grad(loss)(state[0], batch)
        updates, opt_state = optimizer.update(grads, state[1])
        return (optax.apply_updates(state[0], updates), opt_state), value

    trainable = run.compressor.init(key, run.base)
    return jax.lax.scan(step, (trainable, optimizer.init(trainable)), batches)[1]


for chunk_size in (8, 16, 32, 64):
    compressor = CompressorConfig.preset('pic', ratio=4, chunk_size=chunk_size, context_length=208)
    run = open_run(RunConfig(base='tiny_base', compressor=compressor, data=data, objective=objective))
    source = Batches(held_out(run, 'train'), data, objective.names, run.eos_id, batch_size=8, seed=0)
    batches = jax.tree.map(lambda *x: np.stack(x), *(source[i] for i in range(STEPS)))
    losses = jax.jit(jax.vmap(partial(train, run, optax.adam(3e-3), batches)))(jax.random.split(jax.random.key(0), 3))
    last = losses[:, -max(STEPS // 10, 1) :].mean(axis=1)
    print(f'chunk size {chunk_size:3d}: {last.mean():.3f} +- {last.std():.3f} nats per answer token')
