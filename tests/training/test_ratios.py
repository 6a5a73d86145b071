"""Nested training: the ratio that a step draws, what trains at it, and resuming."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.config import LoraConfig, OptimizerConfig, RunConfig, TrainConfig
from pic_jax.models.decoder import Decoder
from pic_jax.models.scoring import Totals
from pic_jax.nested import trainable_at
from pic_jax.training import loop
from pic_jax.training.loop import Job, fit
from pic_jax.training.objectives import Loss, compressor_loss
from pic_jax.training.ratios import drawn_ratios, nested_losses
from pic_jax.training.sharding import single_device_mesh
from pic_jax.training.step import accumulate

RATIOS = (4, 8, 16)


def test_a_draw_is_a_function_of_seed_and_step_alone():
    drawn = drawn_ratios(RATIOS, 7, range(900))
    for step in (0, 1, 2, 450, 899):
        key = jax.random.fold_in(jax.random.key(7), step)
        assert drawn[step] == RATIOS[int(jax.random.randint(key, (), 0, 3))]
        assert drawn_ratios(RATIOS, 7, [step]).tolist() == [drawn[step]]
    np.testing.assert_array_equal(drawn_ratios(RATIOS, 7, range(5, 20)), drawn[5:20])
    assert (drawn_ratios(RATIOS, 8, range(900)) != drawn).sum() > 500
    assert all(250 < (drawn == ratio).sum() < 350 for ratio in RATIOS)
    assert drawn_ratios((4,), 7, range(3)).tolist() == [4, 4, 4]


def test_draws_do_not_change_between_versions():
    assert drawn_ratios(RATIOS, 0, range(10)).tolist() == [8, 16, 4, 4, 4, 8, 8, 16, 4, 8]


@pytest.fixture(scope='module')
def run(tiny_config, random_params, bare_run):
    config = tiny_config(num_hidden_layers=1)
    settings = dict(method='pic', ratio=2, ratios=(2, 4), chunk_size=8, context_length=16, lora=LoraConfig(rank=2))
    return bare_run(config, random_params(Decoder(config)), settings, dict(lm=1.0), (5,))


@pytest.fixture(scope='module')
def at_four(run, ragged_batch):
    """A function (loss, weights) -> nats, tokens and gradients on one batch; and weights that have left their start."""
    batch = ragged_batch(64, 16, [16, 11, 3, 1], {'lm': (5, [0, 0, 0, 0], [5, 5, 2, 4])})
    trainable = jax.tree.map(lambda leaf: leaf + 0.1, run.init_trainable())

    def totals(loss, trainable):
        return jax.jit(lambda trainable, base: accumulate(loss, trainable, base, batch, 2))(trainable, run.base)

    return totals, trainable


@pytest.fixture(scope='module')
def nested_at_four(run, at_four):
    totals, trainable = at_four
    return totals(nested_losses(run)[4], trainable)


def test_vectors_beyond_the_drawn_ratio_have_no_gradient(nested_at_four):
    gradient_MD = np.asarray(nested_at_four[2]['memory_embeddings'])
    assert gradient_MD.shape == (4, 32)
    assert (np.abs(gradient_MD[:2]).max(axis=1) > 1e-4).all()
    assert not gradient_MD[2:].any()
    assert np.abs(nested_at_four[2]['lora']['layers']['self_attn']['q_proj']['lora_B']).max() > 1e-6


@pytest.mark.slow
def test_the_loss_at_a_ratio_is_that_of_the_ordinary_compressor(run, at_four, nested_at_four):
    totals, trainable = at_four
    nats, tokens, grads = nested_at_four
    ordinary = trainable_at(run.config.compressor, trainable, 4)
    nats_4, tokens_4, grads_4 = totals(compressor_loss(run.at_ratio(4)), ordinary)
    assert float(nats['lm']) == pytest.approx(float(nats_4['lm']), rel=1e-6)
    assert int(tokens['lm']) == int(tokens_4['lm']) == 16
    kept = grads | {'memory_embeddings': grads['memory_embeddings'][:2]}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), kept, grads_4)


def test_a_compressor_of_one_ratio_draws_nothing(run):
    assert nested_losses(run.at_ratio(2)) == {}
    assert list(nested_losses(run)) == [2, 4]


class Interrupted(Exception):  # noqa: N818
    pass


class Numbers:
    """Batch `step` holds a number that depends on it; one step may stop the program."""

    def __init__(self, stop=None):
        self.stop = stop

    def __getitem__(self, step: int):
        if step == self.stop:
            raise Interrupted
        x = np.random.default_rng(step).standard_normal(2).astype(np.float32)
        return {'lm': {'x': x, 'is_target': np.ones((2, 1), bool)}, 'index': np.array([step, step])}


def make_job(numbers: Numbers) -> Job:
    """At ratio r, weight r of {2, 4, 8} follows the numbers; the other two are left alone."""

    def loss_at(place):
        def totals(trained, frozen, batch):
            return {'lm': Totals((trained['weight'][place] * frozen - batch['lm']['x']) ** 2, jnp.ones(2))}

        return Loss({'lm': 1.0}, totals, lambda batch: {'lm': jnp.sum(batch['lm']['is_target'])})

    train = TrainConfig(steps=9, batch_size=2, microbatches=2, log_every=1, eval_every=9, checkpoint_every=2)
    return Job(
        config=RunConfig(
            base='none', seed=3, optimizer=OptimizerConfig(learning_rate=0.1, warmup_steps=1), train=train
        ),
        loss=loss_at(0),
        init=lambda _: {'weight': jnp.array([3, 5, 7], jnp.float32)},
        frozen=jnp.float32(2),
        batches=numbers,
        sources=lambda batch: '',
        validate=lambda trained: {'loss': float(trained['weight'].sum())},
        summary=lambda trained: [],
        mesh=single_device_mesh(),
        nested={ratio: loss_at(place) for place, ratio in enumerate((2, 4, 8))},
    )


def train_records(workdir) -> list[dict]:
    found = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [{k: v for k, v in r.items() if not k.endswith('_s')} for r in found if r['split'] == 'train']


@pytest.mark.slow
def test_the_loop_draws_and_resumes_bit_for_bit(tmp_path, monkeypatch):
    made, make = [], loop.make_train_step

    def counted(*args):
        made.append(make(*args))
        return made[-1]

    monkeypatch.setattr(loop, 'make_train_step', counted)
    whole = fit(make_job(Numbers()), tmp_path / 'whole')
    drawn = drawn_ratios((2, 4, 8), 3, range(9)).tolist()
    assert set(drawn) == {2, 4, 8}
    assert [record['ratio'] for record in train_records(tmp_path / 'whole')] == drawn
    first = train_records(tmp_path / 'whole')[0]  # before any update: the loss tells which weight it is of
    weight, x = {2: 3, 4: 5, 8: 7}[drawn[0]], Numbers()[0]['lm']['x']
    assert drawn[0] != drawn[-1]
    assert first['loss'] == pytest.approx(float(np.mean((2 * weight - x) ** 2)), rel=1e-5)
    assert [step._cache_size() for step in made] == [1, 1, 1]  # one program for each ratio
    for stop in (3, 7):
        with pytest.raises(Interrupted):
            fit(make_job(Numbers(stop)), tmp_path / 'parts')
    again = fit(make_job(Numbers()), tmp_path / 'parts')
    assert again['weight'].tobytes() == whole['weight'].tobytes()
    assert train_records(tmp_path / 'parts') == train_records(tmp_path / 'whole')


def test_only_what_was_drawn_moves(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, 'drawn_ratios', lambda ratios, seed, steps: np.full(len(steps), 4))
    trained = fit(make_job(Numbers()), tmp_path)
    assert (trained['weight'][0], trained['weight'][2]) == (3, 7)
    assert trained['weight'][1] < 4.9


def test_a_job_without_ratios_has_no_ratio_in_its_records(tmp_path):
    fit(make_job(Numbers())._replace(nested={}), tmp_path)
    assert all('ratio' not in record for record in train_records(tmp_path))
