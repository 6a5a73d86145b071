"""IC-Former: the paper's sizes and costs, who sees whom, and that the target LLM never runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.compressors.icformer import ICFormer
from pic_jax.compressors.llm import LLMCompressor
from pic_jax.compressors.registry import make_compressor as make_plain
from pic_jax.config import CompressorConfig, DecoderConfig, IcformerConfig, LoraConfig
from pic_jax.errors import ConfigError
from pic_jax.evaluation.flops import count_flops
from pic_jax.models.decoder import Decoder, init_params

LLAMA2_7B = DecoderConfig(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=32, head_dim=128, max_position_embeddings=4096,
)  # fmt: skip
TOKENS = np.arange(3, 19)[None]


@pytest.fixture(scope='module')
def llama2_7b():
    """A function from a method to (compressor of 512 tokens to 128 vectors, base, trainable), shapes only."""
    decoder = Decoder(LLAMA2_7B, attention='dense')
    base = jax.eval_shape(functools.partial(init_params, decoder), jax.random.key(0))

    def make(method):
        config = CompressorConfig.preset(method, ratio=4, context_length=512, lora=LoraConfig(0))
        compressor = make_plain(config, decoder)
        return compressor, base, jax.eval_shape(compressor.init, jax.random.key(0), base)

    return make


def test_on_llama2_7b_it_has_the_papers_parameters(llama2_7b):
    _, _, trainable = llama2_7b('icformer')
    trained = [trainable['icformer'], trainable['memory_embeddings']]
    assert sum(leaf.size for leaf in jax.tree.leaves(trained)) == 607_690_752
    assert trainable['memory_embeddings'].shape == (128, 4096)
    assert trainable['projector'] == {}


def flops(compressor, base, trainable, n=512):
    tokens, lengths = jax.ShapeDtypeStruct((1, n), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.int32)
    return count_flops(compressor.compress, base, trainable, tokens, lengths)


def test_its_flops_are_those_of_the_papers_table(llama2_7b):
    # Table 2, summed over its rows per layer (2 operations per multiply-add): 2.625e11, and 8.504e12 for ICAE.
    k, s, h, m = 128, 512, 4096, 11008
    queries_and_output, keys_and_values = 2 * 2 * k * h * h, 2 * 2 * (s + k) * h * h
    scores_and_sums, mlp = 2 * 2 * k * (s + k) * h, 3 * 2 * k * h * m
    ours = flops(*llama2_7b('icformer'))
    assert ours == 3 * (queries_and_output + keys_and_values + scores_and_sums + mlp)
    assert ours == pytest.approx(2.625e11, rel=1e-3)
    icae = flops(*llama2_7b('icae'))
    assert icae == pytest.approx(8.504e12, rel=1e-3)
    assert icae / ours == pytest.approx(32.4, rel=0.02)


def test_the_target_is_not_run(llama2_7b):
    for method, runs_it in ('icformer', False), ('icae', True):
        compressor, base, trainable = llama2_7b(method)
        tokens, lengths = jax.ShapeDtypeStruct((1, 64), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.int32)
        closed = jax.make_jaxpr(compressor.compress)(base, trainable, tokens, lengths)
        used = {id(var) for eqn in closed.jaxpr.eqns for var in eqn.invars}
        paths = [path[0].key for path, _ in jax.tree_util.tree_leaves_with_path(base)]
        read = {path for path, var in zip(paths, closed.jaxpr.invars, strict=False) if id(var) in used}
        assert read == ({'embed_tokens', 'layers', 'norm'} if runs_it else {'embed_tokens'})


@pytest.mark.slow
def test_it_starts_with_zero_digests_and_asks_for_any_size(model):
    compressor = make_plain(CompressorConfig.preset('icformer', ratio=2, context_length=16), model[0])
    trainable = compressor.init(jax.random.key(0), model[1])
    assert isinstance(compressor, ICFormer)
    assert not np.any(trainable['memory_embeddings'])
    assert not any(np.any(vector) for vector in trainable['special'].values())
    layers = trainable['icformer']['layers']
    assert layers['cross_attn']['q_proj']['kernel'].shape == (3, 32, 32)
    assert layers['mlp']['down_proj']['kernel'].shape == (3, 48, 32)
    assert np.std(layers['cross_attn']['k_proj']['kernel']) == pytest.approx(0.02, rel=0.1)
    # Depth, heads and inner size are options.
    options = IcformerConfig(layers=5, heads=3, head_dim=10, intermediate_size=20)
    wide = make_plain(CompressorConfig.preset('icformer', ratio=2, context_length=16, icformer=options), model[0])
    layers = wide.init(jax.random.key(0), model[1])['icformer']['layers']
    assert layers['cross_attn']['o_proj']['kernel'].shape == (5, 30, 32)
    assert layers['mlp']['up_proj']['kernel'].shape == (5, 32, 20)


def influences(compressor, base, trainable, length):
    """How much memory vector i moves with the word at place s [k, S], and with digest j [k, k]."""
    tokens_1S, lengths_1 = jnp.asarray(TOKENS), jnp.array([length])

    def memory(table_VD, digests_kD):
        words = base | {'embed_tokens': {'embedding': table_VD}}
        changed = trainable | {'memory_embeddings': digests_kD}
        return compressor.compress(words, changed, tokens_1S, lengths_1).embeddings[0]

    table_VD = base['embed_tokens']['embedding']
    # Not jax.jacrev: jaxlib 0.10.2 for CPUs (its YNN fusions) gets this batched backward pass of several rows wrong.
    by_word, by_digest = jax.jit(jax.jacfwd(memory, argnums=(0, 1)))(table_VD, trainable['memory_embeddings'])
    return np.abs(by_word).max((1, 3))[:, TOKENS[0]], np.abs(by_digest).max((1, 3))


def test_a_digest_sees_the_whole_context_and_the_digests_up_to_itself(model, make_compressor):
    compressor, trainable = make_compressor('icformer')
    by_word, by_digest = influences(compressor, model[1], trainable, 12)
    assert by_word[:6, :12].min() > 1e-6
    assert not by_word[:, 12:].any()  # padding
    assert not by_word[6:].any()
    assert not np.triu(by_digest, 1).any()
    assert by_digest[np.tril_indices(6)].min() > 1e-6


def test_chunks_cut_what_a_digest_sees(model, make_compressor):
    compressor, trainable = make_compressor('icformer', chunk_size=4)
    by_word, by_digest = influences(compressor, model[1], trainable, 16)
    own = np.arange(16)[None] // 4 == np.arange(8)[:, None] // 2
    assert by_word[own].min() > 1e-6
    assert not by_word[~own].any()
    assert [np.flatnonzero(row).tolist() for row in by_digest] == [
        [0], [0, 1], [2], [2, 3], [4], [4, 5], [6], [6, 7]
    ]  # fmt: skip


@pytest.mark.slow
def test_long_inputs_are_split_evenly(model, make_compressor, compress):
    split, trainable = make_compressor('icformer', window=8, window_split='even')
    whole, _ = make_compressor('icformer', context_length=8)
    memory = compress(split, model[1], trainable, TOKENS[:, :12], [12])
    parts = [compress(whole, model[1], trainable, part, [6]) for part in (TOKENS[:, :6], TOKENS[:, 6:12])]
    assert memory.lengths.tolist() == [6]
    expected = np.concatenate([part.embeddings[0, :3] for part in parts])
    np.testing.assert_allclose(memory.embeddings[0, :6], expected, atol=1e-6)


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(context_sees='chunk'), 'compressor.context_sees'),
        (dict(encoder_attention='bidirectional'), 'compressor.encoder_attention'),
        (dict(icformer=dict(layers=0)), r'compressor\.icformer\.layers=0'),
        (dict(icformer=dict(head_dim=7)), r'compressor\.icformer\.head_dim=7'),
    ],
)
def test_options_without_meaning_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        CompressorConfig.preset('icformer', **{
            key: IcformerConfig(**value) if key == 'icformer' else value for key, value in options.items()
        })  # fmt: skip


def test_a_context_beyond_the_digests_is_refused(model, make_compressor):
    compressor, trainable = make_compressor('icformer')
    with pytest.raises(ConfigError, match='17 tokens'):
        compressor.check_length(17)
    with pytest.raises(ConfigError, match='17 tokens'):
        compressor.compress(model[1], trainable, jnp.zeros((1, 17), jnp.int32), jnp.array([17]))
    assert not isinstance(compressor, LLMCompressor)
