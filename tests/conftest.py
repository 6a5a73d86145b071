"""What every test runs under, and the fixtures that many share."""

import os

# Before jax is imported. Environment variables, so that programs which tests start compute bit for bit the same.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')  # tests mostly compile: this halves their time

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.config import DecoderConfig
from pic_jax.models.decoder import Decoder, init_params

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_default_matmul_precision', 'highest')

TINY = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=128,
)  # fmt: skip


@pytest.fixture(scope='session')
def assets() -> Path:
    """The folder of real data and checkpoints; tests that need it are skipped without it."""
    folder = os.environ.get('PIC_JAX_ASSETS')
    if not folder:
        pytest.skip('needs real data: set PIC_JAX_ASSETS to its folder')
    return Path(folder)


@pytest.fixture(scope='session')
def tiny_config():
    """A function from overrides to the DecoderConfig of a decoder that runs in no time (D=32, N=4, K=2, L=2)."""

    def make(**overrides) -> DecoderConfig:
        return DecoderConfig(**(TINY | overrides))

    return make


@pytest.fixture(scope='session')
def random_params():
    """A function from a decoder to parameters under which everything matters, word embeddings most of all."""
    scale = {'embedding': 1.0, 'kernel': 0.2, 'bias': 0.2}

    def make(decoder: Decoder, seed: int = 0):
        rng = np.random.default_rng(seed)

        def leaf(path, spec):
            noise = rng.standard_normal(spec.shape).astype(np.float32)
            return jnp.asarray(scale[path[-1].key] * noise if path[-1].key in scale else 1 + 0.3 * noise)

        shapes = jax.eval_shape(functools.partial(init_params, decoder), jax.random.key(0))
        return jax.tree_util.tree_map_with_path(leaf, shapes)

    return make
