"""`pic-jax plan`: exit codes and output, on a stand-in for a slice with this machine's one device."""

import functools
import importlib.util
import json
from types import SimpleNamespace

import jax
import pytest

from pic_jax.cli.main import main
from pic_jax.hardware import CHIPS
from pic_jax.planning import fit, topology


@pytest.fixture
def slice_of_one(monkeypatch):
    """A function from bytes to a slice of one CPU device that has them."""

    def make(hbm_bytes: int) -> None:
        chip = CHIPS['v5e']._replace(hbm_bytes=hbm_bytes)
        found = topology.Topology(chip, tuple(jax.devices()[:1]))
        monkeypatch.setattr(topology, 'find', lambda name: found)

    return make


def test_a_plan_that_fits(slice_of_one, tiny_config_file, capsys):
    slice_of_one(2**34)
    assert main(['plan', f'--config={tiny_config_file}', '--topology=v5e:1', '--programs=compress']) == 0
    out = capsys.readouterr().out
    assert 'compress: fits: ' in out
    assert 'topology=v5e:1' in out


def test_a_plan_that_does_not_fit_says_by_how_much(slice_of_one, tiny_config_file, capsys):
    slice_of_one(1000)
    assert main(['plan', f'--config={tiny_config_file}', '--topology=v5e:1', '--programs=compress', '--json']) == 1
    row = json.loads(capsys.readouterr().out)
    assert (row['program'], row['fits'], row['hbm_bytes']) == ('compress', False, 1000)
    assert row['peak_bytes'] > 1000


@pytest.mark.slow
def test_fit_prints_the_overrides_to_use(slice_of_one, tiny_config_file, capsys):
    slice_of_one(2**34)
    assert main(['plan', f'--config={tiny_config_file}', '--topology=v5e:1', '--fit']) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith('use  --config.mesh.data=1 --config.mesh.fsdp=1 ')
    assert '--config.train.microbatches=1' in captured.out
    assert captured.err.endswith(' fits\n')


def test_fit_that_finds_nothing_says_how_close_it_came(slice_of_one, tiny_config_file, capsys, monkeypatch):
    slice_of_one(1000)
    too_large = SimpleNamespace(needed=3 * 2**30, fits=False, hbm=1000, compile_s=1.0)
    monkeypatch.setattr(fit, 'search', functools.partial(fit.search, compile_step=lambda *run: too_large))
    assert main(['plan', f'--config={tiny_config_file}', '--topology=v5e:1', '--fit']) == 1
    err = capsys.readouterr().err
    assert 'nothing that was tried fits: closest was 1 device, microbatches 1: peak 3.00 GiB' in err


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['--topology=v9:2x2'], '--topology=v9:2x2 is not valid: expected e.g. v4:2x2x1'),
        (['--topology=v5e:2x2', '--programs=train,sleep'], 'expected some of train, compress, decode'),
        (['--topology=v5e:2x2', '--budget_s=0'], 'expected a positive number of seconds'),
        (['--topology=v5e:2x2', '--config.train.size=3'], 'unknown config key train.size'),
    ],
)
def test_bad_usage_exits_with_2(words, said, tiny_config_file, capsys):
    assert main(['plan', f'--config={tiny_config_file}', *words]) == 2
    assert said in capsys.readouterr().err


def test_without_libtpu_it_exits_with_1(monkeypatch, tiny_config_file, capsys):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert main(['plan', f'--config={tiny_config_file}', '--topology=v5e:2x2']) == 1
    assert 'pic_jax[aot]' in capsys.readouterr().err
