"""A tiny frozen target, and compressors of it whose every trained tensor matters."""

import functools

import jax
import jax.numpy as jnp
import pytest

from pic_jax.compressors import registry
from pic_jax.config import CompressorConfig, LoraConfig
from pic_jax.models.decoder import Decoder


@pytest.fixture(scope='session')
def make_model(tiny_config, random_params):
    """A function from overrides to (decoder, weights of ordinary size)."""

    @functools.cache
    def make(**overrides):
        decoder = Decoder(tiny_config(**overrides))
        return decoder, random_params(decoder)

    return make


@pytest.fixture(scope='session')
def model(make_model):
    return make_model()


@pytest.fixture(scope='session')
def make_compressor(model):
    """A function from a preset and options to (compressor, trainable); nothing in `trainable` is at its start value."""

    def make(method, model=model, **options):
        decoder, base = model
        options = {'ratio': 2, 'context_length': 16, 'lora': LoraConfig(rank=2, alpha=3.0)} | options
        compressor = registry.make_compressor(CompressorConfig.preset(method, **options), decoder)
        trainable = compressor.init(jax.random.key(1), base)

        def moved(path, leaf):
            return leaf + 0.1 * jax.random.normal(jax.random.key(len(str(path))), leaf.shape)

        return compressor, jax.tree_util.tree_map_with_path(moved, trainable)

    return make


@pytest.fixture(scope='session')
def compress():
    """`compressor.compress`, jitted once for each compressor and shape."""

    @functools.partial(jax.jit, static_argnums=0)
    def run(compressor, base, trainable, tokens_BS, lengths_B):
        return compressor.compress(base, trainable, tokens_BS, lengths_B)

    return lambda compressor, base, trainable, tokens_BS, lengths: run(
        compressor, base, trainable, jnp.asarray(tokens_BS, jnp.int32), jnp.asarray(lengths, jnp.int32)
    )
