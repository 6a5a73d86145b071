"""Parts of the demo; the whole is run by `make demo`."""

import io
import types

import numpy as np
import pytest

from pic_jax.cli.demo import OVERRIDES, Named, demo_config, gain
from pic_jax.cli.settings import resolve
from pic_jax.run import open_run
from pic_jax.training.start import initial_trainable


def test_the_gain_is_paired_by_question():
    contexts = np.arange(4)
    records = [types.SimpleNamespace(golds=(gold,), context=contexts[at : at + 1]) for at, gold in enumerate('abcd')]
    value, low, high = gain(['a', 'b', 'c', 'x'], ['a', 'x', 'x', 'd'], records)
    assert value == pytest.approx((0 + 1 + 1 - 1) / 4)
    assert low < value < high
    assert gain(['a'] * 4, ['a'] * 4, records) == (0, 0, 0)
    together = [types.SimpleNamespace(golds=record.golds, context=contexts) for record in records]
    assert gain(['a', 'b', 'c', 'x'], ['a', 'x', 'x', 'd'], together) == (value, value, value)  # one document


def test_named_lines():
    stream = io.StringIO()
    print('one\n\ntwo', file=Named(stream, 'pic'))
    assert stream.getvalue() == 'pic: one\n\npic: two\n'


@pytest.mark.parametrize('method', OVERRIDES)
def test_every_method_starts_from_weights_that_ship(method):
    """Of the size, and with the settings, that the demo uses."""
    config = resolve(demo_config().to_dict(), [f'--config.{word}' for word in OVERRIDES[method]])
    run = open_run(config)
    assert run.config.compressor.method == method
    assert (config.start == '') == (method == 'constant_memory')
    assert initial_trainable(run)['memory_embeddings'].shape == run.init_trainable()['memory_embeddings'].shape
