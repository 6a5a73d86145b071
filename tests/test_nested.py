"""Which vectors a coarser ratio keeps, by hand; and the rule of exactness against the layouts themselves."""

import dataclasses
import itertools
import subprocess
import sys

import numpy as np
import pytest

from pic_jax.budget import chunk_lengths, memory_slots, num_embeddings
from pic_jax.config import CONTEXT_SEES, MEMORY_EMBEDDINGS, MEMORY_SEES_MEMORY, POSITIONS, CompressorConfig
from pic_jax.errors import ConfigError
from pic_jax.masks import make_layout
from pic_jax.nested import at_ratio, kept_embeddings, kept_slots, served_ratios, trainable_at, why_not_shrinkable


def nested(method='pic', **options) -> CompressorConfig:
    given = {'ratio': 2, 'ratios': (2, 4), 'context_length': 16} | ({'chunk_size': 8} if method == 'pic' else {})
    return CompressorConfig.preset(method, **(given | options))


@pytest.mark.parametrize(
    ('tokens', 'chunk_size', 'window', 'split', 'expected'),
    [
        (38, 16, None, 'fixed', [16, 16, 6]),
        (16, 16, None, 'fixed', [16]),
        (3, 16, None, 'fixed', [3]),
        (10, None, None, 'fixed', [10]),
        (22, None, 10, 'fixed', [10, 10, 2]),
        (22, None, 10, 'even', [8, 8, 6]),
        (22, 4, 10, 'fixed', [4, 4, 2, 4, 4, 2, 2]),
        (22, 4, 10, 'even', [4, 4, 4, 4, 4, 2]),
        (7, 4, 10, 'even', [4, 3]),
    ],
)
def test_how_a_context_is_cut(tokens, chunk_size, window, split, expected):
    assert chunk_lengths(tokens, chunk_size, window, split) == expected


