"""Costs of methods: counted operations, bytes, and a wait that has been measured."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.api import load
from pic_jax.compressors.registry import make_compressor
from pic_jax.config import CompressorConfig, LoraConfig
from pic_jax.evaluation import costs, flops, harness, ratios
from pic_jax.masks import make_layout
from pic_jax.models.decoder import Decoder


@pytest.fixture(scope='module')
def trained(trained_workdir):
    return load(trained_workdir)


def test_a_method_costs_its_encoder_and_its_vectors_and_a_text_its_ids(trained):
    run, records = trained.run, harness.held_out(trained.run, 'test')
    k = {'pic': 5.5, 'shuffled_memory': 6.0, 'full_context': 22.0, 'no_context': 0.0}
    found = costs.costs(run, trained.trainable, records, k)
    assert list(found) == list(k)
    assert found['pic'].stored_bytes == 5.5 * 32 * 4
    assert found['full_context'].stored_bytes == 22 * 4
    assert found['no_context'].stored_bytes == 0
    tokens, lengths = np.zeros((1, 24), np.int32), np.array([24])
    whole = flops.count_flops(run.compressor.compress, run.base, trained.trainable, tokens, lengths)
    assert found['pic'].compression_flops == found['shuffled_memory'].compression_flops == whole
    assert found['full_context'].compression_flops == 0
    assert all(0 < cost.first_token_s < 10 for cost in found.values())


def test_what_a_method_stores_is_the_mean_over_the_examples_of_all_tasks(monkeypatch, trained):
    rows = [
        harness.Row('pic', 8.0, 24.0, 'qa', 'nats_per_token', 2.5, 2.0, 3.0, 30),
        harness.Row('pic', 8.0, 24.0, 'qa', 'f1', 0.5, 0.4, 0.6, 30),
        harness.Row('pic', 8.0, 6.0, 'icl', 'nats_per_token', 2.5, 2.0, 3.0, 10),
    ]
    monkeypatch.setattr(ratios, 'costs', lambda run, trainable, records, k: k)
    table = ratios.Table(trained.run.config.compressor.ratio, rows, {})
    assert ratios.costs_of(trained.run, trained.trainable, [], table) == {'pic': (24 * 30 + 6 * 10) / 40}


@pytest.mark.parametrize('options', [
    dict(method='icae'), dict(method='pic', chunk_size=8), dict(method='icformer'), dict(method='mean_pool'),
    dict(method='icae', window=8), dict(method='icformer', window=8),
])  # fmt: skip
def test_useful_operations_leave_out_exactly_the_pairs_that_are_masked(tiny_config, random_params, options):
    decoder = Decoder(tiny_config())
    config = CompressorConfig.preset(ratio=4, context_length=24, lora=LoraConfig(0), **options)
    compressor, base = make_compressor(config, decoder), random_params(decoder)
    trainable = jax.eval_shape(compressor.init, jax.random.key(0), base)
    found = flops.compression_flops(compressor, base, trainable, 24)
    tokens, lengths = jnp.zeros((1, 24), jnp.int32), jnp.array([24])
    assert found.executed == flops.count_flops(compressor.compress, base, trainable, tokens, lengths)
    layout = make_layout(config, config.window or config.chunk_size or 24)
    mask = layout.dense_mask()
    n = layout.num_tokens
    mask = {'icformer': mask[n:], 'mean_pool': mask[:n, :n]}.get(config.method, mask)
    layers = 3 if config.method == 'icformer' else 2
    rows = 24 // (config.chunk_size or n)  # what is encoded on its own: a window, or an independent chunk
    assert found.executed - found.useful == rows * (~mask).sum() * layers * 4 * (4 * 8)
    assert 0 < found.useful < found.executed


def test_a_length_that_the_window_does_not_divide_is_refused(trained):
    config = dataclasses.replace(trained.run.config.compressor, window=16)
    compressor = make_compressor(config, trained.run.decoder)
    with pytest.raises(ValueError, match=r'num_tokens=24 .* compressor\.window=16'):
        flops.compression_flops(compressor, trained.run.base, trained.trainable, 24)
    run = dataclasses.replace(
        trained.run, config=dataclasses.replace(trained.run.config, compressor=config), compressor=compressor
    )
    assert costs.encoder_flops(run, trained.trainable) == flops.compression_flops(
        compressor, run.base, trained.trainable, 32
    ).executed  # fmt: skip
