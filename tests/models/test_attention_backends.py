"""Every attention backend against `dense` on every kind of layout: outputs, gradients, and what is not built."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pic_jax.config import CompressorConfig
from pic_jax.evaluation.flops import count_flops
from pic_jax.masks import CONTEXT, MEMORY
from pic_jax.models.attention import PatternMask, attend, choose
from pic_jax.patterns import BOTH, Pattern, causal

TOLERANCE = 1e-5  # float32, sums of up to a few hundred terms of size 1
CHUNKS = dict(chunk_size=32, ratio=8)
# name: (pattern of n tokens, n, batch, N, K, H)
CASES = {
    'chunk-local': (dict(method='pic', **CHUNKS), BOTH, BOTH, 96, 2, 4, 2, 16),
    'chunk-local, short last chunk': (dict(method='pic', **CHUNKS), BOTH, BOTH, 77, 2, 2, 2, 16),
    'memory of earlier chunks': (
        dict(method='pic', context_sees='chunk+memory', memory_sees_memory='previous', **CHUNKS), BOTH, BOTH, 300, 2, 4,
        2, 16,
    ),
    'context reads memory': (dict(method='pic', context_sees='chunk+memory', **CHUNKS), BOTH, BOTH, 111, 1, 2, 1, 16),
    'memory reads memory': (
        dict(method='pic', context_sees='chunk', memory_sees_memory='previous', **CHUNKS), BOTH, BOTH, 130, 2, 2, 2, 16
    ),
    'context causal': (dict(method='pic', context_sees='causal', **CHUNKS), BOTH, BOTH, 300, 2, 4, 1, 16),
    'context causal, memory reads memory': (
        dict(method='pic', context_sees='causal', memory_sees_memory='previous', **CHUNKS), BOTH, BOTH, 97, 2, 2, 2, 16
    ),
    'one window': (dict(method='icae', ratio=8, context_length=2000), BOTH, BOTH, 200, 2, 4, 2, 16),
    'one long window': (dict(method='icae', ratio=16, context_length=2000), BOTH, BOTH, 1100, 1, 2, 1, 8),
    'digests of a window': (dict(method='icformer', ratio=8, context_length=2000), (MEMORY,), BOTH, 190, 2, 2, 2, 16),
    'digests of chunks': (dict(method='icformer', **CHUNKS), (MEMORY,), BOTH, 150, 2, 2, 2, 16),
    'digests of a long window': (
        dict(method='icformer', ratio=4, context_length=2000), (MEMORY,), BOTH, 1100, 1, 1, 1, 8
    ),
    'tokens in both directions': (
        dict(method='mean_pool', ratio=4, encoder_attention='bidirectional'), (CONTEXT,), (CONTEXT,), 200, 2, 2, 2, 16
    ),
    'tokens of chunks in both directions': (
        dict(method='mean_pool', context_sees='chunk', encoder_attention='bidirectional', **CHUNKS), (CONTEXT,),
        (CONTEXT,), 120, 2, 2, 2, 16,
    ),
    'plain text': (dict(method='mean_pool', ratio=1), (CONTEXT,), (CONTEXT,), 133, 2, 4, 2, 80),
    'one token': (dict(method='pic', **CHUNKS), BOTH, BOTH, 1, 2, 2, 1, 16),
    'large chunks': (dict(method='pic', chunk_size=520, ratio=8), BOTH, BOTH, 1100, 2, 2, 1, 8),
    'large chunks in both directions': (
        dict(method='mean_pool', context_sees='chunk', encoder_attention='bidirectional', chunk_size=520, ratio=8),
        (CONTEXT,), (CONTEXT,), 1050, 1, 1, 1, 8,
    ),
    'digests of large chunks': (
        dict(method='icformer', chunk_size=520, ratio=8, context_length=2000), (MEMORY,), BOTH, 1100, 2, 1, 1, 8
    ),
    'memory of earlier large chunks': (
        dict(method='pic', context_sees='chunk+memory', memory_sees_memory='previous', chunk_size=520, ratio=8), BOTH,
        BOTH, 1100, 1, 1, 1, 8,
    ),
}  # fmt: skip


def difference(backend, pattern, B, N, K, H, seed=0):
    """Largest difference to `dense` of the output and of the three gradients, on queries that are not padding."""
    (T, S), n = pattern.shape, pattern.num_tokens
    rng = np.random.default_rng(seed)
    q, k, v, weight = (
        jnp.asarray(rng.standard_normal((B, length, heads, H)), jnp.float32)
        for length, heads in ((T, N), (S, K), (S, K), (T, N))
    )
    lengths_B = np.array([n, *rng.integers(1, n + 1, B - 1)])
    valid_BT, valid_BS = (cells.source[None] < lengths_B[:, None] for cells in (pattern.query_cells, pattern.key_cells))
    mask = PatternMask(jnp.asarray(valid_BS), pattern)
    weight *= valid_BT[:, :, None, None]

    @functools.partial(jax.jit, static_argnums=0)
    def run(backend, *arrays):
        def total(*arrays):
            out = attend(*arrays, mask, backend, 'cpu')
            return jnp.sum(out * weight), out * valid_BT[:, :, None, None]

        (_, out), gradients = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(*arrays)
        return out, *gradients

    found, wanted = (run(name, q, k, v) for name in (backend, 'dense'))
    assert all(float(jnp.abs(x).max()) > 1e-2 for x in wanted[3:])
    # In numpy: neither Python's max nor, on a CPU, jnp.max gives nan where there is one.
    return float(np.max([np.abs(np.asarray(x - y)).max() for x, y in zip(found, wanted, strict=True)]))


def case_pattern(name):
    options, queries, keys, n, *_ = CASES[name]
    return Pattern(CompressorConfig.preset(**options), n, queries, keys)


@pytest.mark.parametrize('name', CASES)
def test_structured_equals_dense(name):
    assert difference('structured', case_pattern(name), *CASES[name][4:]) < TOLERANCE


SLOW_SPLASH = set(CASES) - {'chunk-local, short last chunk', 'context reads memory', 'plain text'}


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=pytest.mark.slow if name in SLOW_SPLASH else ()) for name in CASES]
)
def test_splash_equals_dense(name):
    """The TPU kernel in Pallas' interpreter."""
    assert difference('splash', case_pattern(name), *CASES[name][4:]) < TOLERANCE


