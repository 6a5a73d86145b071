"""The search for a mesh, on made-up memory: no compiler runs."""

import dataclasses
from types import SimpleNamespace

import pytest

from pic_jax.config import CompressorConfig, DataConfig, MeshConfig, RunConfig, TrainConfig
from pic_jax.planning import fit
from pic_jax.planning.fit import Candidate, candidates, extrapolated, search

DEVICES = 8
GIB = 2**30


@pytest.fixture
def shape(tiny_config):
    return tiny_config(
        hidden_size=64, intermediate_size=64, num_hidden_layers=12, num_attention_heads=4, num_key_value_heads=4,
        bos_token_id=0,
    )  # fmt: skip


@pytest.fixture
def config():
    return RunConfig(
        compressor=CompressorConfig.preset('pic', chunk_size=8, ratio=4, context_length=32, memory_sees_memory='own'),
        data=DataConfig(context_length=32, target_length=8, min_context=8),
        train=TrainConfig(batch_size=16),
    )


@pytest.fixture
def topology(monkeypatch):
    """Eight devices that only have a number; candidates are judged by the rules for meshes alone."""
    monkeypatch.setattr(fit, '_allowed', lambda config, shape, topology: allowed(config, shape))
    return SimpleNamespace(devices=range(DEVICES))


def allowed(config, shape) -> bool:
    mesh, microbatch = config.mesh, config.train.batch_size // config.train.microbatches
    return microbatch % (mesh.data * mesh.fsdp * mesh.context) == 0 and shape.num_attention_heads % mesh.tensor == 0


def memory_of(constant: float, per_layer: float):
    """A stand-in for the compiler: GiB that shrink with tensor and microbatches and grow with layers."""
    compiled = []

    def compile_step(config, shape, topology):
        split = config.mesh.tensor * config.train.microbatches
        needed = round((constant + per_layer * shape.num_hidden_layers) / split * GIB)
        compiled.append((config.mesh.tensor, config.train.microbatches, shape.num_hidden_layers))
        return SimpleNamespace(needed=needed, fits=needed <= 16 * GIB, hbm=16 * GIB, compile_s=1.0)

    return compile_step, compiled


def test_peaks_lie_on_a_line():
    assert extrapolated({2: 10, 4: 14}, 32) == 70
    assert extrapolated({4: 14, 2: 10}, 3) == 12


def test_candidates_multiply_to_the_devices_and_come_fastest_first(config, shape, topology):
    found = list(candidates(config, shape, topology))
    assert found[0] == Candidate(MeshConfig(1, 8, 1, 1), 1)
    assert all(each.mesh.fsdp * each.mesh.tensor * each.mesh.context == DEVICES for each in found)
    assert [each.microbatches for each in found] == sorted(each.microbatches for each in found)
    assert {each.mesh.tensor for each in found} == {1, 2, 4}  # 8 does not divide the heads
    assert len(set(found)) == len(found)


def test_context_is_split_only_where_chunks_are_independent(config, shape, topology):
    assert {each.mesh.context for each in candidates(config, shape, topology)} > {1}
    compressor = dataclasses.replace(config.compressor, memory_sees_memory='previous')
    whole = dataclasses.replace(config, compressor=compressor)
    assert {each.mesh.context for each in candidates(whole, shape, topology)} == {1}


def test_the_first_that_fits_is_confirmed_and_so_is_the_one_before_it(config, shape, topology):
    compile_step, compiled = memory_of(constant=4, per_layer=2)  # 28 GiB at 12 layers: needs a split in two
    lines = []
    found = search(config, shape, topology, 100.0, lines.append, compile_step)
    assert found.complete
    assert found.best.mesh.tensor * found.best.microbatches == 2
    assert [trial for trial in found.trials if trial.full and trial.fits] == [found.trials[-2]]
    assert found.trials[-1].full
    assert not found.trials[-1].fits
    assert found.trials[-1].peak == 28 * GIB
    assert compiled[-2:] == [(2, 1, 12), (1, 1, 12)]
    assert compiled[:2] == [(1, 1, 2), (1, 1, 4)]
    assert len(lines) == len(found.trials)
    assert '28.00 GiB' in lines[-1]
    assert 'does not fit' in lines[-1]


def test_a_setting_that_fits_at_once_has_none_before_it(config, shape, topology):
    compile_step, compiled = memory_of(constant=1, per_layer=0.1)
    found = search(config, shape, topology, 100.0, lambda line: None, compile_step)
    assert (found.best, found.complete) == (Candidate(MeshConfig(1, 8, 1, 1), 1), True)
    assert compiled == [(1, 1, 2), (1, 1, 4), (1, 1, 12)]


def test_where_the_extrapolation_is_too_small_the_search_goes_on(config, shape, topology):
    def compile_step(config, shape, topology):
        whole = config.mesh == MeshConfig(1, 8, 1, 1) and config.train.microbatches == 1
        needed = 20 * GIB if whole and shape.num_hidden_layers == 12 else 4 * GIB
        return SimpleNamespace(needed=needed, fits=needed <= 16 * GIB, hbm=16 * GIB, compile_s=1.0)

    found = search(config, shape, topology, 100.0, lambda line: None, compile_step)
    first, second = list(candidates(config, shape, topology))[:2]
    assert [(trial.candidate, trial.full, trial.fits) for trial in found.trials] == [
        (first, False, True), (first, True, False), (second, False, True), (second, True, True),
    ]  # fmt: skip
    assert (found.best, found.complete) == (second, True)


def test_where_the_extrapolation_is_too_large_the_faster_setting_is_found(config, shape, topology):
    def compile_step(config, shape, topology):
        whole = config.mesh == MeshConfig(1, 8, 1, 1) and config.train.microbatches == 1
        needed = (3 * shape.num_hidden_layers if whole and shape.num_hidden_layers < 12 else 4) * GIB
        return SimpleNamespace(needed=needed, fits=needed <= 16 * GIB, hbm=16 * GIB, compile_s=1.0)

    found = search(config, shape, topology, 100.0, lambda line: None, compile_step)
    assert found.trials[0].peak == 36 * GIB
    assert found.best == Candidate(MeshConfig(1, 8, 1, 1), 1)
    assert found.measured.needed == 4 * GIB


def test_nothing_fits(config, shape, topology):
    compile_step, _ = memory_of(constant=1e6, per_layer=1)
    found = search(config, shape, topology, 100.0, lambda line: None, compile_step)
    assert (found.best, found.complete) == (None, True)
    assert len(found.trials) == len(list(candidates(config, shape, topology)))


def test_the_budget_is_kept(config, shape, topology, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(fit.time, 'monotonic', lambda: clock.now)
    compile_step, compiled = memory_of(constant=1e6, per_layer=1)

    def slow(*args):
        clock.now += 30
        measured = compile_step(*args)
        measured.compile_s = 30.0
        return measured

    found = search(config, shape, topology, 100.0, lambda line: None, slow)
    assert (found.best, found.complete) == (None, False)
    assert clock.now <= 100
    assert len(compiled) == 3
