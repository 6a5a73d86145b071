"""A functional ablation of PIC's chunk size, three seeds at once: python examples/ablate_chunk_size.py [STEPS]"""

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

steps, optimizer = int(sys.argv[1]) if len(sys.argv) > 1 else 100, optax.adam(3e-3)
data = DataConfig(source='generated', size=600, context_length=208, answer_length=40)
objective = ObjectiveConfig(lm=0.0, ft=1.0)


def update(run, state, batch):
    def loss(trainable):
        totals = objective_totals(run, trainable, run.base, batch)['ft']
        return totals.nats.sum() / totals.tokens.sum()

    value, grads = jax.value_and_grad(loss)(state[0])
    updates, opt_state = optimizer.update(grads, state[1])
    return (optax.apply_updates(state[0], updates), opt_state), value


def train(run, batches, key):  # a pure function of the key: losses [steps]
    trainable = run.compressor.init(key, run.base)
    return jax.lax.scan(partial(update, run), (trainable, optimizer.init(trainable)), batches)[1]


for c in (8, 16, 32, 64):
    pic = CompressorConfig.preset('pic', ratio=4, chunk_size=c, context_length=208)
    run = open_run(RunConfig(base='tiny_base', compressor=pic, data=data, objective=objective))
    source = Batches(held_out(run, 'train'), data, ('ft',), run.eos_id, batch_size=8, seed=0)
    batches = jax.tree.map(lambda *x: np.stack(x), *(source[i] for i in range(steps)))
    losses = jax.jit(jax.vmap(partial(train, run, batches)))(jax.random.split(jax.random.key(0), 3))
    print(f'chunk size {c}: {losses[:, -5:].mean():.3f} +- {losses[:, -5:].mean(1).std():.3f} nats per answer token')