@st.composite
def drawn(draw):
    """Any layout, of any length up to some chunks, with any heads."""
    method = draw(st.sampled_from(['pic', 'pic', 'pic', 'icae', 'icformer', 'mean_pool']))
    ratio = draw(st.sampled_from([1, 2, 4]))
    options, queries, keys = dict(ratio=ratio, context_length=400), BOTH, BOTH
    chunk = draw(st.sampled_from([4, 8, 20, 64]))
    if method == 'pic':
        options |= dict(
            chunk_size=chunk,
            context_sees=draw(st.sampled_from(['causal', 'chunk', 'chunk+memory'])),
            memory_sees_memory=draw(st.sampled_from(['own', 'previous'])),
        )
    elif method == 'icformer':
        options |= dict(chunk_size=draw(st.sampled_from([None, chunk])))
        queries = (MEMORY,)
    elif method == 'mean_pool':
        options |= dict(
            encoder_attention=draw(st.sampled_from(['causal', 'bidirectional'])),
            **draw(st.sampled_from([{}, dict(chunk_size=chunk, context_sees='chunk')])),
        )
        queries = keys = (CONTEXT,)
    K = draw(st.sampled_from([1, 2]))
    pattern = Pattern(CompressorConfig.preset(method, **options), draw(st.integers(1, 330)), queries, keys)
    return pattern, draw(st.integers(1, 3)), K * draw(st.sampled_from([1, 3])), K, draw(st.sampled_from([4, 8]))


@pytest.mark.slow
@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(drawn(), st.integers(0, 2**31))
def test_structured_equals_dense_on_any_layout(case, seed):
    assert difference('structured', *case, seed=seed) < TOLERANCE


@pytest.mark.parametrize('wrong', ['a block sees its neighbour', 'a segment ends too early'])
def test_a_wrong_block_shows(monkeypatch, wrong):
    pattern = case_pattern('context causal')
    right = pattern.parts

    def broken(self):
        tokens, slots = right
        if wrong == 'a segment ends too early':
            segments = tuple(each._replace(far=each.far - 1) for each in tokens.segments)
            return tokens._replace(segments=segments), slots
        return tokens, slots._replace(own=tuple(span._replace(start=span.start + 1) for span in slots.own))

    monkeypatch.setattr(Pattern, 'parts', property(broken))
    assert difference('structured', pattern, *CASES['context causal'][4:]) > 100 * TOLERANCE


@pytest.mark.parametrize('place', range(3))
def test_a_gradient_that_is_no_number_shows(monkeypatch, place):
    @jax.custom_vjp
    def zero(x):
        return jnp.zeros(())

    zero.defvjp(lambda x: (jnp.zeros(()), x), lambda x, _: (jnp.full_like(x, jnp.nan),))

    def broken(*arguments, attend=attend):
        out, backend = attend(*arguments), arguments[4]
        return out if backend == 'dense' else out + zero(arguments[place])

    monkeypatch.setitem(globals(), 'attend', broken)
    assert np.isnan(difference('structured', case_pattern('chunk-local'), *CASES['chunk-local'][4:]))


