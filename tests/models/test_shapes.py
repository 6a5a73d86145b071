"""The table of published shapes against the published parameter counts, and against transformers' own models."""

import dataclasses
import functools
import math

import jax
import pytest

from pic_jax.models.decoder import Decoder, init_params
from pic_jax.models.hf import read_config
from pic_jax.models.shapes import SHAPES, known_shape

# `total_parameters` of the index files, or the sizes on the model cards.
PUBLISHED = {
    'meta-llama/Llama-3.2-1B': 1_235_814_400,
    'meta-llama/Llama-2-7b-hf': 6_738_415_616,
    'meta-llama/Llama-3.1-8B': 8_030_261_248,
    'meta-llama/Llama-2-70b-hf': 68_976_648_192,
}


def test_every_shape_is_checked():
    assert SHAPES.keys() == PUBLISHED.keys()


@pytest.mark.parametrize('name', SHAPES)
def test_parameters_are_those_of_the_published_model(name):
    params = jax.eval_shape(functools.partial(init_params, Decoder(SHAPES[name])), jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == PUBLISHED[name]


@pytest.mark.parametrize('name', SHAPES)
def test_a_config_file_of_that_shape_reads_as_the_table_says(name, tmp_path):
    """Written by transformers' LlamaConfig, which knows the names and the rope types."""
    from transformers import LlamaConfig

    shape = SHAPES[name]
    values = dataclasses.asdict(shape)
    rope = {f'rope_{key}' if key in ('theta', 'type') else key: value for key, value in values.pop('rope').items()}
    if shape.rope.type == 'default':
        rope = {key: rope[key] for key in ('rope_theta', 'rope_type')}
    eos = values.pop('eos_token_ids')
    LlamaConfig(**values, rope_parameters=rope, eos_token_id=eos[0]).save_pretrained(tmp_path)
    assert read_config(tmp_path) == shape


def test_head_sizes_and_ropes_of_llama_3():
    """Facts that no parameter count shows."""
    one, eight = SHAPES['meta-llama/Llama-3.2-1B'], SHAPES['meta-llama/Llama-3.1-8B']
    assert (one.head_dim, one.rope.factor, one.tie_word_embeddings) == (64, 32.0, True)
    assert (eight.head_dim, eight.rope.factor, eight.tie_word_embeddings) == (128, 8.0, False)
    assert one.rope == dataclasses.replace(eight.rope, factor=32.0)
    assert (one.rope.theta, one.rope.type, one.max_position_embeddings) == (500000.0, 'llama3', 131072)
    assert SHAPES['meta-llama/Llama-2-7b-hf'].rope.theta == SHAPES['meta-llama/Llama-2-70b-hf'].rope.theta == 10000.0


def test_a_base_is_known_with_and_without_a_revision():
    shape = SHAPES['meta-llama/Llama-2-7b-hf']
    assert known_shape('hub:meta-llama/Llama-2-7b-hf') == known_shape('hub:meta-llama/Llama-2-7b-hf@main') == shape
    assert known_shape('hub:meta-llama/Llama-9') is None
    assert known_shape('meta-llama/Llama-2-7b-hf') is None  # the path of a folder
