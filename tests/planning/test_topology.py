"""Names of slices, and what is said where one cannot be had."""

import importlib.util
import os

import pytest

from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.hardware import CHIPS
from pic_jax.planning import topology

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason='needs libtpu: pip install "pic_jax[aot]"'
)


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('v9:2x2', 'v5e:4x4'),
        ('v5e', 'v5e:4x4'),
        ('4x4', 'v5p:2x2x1'),
        ('v5e:32x32', 'at most v5e:16x16'),
        ('v5p:16x16x32', 'at most v5p:16x16x24'),
        ('v5e:2x2x1', 'v5e:2x2, '),
        ('v5p:2x2', 'v5p:2x2x1'),
        ('v5p:axb', 'v5p:2x2x1'),
    ],
)
def test_an_unknown_slice_is_refused_with_examples(name, said):
    with pytest.raises(ConfigError) as refused:
        topology.find(name)
    assert f'--topology={name} is not valid' in str(refused.value)
    assert said in str(refused.value)


@needs_libtpu
def test_a_shape_that_the_compiler_refuses_is_refused_with_its_reason():
    with pytest.raises(ConfigError, match=r'--topology=v5e:3x5 is not valid \(.*3x5.*\): expected e.g. v5e:2x2'):
        topology.find('v5e:3x5')


def test_without_libtpu_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(PicJaxError, match=r'pip install "pic_jax\[aot\]"'):
        topology.find('v5e:2x2')


@needs_libtpu
@pytest.mark.parametrize(('name', 'count'), [('v4:2x2x1', 4), ('v5e:2x4', 8), ('v5p:2x2x1', 4), ('v6e:2x2', 4)])
def test_a_slice_has_one_device_per_chip_and_leaves_no_trace(name, count, monkeypatch):
    for variable in ('TPU_WORKER_HOSTNAMES', 'TPU_ACCELERATOR_TYPE', 'TPU_SKIP_MDS_QUERY'):
        monkeypatch.delenv(variable, raising=False)
    before = dict(os.environ)
    found = topology.find(name)
    assert len(found.devices) == count
    assert found.chip is CHIPS[name.partition(':')[0]]
    assert dict(os.environ) == before


def test_every_example_is_a_slice_of_its_kind():
    for kind, chip in CHIPS.items():
        for shape in chip.examples:
            dimensions = shape.split('x')
            assert len(dimensions) == len(chip.largest.split('x')) == chip.ici_ports // 2, (kind, shape)