def sizes(text):
    """Elements of every array in a program's text."""
    return {
        int(np.prod([int(size) for size in found.split('x')])) for found in re.findall(r'<((?:\d+x)*\d+)x[a-z]', text)
    }


@pytest.mark.parametrize(
    'options',
    [
        dict(method='pic', chunk_size=256, ratio=16),
        dict(method='pic', chunk_size=256, ratio=16, context_sees='chunk+memory', memory_sees_memory='previous'),
        dict(method='pic', chunk_size=256, ratio=16, context_sees='causal'),
        dict(method='icae', ratio=16, context_length=8192),
    ],
)
def test_structured_builds_no_array_of_all_pairs(options):
    pattern = Pattern(CompressorConfig.preset(**options), 8192)
    T, S = pattern.shape
    array = jax.ShapeDtypeStruct((1, S, 1, 8), jnp.float32)
    mask = PatternMask(jnp.ones((1, S), bool), pattern)

    def total(backend, *arrays):
        return jnp.sum(attend(*arrays, mask, backend, 'cpu'))

    for program in (total, jax.grad(total, argnums=(1, 2, 3))):
        largest = {
            backend: max(sizes(jax.jit(program, static_argnums=0).lower(backend, *[array] * 3).as_text()))
            for backend in ('structured', 'dense')
        }
        assert largest['dense'] >= T * S
        assert largest['structured'] <= T * S / 8


def flops(backend, pattern):
    """Operations of the two products over the pairs that a backend computes, in pairs."""
    T, S = pattern.shape
    q, k = (jax.ShapeDtypeStruct((1, length, 1, 16), jnp.float32) for length in (T, S))
    mask = PatternMask(jnp.ones((1, S), bool), pattern)
    return count_flops(lambda q, k, v: attend(q, k, v, mask, backend, 'cpu'), q, k, k) / (2 * 2 * 16)


@pytest.mark.parametrize('name', CASES)
def test_operations_are_counted_by_backend(name):
    pattern = case_pattern(name)
    T, S = pattern.shape
    seen = pattern.dense().sum()
    assert flops('dense', pattern) == T * S
    assert flops('structured', pattern) == pattern.block_pairs >= seen
    if name in ('chunk-local', 'memory of earlier chunks', 'context causal'):
        assert pattern.block_pairs < 0.8 * T * S


@pytest.mark.parametrize('options', [{}, dict(context_sees='chunk+memory', memory_sees_memory='previous')])
def test_large_chunks_are_blocks_too(options):
    """Twice the chunk is twice the pairs, not the whole context."""
    pairs = {
        size: Pattern(CompressorConfig.preset('pic', ratio=16, chunk_size=size, **options), 32768).block_pairs
        for size in (512, 1024)
    }
    assert pairs[512] < pairs[1024] < 2 * pairs[512]


def test_a_kernel_counts_for_every_cell_of_its_grid():
    pattern = Pattern(CompressorConfig.preset('pic', chunk_size=256, ratio=16), 1024)
    assert flops('splash', pattern) == 1152**2  # 1,088 positions in blocks of 128; the kernel skips most of them


def test_auto_says_what_it_picks_and_why():
    assert choose('dense', 'tpu', causal(4096)) == ('dense', 'attention=dense')
    assert choose('auto', 'tpu', causal(64)).backend == 'dense'
    picked = choose('auto', 'tpu', causal(4096))
    assert picked.backend == 'splash'
    assert '4096 x 4096' in picked.why
    assert 'TPU' in picked.why
    assert choose('auto', 'gpu', causal(4096)).backend == 'structured'
    assert choose('auto', 'cpu', causal(4096)).backend == 'structured'


@pytest.mark.parametrize(('tokens', 'backend'), [(8192, 'dense'), (16384, 'structured')])
def test_auto_is_dense_where_blocks_would_leave_out_little(tokens, backend):
    config = CompressorConfig.preset('icformer', ratio=16, context_length=tokens)
    picked = choose('auto', 'cpu', Pattern(config, tokens, (MEMORY,)))
    assert picked.backend == backend
    assert f'{tokens // 16} x {tokens // 16 * 17}' in picked.why


def test_a_row_that_sees_nothing_is_finite():
    pattern = causal(40)
    q = jnp.asarray(np.random.default_rng(0).standard_normal((1, 40, 1, 8)), jnp.float32)
    mask = PatternMask(jnp.zeros((1, 40), bool), pattern)
    for backend in ('structured', 'splash'):
        gradient = jax.grad(lambda q, backend=backend: jnp.sum(attend(q, q, q, mask, backend, 'cpu')))(q)
        assert jnp.isfinite(gradient).all()
