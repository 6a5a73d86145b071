"""The search for a mesh, on made-up memory: no compiler runs."""

import dataclasses
from types import SimpleNamespace

import pytest

from pic_jax.config import CompressorConfig, DataConfig, MeshConfig, RunConfig, TrainConfig
from pic_jax.planning import fit
from pic_jax.planning.fit import Candidate, candidates, on_line, search

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


def memory_of(arguments: float, per_row: float, hbm: float = 16, bend: float = 0):
    """A stand-in for the compiler: GiB of a device that grow with its rows (and `bend` with their square)."""
    compiled = []

    def compile_step(config, shape, topology):
        rows = config.train.batch_size / config.train.microbatches / DEVICES * config.mesh.tensor
        needed = round((arguments / config.mesh.tensor + per_row * rows + bend * rows**2) * GIB)
        compiled.append((config.mesh.tensor, config.train.microbatches))
        memory = SimpleNamespace(arguments=round(arguments * GIB))
        fits = needed <= hbm * GIB
        return SimpleNamespace(needed=needed, fits=fits, hbm=hbm * GIB, compile_s=1.0, memory=memory if fits else None)

    return compile_step, compiled


def searched(config, shape, topology, compile_step, budget_s=100.0):
    lines = []
    found = search(config, shape, topology, budget_s, lines.append, compile_step)
    assert len(lines) == len(found.trials)
    return found, lines


@pytest.fixture
def large(config):
    """512 examples: 64 rows of each device in one microbatch."""
    return dataclasses.replace(config, train=TrainConfig(batch_size=512))


def test_a_line_goes_through_the_largest_points():
    assert on_line({2.0: 10, 4.0: 14}, 32.0) == 70
    assert on_line({4.0: 14, 2.0: 10, 0.0: 999}, 3.0) == 12


def test_candidates_multiply_to_the_devices_and_come_fastest_first(config, shape, topology):
    found = list(candidates(config, shape, topology))
    assert found[0][0] == Candidate(MeshConfig(1, 8, 1, 1), 1)
    flat = [each for settings in found for each in settings]
    assert all(each.mesh.fsdp * each.mesh.tensor * each.mesh.context == DEVICES for each in flat)
    assert all(len({each.mesh for each in settings}) == 1 for settings in found)
    for settings in found:
        assert [each.microbatches for each in settings] == sorted(each.microbatches for each in settings)
    tensors = [settings[0].mesh.tensor for settings in found]
    assert tensors == sorted(tensors)
    assert set(tensors) == {1, 2, 4}  # 8 does not divide the heads
    assert len(set(flat)) == len(flat)


def test_context_is_split_only_where_chunks_are_independent(config, shape, topology):
    def contexts(config):
        return {settings[0].mesh.context for settings in candidates(config, shape, topology)}

    assert contexts(config) > {1}
    compressor = dataclasses.replace(config.compressor, memory_sees_memory='previous')
    assert contexts(dataclasses.replace(config, compressor=compressor)) == {1}


def test_the_fewest_microbatches_that_fit_are_confirmed_and_so_is_that_fewer_do_not(large, shape, topology):
    compile_step, compiled = memory_of(arguments=2, per_row=0.5)  # 28 rows fit: 16 of 64, so 4 microbatches
    found, lines = searched(large, shape, topology, compile_step)
    assert (found.best, found.complete) == (Candidate(MeshConfig(1, 8, 1, 1), 4), True)
    assert compiled == [(1, 16), (1, 4), (1, 2)]
    assert [trial.fits for trial in found.trials] == [True, True, False]
    assert found.measured.needed == 10 * GIB
    assert 'microbatches 2: peak 18.00 GiB (1 s), does not fit' in lines[-1]


def test_a_setting_that_fits_at_once_has_none_before_it(config, shape, topology):
    compile_step, compiled = memory_of(arguments=1, per_row=0.1)
    found, _ = searched(config, shape, topology, compile_step)
    assert (found.best, found.complete) == (Candidate(MeshConfig(1, 8, 1, 1), 1), True)
    assert compiled == [(1, 1)]


@pytest.mark.parametrize('bend', [0.02, -0.005])
def test_where_the_line_errs_the_search_goes_on(large, shape, topology, bend):
    """Peaks that grow faster and slower than the first line."""
    compile_step, compiled = memory_of(arguments=2, per_row=0.5, bend=bend)
    found, _ = searched(large, shape, topology, compile_step)
    fitting = {m for m in (1, 2, 4, 8, 16, 32, 64) if 2 + 0.5 * 64 / m + bend * (64 / m) ** 2 <= 16}
    assert (found.best.microbatches, found.complete) == (min(fitting), True)
    assert len(compiled) <= 5
    assert len(set(compiled)) == len(compiled)


def test_where_no_microbatch_is_small_enough_the_next_mesh_is_tried(large, shape, topology):
    compile_step, compiled = memory_of(arguments=20, per_row=0.1)  # fits on half of it
    found, _ = searched(large, shape, topology, compile_step)
    assert (found.best.mesh.tensor, found.complete) == (2, True)
    assert found.best.microbatches == min(m for m in (1, 2, 4, 8) if 10 + 0.1 * 128 / m <= 16)
    assert compiled[0] == (1, 16)
    assert not found.trials[0].fits


def test_nothing_fits(config, shape, topology):
    compile_step, compiled = memory_of(arguments=1e6, per_row=1)
    found, _ = searched(config, shape, topology, compile_step)
    assert (found.best, found.complete) == (None, True)
    assert {tensor for tensor, _ in compiled} == {1, 2, 4}


def slow(compile_step, clock, seconds=30):
    def compiles(*args):
        clock.now += seconds
        measured = compile_step(*args)
        measured.compile_s = float(seconds)
        return measured

    return compiles


@pytest.mark.parametrize(('arguments', 'best'), [(1e6, None), (2, 4)])
def test_the_budget_is_kept(large, shape, topology, monkeypatch, arguments, best):
    """Also where an answer is known: that nothing faster fits is then not."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(fit.time, 'monotonic', lambda: clock.now)
    compile_step, compiled = memory_of(arguments=arguments, per_row=0.5)
    found, _ = searched(large, shape, topology, slow(compile_step, clock), budget_s=80.0)
    assert (found.best and found.best.microbatches, found.complete) == (best, False)
    assert clock.now <= 80
    assert len(compiled) == 2