@pytest.mark.parametrize(
    ('chunks', 'ratio', 'coarser', 'kept'),
    [
        # pic, two full chunks of 16 and 6 tokens: 4 + 4 + 2 slots at ratio 4.
        ([16, 16, 6], 4, 4, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ([16, 16, 6], 4, 8, [0, 1, 4, 5, 8]),
        ([16, 16, 6], 4, 16, [0, 4, 8]),
        # A short last chunk that is longer than the coarser group keeps two of its slots.
        ([16, 10], 4, 8, [0, 1, 4, 5]),
        # icae: the first k'.
        ([10], 2, 4, [0, 1, 2]),
        ([10], 3, 10, [0]),
        # Windows of 10, each cut by itself; even windows of 8, 8 and 6.
        ([4, 4, 2, 4, 4, 2, 2], 2, 4, [0, 2, 4, 5, 7, 9, 10]),
        ([8, 8, 6], 2, 4, [0, 1, 4, 5, 8, 9]),
    ],
)
def test_the_first_slots_of_each_chunk_survive(chunks, ratio, coarser, kept):
    assert kept_slots(chunks, ratio, coarser).tolist() == kept


@pytest.mark.parametrize(
    ('config', 'ratio', 'kept'),
    [
        (nested(), 4, [0, 1]),
        (nested(ratios=(2, 4, 8)), 8, [0]),
        (nested(memory_embeddings='per_window'), 4, [0, 1, 4, 5]),
        (nested(memory_embeddings='per_window', context_length=19), 4, [0, 1, 4, 5, 8]),
        (nested(memory_embeddings='per_window', window=12), 4, [0, 1, 4]),
        (nested('icae'), 4, [0, 1, 2, 3]),
        (nested('icae', ratios=(2, 3)), 3, [0, 1, 2, 3, 4, 5]),
        (nested('icae', window=6), 4, [0, 1]),
    ],
)
def test_learned_vectors_of_a_coarser_ratio(config, ratio, kept):
    assert kept_embeddings(config, ratio).tolist() == kept
    trainable = {'memory_embeddings': np.arange(num_embeddings(config))[:, None], 'lora': 'kept'}
    view = trainable_at(config, trainable, ratio)
    assert view['memory_embeddings'][:, 0].tolist() == kept
    assert len(kept) == num_embeddings(at_ratio(config, ratio))
    assert view['lora'] == 'kept'
    assert trainable_at(config, trainable, config.ratio) is trainable


def every_config():
    """Each distinct layout of pic and icformer with chunks, and of one chunk."""
    for context, memory, embeddings, positions, origin in itertools.product(
        CONTEXT_SEES, MEMORY_SEES_MEMORY, MEMORY_EMBEDDINGS, POSITIONS, ('window', 'chunk')
    ):
        options = dict(memory_sees_memory=memory, memory_embeddings=embeddings, positions=positions, chunk_size=4,
                       position_origin=origin, ratio=1, ratios=(1, 2))  # fmt: skip
        if origin == 'window' or (context, memory) == ('chunk', 'own'):
            yield nested(**options, context_sees=context)
        if context == 'causal' and (origin == 'window' or memory == 'own'):
            yield nested('icformer', **options)
    for method, memory in itertools.product(('icae', 'epl', 'icformer'), MEMORY_SEES_MEMORY):
        yield nested(method, memory_sees_memory=memory, ratio=1, ratios=(1, 2))


def same_dependence(config: CompressorConfig, length: int) -> bool:
    """Whether the slots that ratio 2 keeps reach nothing that it drops, and all they reach has the ids of ratio 2."""
    fine, coarse = make_layout(config, 13), make_layout(at_ratio(config, 2), 13)
    lengths, tokens = np.array([length]), np.arange(length)
    chunks = chunk_lengths(length, config.chunk_size, config.window, config.window_split)
    kept = 13 + kept_slots(chunks, 1, 2)
    reached = np.zeros(len(fine.kind), bool)
    reached[kept] = True
    mask = fine.dense_mask() & fine.valid(lengths)
    while True:
        grown = reached | mask[reached].any(axis=0)
        if (grown == reached).all():
            break
        reached = grown
    both = np.concatenate([tokens[reached[:length]], kept])
    in_coarse = np.concatenate([tokens[reached[:length]], np.flatnonzero(coarse.valid(lengths)[0])[length:]])
    same_ids = (fine.positions(lengths)[0, both] == coarse.positions(lengths)[0, in_coarse]).all()
    assert (fine.embedding_index[kept - 13] == kept_embeddings(config, 2)[coarse.embedding_index[
        in_coarse[len(both) - len(kept):] - 13]]).all()  # fmt: skip
    return bool(same_ids) and int(reached[13:].sum()) == len(kept)


def test_the_rule_says_what_the_layouts_say():
    found = {'': 0, 'refused': 0}
    for config in every_config():
        exact = all(same_dependence(config, length) for length in range(1, 14))
        assert (why_not_shrinkable(config) == '') is exact, (config, why_not_shrinkable(config))
        found['' if exact else 'refused'] += 1
    assert min(found.values()) >= 8


@pytest.mark.parametrize(
    ('config', 'said'),
    [
        (nested(), 'positions=spread'),
        (nested('epl'), 'positions=spread'),
        (nested('mean_pool'), 'mean_pool'),
        (nested(positions='end'), 'positions=end with position_origin=window'),
        (nested(positions='interleaved'), 'positions=interleaved with position_origin=window'),
        (nested(positions='interleaved', context_sees='chunk+memory'), 'context_sees=chunk+memory'),
        (nested(positions='interleaved', memory_sees_memory='previous'), 'memory_sees_memory=previous'),
        (nested('epl', decoder_positions='spread'), 'decoder_positions=spread'),
        (nested('constant_memory', positions='spread', decoder_positions='spread'), 'decoder_positions=spread'),
        (nested('constant_memory', positions='spread'), ''),
        (nested(positions='end', position_origin='chunk'), ''),
        (nested(positions='interleaved', position_origin='chunk'), ''),
        (nested('icae', window=8, window_split='even'), ''),
        (nested('icformer', memory_sees_memory='previous'), ''),
    ],
)
def test_why_contexts_cannot_be_shrunk(config, said):
    reason = why_not_shrinkable(config)
    assert said in reason if said else reason == ''


def test_one_ratio_of_a_nested_compressor_is_an_ordinary_compressor():
    config = nested(ratios=(2, 4, 8))
    assert served_ratios(config) == (2, 4, 8)
    ordinary = dataclasses.replace(nested(ratios=()), ratio=4)
    assert at_ratio(config, 4) == ordinary
    assert at_ratio(ordinary, 4) == ordinary
    assert served_ratios(ordinary) == (4,)
    assert memory_slots(at_ratio(config, 8), 19) == 3
    with pytest.raises(ConfigError, match=r'ratio=3 is not valid: the compressor serves 2, 4, 8$'):
        at_ratio(config, 3)
    with pytest.raises(ConfigError, match='serves 4, the only ratio it was trained for'):
        at_ratio(ordinary, 8)


@pytest.mark.parametrize('module', ['pic_jax.budget', 'pic_jax.nested'])
def test_importing_it_imports_no_jax(module):
    code = f'import sys, {module}; print("jax" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'False'
