"""How many position ids a memory is counted to take, against where compressors place the text behind it."""

import numpy as np
import pytest

from pic_jax.budget import decoder_positions
from pic_jax.config import CompressorConfig

LONGEST = 40


@pytest.mark.parametrize(
    ('method', 'options'),
    [
        ('epl', dict(ratio=5, window=12, window_split='even', decoder_positions='spread')),
        ('epl', dict(ratio=6, window=10, decoder_positions='spread')),
        ('epl', dict(ratio=7, decoder_positions='spread')),
        ('pic', dict(ratio=4, chunk_size=4, window=10, positions='spread', decoder_positions='spread')),
        ('pic', dict(ratio=2, chunk_size=4, window=10)),
        ('icae', dict(ratio=4, window=10, window_split='even')),
    ],
)
def test_no_context_takes_more_positions_than_are_counted(model, make_compressor, compress, method, options):
    """And some context takes as many: of all up to a length, by what `compress` gives for each."""
    compressor, trainable = make_compressor(method, context_length=LONGEST, **options)
    tokens = np.ones((LONGEST, LONGEST), np.int32)
    memory = compress(compressor, model[1], trainable, tokens, np.arange(LONGEST) + 1)
    counted = [decoder_positions(compressor.config, n) for n in range(1, LONGEST + 1)]
    assert counted == np.maximum.accumulate(np.asarray(memory.text_start)).tolist()


@pytest.mark.parametrize(
    ('method', 'options', 'num_tokens', 'expected'),
    [
        # Three windows of 355: the last group starts at 710 + 352.
        ('epl', dict(ratio=16, window=512, window_split='even', decoder_positions='spread'), 1063, 1062 + 7 + 1),
        ('epl', dict(ratio=64, window=100, decoder_positions='spread'), 101, 100 + 31 + 1),
        # 1,203 tokens are windows of 401, five slots each; 1,204 are 402, 402 and 400.
        ('icae', dict(ratio=100, window=500, window_split='even'), 1204, 15),
    ],
)
def test_positions_are_counted_for_the_worst_length(method, options, num_tokens, expected):
    assert decoder_positions(CompressorConfig.preset(method, **options), num_tokens) == expected
