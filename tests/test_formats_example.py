"""The worked example of docs/FORMATS.md holds."""

import re
from pathlib import Path

import numpy as np
import pytest

from pic_jax.compressors.slots import decoder_memory
from pic_jax.config import CompressorConfig
from pic_jax.masks import make_layout

N = 11


@pytest.fixture(scope='module')
def example() -> dict[str, list[int]]:
    """What stands before the numbers of a line -> the numbers."""
    text = (Path(__file__).parents[1] / 'docs' / 'FORMATS.md').read_text()
    (block,) = re.findall(r'\*\*Example\.\*\* 11 tokens.*?```\n(.*?)```', text, re.DOTALL)
    lines = [re.fullmatch(r'(\S.*?) {2,}([\d ]+)', line) for line in block.splitlines()]
    return {line[1]: [int(number) for number in line[2].split()] for line in lines}


def layout(**options):
    config = dict(chunk_size=4, ratio=2, context_sees='chunk', memory_sees_memory='own', context_length=16) | options
    return make_layout(CompressorConfig.preset('pic', **config), N)


def test_places(example):
    cells = layout().cells
    for name in 'chunk', 'index', 'source':
        assert example.pop(name) == getattr(cells, name).tolist()
    for name, options in (
        ('positions=spread', dict(positions='spread')),
        ('positions=interleaved', dict(positions='interleaved')),
        ('positions=end', dict(positions='end')),
        ('end, position_origin=chunk', dict(positions='end', position_origin='chunk')),
    ):
        assert example.pop(name) == layout(**options).positions(np.array([N]))[0].tolist()
    for table in 'per_chunk', 'per_window':
        assert example.pop(f'row of {table}') == layout(memory_embeddings=table).embedding_index.tolist()
    mask = layout().dense_mask()
    assert example.pop('token 6 sees') == mask[6].tolist()
    assert example.pop('slot 1 of chunk 1 sees') == mask[N + 3].tolist()
    config = layout(decoder_positions='spread').config
    starts = layout().cells.source[None, N:]
    memory = decoder_memory(config, {'embeddings': np.zeros((1, 6, 1))}, starts, np.ones((1, 6), bool), np.array([N]))
    assert example.pop('decoder_positions=spread') == memory.positions[0].tolist()
    assert memory.text_start.tolist() == [11]
    assert not example
