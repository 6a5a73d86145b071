"""One training on many meshes, in many processes, and moved between them by checkpoints: always the same losses."""

import numpy as np
import pytest

pytestmark = pytest.mark.slow


def mesh(data=1, fsdp=1, tensor=1, context=1):
    """Dotted settings of a mesh."""
    return {'mesh.data': data, 'mesh.fsdp': fsdp, 'mesh.tensor': tensor, 'mesh.context': context}


@pytest.fixture(scope='module')
def alone(train, tmp_path_factory):
    """What one device finds."""
    return train(tmp_path_factory.mktemp('alone'), **mesh())


def same(found, wanted):
    steps = sorted(wanted['losses'], key=int)
    assert sorted(found['losses'], key=int) == steps
    for name in ('losses',):
        np.testing.assert_allclose(
            [found[name][step] for step in steps], [wanted[name][step] for step in steps], rtol=1e-5
        )
    np.testing.assert_allclose(found['validation'], wanted['validation'], rtol=1e-5)


@pytest.mark.parametrize('sizes', [(8, 1, 1, 1), (1, 8, 1, 1), (1, 1, 8, 1), (2, 2, 2, 1), (1, 2, 2, 2)])
def test_a_mesh_changes_nothing_but_where_things_are(train, alone, tmp_path, sizes):
    found = train(tmp_path, devices=8, **mesh(*sizes))
    same(found, alone)
    assert len(found['bytes']) == 8
    whole, (_, fsdp, tensor, _) = alone['bytes'][0], sizes
    # Norms and vectors are whole everywhere; everything else is split by fsdp and tensor.
    assert found['bytes'][0] == found['bytes'][-1]
    assert whole / (fsdp * tensor) <= found['bytes'][0] < 1.35 * whole / (fsdp * tensor)


@pytest.mark.parametrize(('processes', 'devices', 'sizes'), [(2, 4, (2, 2, 2, 1)), (4, 2, (1, 4, 1, 2))])
def test_processes_change_nothing_either(train, alone, tmp_path, processes, devices, sizes):
    found = train(tmp_path, devices=devices, processes=processes, **mesh(*sizes))
    assert found['processes'] == processes
    same(found, alone)


@pytest.mark.parametrize('method', ['icae', 'icformer'])
def test_other_methods_train_on_a_mesh(train, tmp_path, method):
    few = {'train.steps': 4, 'train.eval_every': 4, 'train.checkpoint_every': 4}
    wanted = train(tmp_path / 'alone', method=method, **mesh(), **few)
    same(train(tmp_path / 'mesh', devices=4, method=method, **mesh(1, 2, 2, 1), **few), wanted)


@pytest.mark.parametrize('backend', ['structured', 'splash'])
def test_attention_backends_train_on_a_mesh(train, tmp_path, backend):
    """The recurrent form, whose chunks are not rows of their own; the TPU kernel under shard_map is interpreted."""
    few = {'train.steps': 2, 'train.eval_every': 2, 'train.checkpoint_every': 2}
    recurrent = {'compressor.context_sees': 'chunk+memory', 'compressor.memory_sees_memory': 'previous'}
    wanted = train(tmp_path / 'alone', attention='dense', **mesh(), **few, **recurrent)
    same(train(tmp_path / 'mesh', devices=4, attention=backend, **mesh(1, 2, 2, 1), **few, **recurrent), wanted)


def test_a_run_moves_by_its_checkpoints(train, alone, tmp_path):
    """1 device -> 8 devices -> 2 processes of 4 -> 1 device, ten steps or fewer on each."""
    stages = [
        (8, dict(devices=1), mesh()),
        (16, dict(devices=8), mesh(1, 4, 2, 1)),
        (24, dict(devices=4, processes=2), mesh(2, 2, 1, 2)),
        (30, dict(devices=1), mesh()),
    ]
    for steps, machine, sizes in stages:
        found = train(tmp_path, **machine, **sizes, **{'train.steps': steps, 'optimizer.schedule': 'constant'})
    unmoved = train(tmp_path / 'unmoved', **mesh(), **{'optimizer.schedule': 'constant'})
    steps = [str(step) for step in range(1, 31)]
    np.testing.assert_allclose(
        [found['losses'][step] for step in steps], [unmoved['losses'][step] for step in steps], rtol=1e-5
    )
    assert found['validation'][-1] == pytest.approx(unmoved['validation'][-1], rel=1e-5)
    assert [alone['losses'][step] for step in steps] != [unmoved['losses'][step] for step in steps]  # another schedule
