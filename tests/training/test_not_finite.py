"""Losses and gradients that are not finite: what such an update leaves behind, what is said and counted, when it ends.

A job of two small tensors stands for a compressor. Its batches say what is wrong with them.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.config import OptimizerConfig, RunConfig, TrainConfig
from pic_jax.errors import PicJaxError
from pic_jax.models.scoring import Totals
from pic_jax.training.loop import Job, fit
from pic_jax.training.objectives import Loss
from pic_jax.training.sharding import single_device_mesh
from pic_jax.training.step import init_state, make_train_step

STEPS = 8
# What the loss and the norm of the gradient are in a batch of that kind.
KINDS = {'loss': ('nan', 'finite'), 'gradient': ('finite', 'inf'), 'gradient of no sign': ('finite', 'nan')}
FINE, *_ = NUMBERS = range(1 + len(KINDS))
OPTIMIZERS = ('adamw', 'muon')


def totals(trained, _, batch) -> dict[str, Totals]:
    """(special + sum of kernel - x)^2, and what is wrong in rows of each kind."""
    x_B, kind_B = batch['lm']['x'], batch['lm']['kind']
    weight = trained['special'] + jnp.sum(trained['q_proj']['kernel'])
    # The root of 0 has an infinite slope, and the difference of two none.
    zero = weight - jax.lax.stop_gradient(weight)
    up_B, down_B = jnp.sqrt(jnp.where(kind_B >= 2, zero, 1)), jnp.sqrt(jnp.where(kind_B == 3, zero, 1))
    nats_B = jnp.where(kind_B == 1, jnp.nan, (weight - x_B) ** 2 + up_B - down_B)
    return {'lm': Totals(nats_B, jnp.ones_like(x_B))}


LOSS = Loss({'lm': 1.0}, totals, lambda batch: {'lm': jnp.sum(batch['lm']['is_target'])})
FIRST = {'q_proj': {'kernel': jnp.ones((1, 2, 2), jnp.float32)}, 'special': jnp.float32(0.5)}


def batch_of(number: int, kind: int) -> dict:
    """Two rows, the second of that kind."""
    x = np.random.default_rng(number).standard_normal(2).astype(np.float32)
    lm = {'x': x, 'kind': np.array([FINE, kind], np.int32), 'is_target': np.ones((2, 1), bool)}
    return {'lm': lm, 'index': np.array([number, number + 100], np.int32)}


def config(optimizer: str = 'adamw', skips: int = 0) -> RunConfig:
    rule = OptimizerConfig(name=optimizer, learning_rate=0.1, warmup_steps=3, weight_decay=0.01)
    train = TrainConfig(
        steps=STEPS, batch_size=2, log_every=1, eval_every=STEPS, checkpoint_every=STEPS, max_skipped_steps=skips
    )
    return RunConfig(base='none', optimizer=rule, train=train)


def run(workdir, bad: dict[int, str], skips: int):
    """Trains with batches of those kinds at those steps; the trained tensors, and the train records."""
    kinds = {step: 1 + list(KINDS).index(kind) for step, kind in bad.items()}
    job = Job(
        config=config(skips=skips), loss=LOSS, init=lambda _: FIRST, frozen=jnp.float32(0),
        batches=[batch_of(step, kinds.get(step, FINE)) for step in range(1, STEPS + 1)],
        sources=lambda batch: ', '.join(f'line {index}' for index in batch['index']),
        validate=lambda _: {'loss': 1.0}, summary=lambda _: [], mesh=single_device_mesh(),
    )  # fmt: skip
    trained = fit(job, workdir)
    return trained, train_records(workdir)


def train_records(workdir) -> list[dict]:
    found = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [record for record in found if record['split'] == 'train']


def all_bytes(tree) -> list[bytes]:
    return [np.array(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def said(value: float) -> str:
    return 'finite' if np.isfinite(value) else str(float(value))


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_it_leaves_no_trace_in_weights_moments_and_counts_nor_in_what_follows(optimizer):
    settings = config(optimizer)
    step = make_train_step(LOSS, settings.optimizer, settings.train)

    def states(kinds):
        """After each batch that has one of the kinds; batches that are fine have the numbers 0, 1, 2 ..."""
        state, found, number = init_state(jax.tree.map(jnp.copy, FIRST), settings.optimizer, STEPS), [], 0
        for kind in kinds:
            state, values = step(state, jnp.float32(0), batch_of(number, kind))
            number += kind == FINE
            found.append((all_bytes(state), said(values['loss']), said(values['grad_norm']), float(values['finite'])))
        return found

    good = [each[0] for each in states([FINE] * 5)]
    assert len(good[0]) > 6  # two tensors with two moments each, and counts
    assert len({tuple(each) for each in good}) == 5
    mixed = states([FINE, FINE, 1, FINE, 2, 3, FINE, FINE])
    assert [each[0] for each in mixed] == [good[index] for index in (0, 1, 1, 2, 2, 2, 3, 4)]
    assert [each[1:3] for each in mixed if not each[3]] == list(KINDS.values())


@pytest.mark.parametrize(('kind', 'text'), [
    ('loss', 'loss nan is not finite'), ('gradient', 'gradient norm inf is not finite'),
])  # fmt: skip
def test_the_first_one_ends_a_run_that_allows_none_and_is_named(tmp_path, kind, text):
    where = r'.*\(1 so far, train.max_skipped_steps=0\). The batch: line 4, line 104$'
    with pytest.raises(PicJaxError, match=f'step 4: {text};{where}'):
        run(tmp_path, {4: kind}, skips=0)
    assert [record['step'] for record in train_records(tmp_path)] == [1, 2, 3]


def test_as_many_as_are_allowed_are_counted_and_the_schedule_waits_for_them(tmp_path, capsys):
    trained, found = run(tmp_path / 'bad', {2: 'gradient', 5: 'loss', 6: 'gradient of no sign'}, skips=3)
    assert [record['skipped_steps'] for record in found] == [0, 1, 1, 1, 2, 3, 3, 3]
    assert [record['step'] for record in found if 'loss' not in record] == [5]
    assert [record['step'] for record in found if 'grad_norm' not in record] == [2, 6]
    err = capsys.readouterr().err
    for line in ('step 2: gradient norm inf is', 'step 5: loss nan is', 'step 6: gradient norm nan is'):
        assert f'{line} not finite; the update was discarded' in err
    rates = [record['learning_rate'] for record in found]
    assert rates[2] == rates[1] > rates[0]  # the rate of an update, not of a step
    assert rates[4] == rates[5] == rates[6]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained))


def test_one_more_than_allowed_ends_the_run(tmp_path):
    text = r'step 6: gradient norm inf is not finite; .*\(3 so far, train.max_skipped_steps=2\)'
    with pytest.raises(PicJaxError, match=text):
        run(tmp_path, {2: 'loss', 3: 'loss', 6: 'gradient'}, skips=2)
    assert [record['skipped_steps'] for record in train_records(tmp_path)] == [0, 1, 2, 2, 2]


def test_a_limit_below_none_is_refused():
    with pytest.raises(PicJaxError, match=r'train\.max_skipped_steps=-1 is not valid: expected at least 0'):
        dataclasses.replace(config().train, max_skipped_steps=-1)
