"""The benchmark of the training step: its peers compute what we do, and one that does not is refused."""

import dataclasses
import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import train_step
from timing import ratio, result_of
from train_case import flops, make_case, our_side, write_inputs

BATCH = 2


@pytest.fixture(scope='module')
def case():
    return make_case(BATCH, small=True)


@pytest.fixture(scope='module')
def runs(case, tmp_path_factory):
    """A function from the chunk of the peers to what `measure` takes turns with, here all in this process."""
    for name in ('torch', 'transformers', 'peft'):
        pytest.importorskip(name, reason=f"needs {name}: pip install 'pic_jax[torch]'")
    from torch_peers import torch_side

    folder = tmp_path_factory.mktemp('inputs')
    write_inputs(case, folder)

    def of_chunk(size: int) -> train_step.Runs:
        theirs = dataclasses.replace(case, compressor=dataclasses.replace(case.compressor, chunk_size=size))

        def run(function, side, what):
            if side == train_step.OURS:
                return function(functools.partial(our_side, case), what)
            return function(functools.partial(torch_side, theirs, folder, side), what)

        return run

    return of_chunk


def test_peers_agree_on_the_loss_and_on_every_gradient(case, runs):
    apart, reasons = train_step.agreement(runs(case.compressor.chunk_size), ('dense', 'folding'))
    for what in train_step.PASSES:
        assert apart[what].keys() == {'dense', 'folding'}
        assert max(max(found.values()) for found in apart[what].values()) < 1e-4
        assert not reasons[what]
    assert all(found['gradient'] > 0 for found in apart['gradient'].values())  # compared, and not with itself
    lora = [name for name in runs(case.compressor.chunk_size)(result_of, 'folding', 'gradient')[1] if 'lora' in name]
    assert len(lora) == 2 * len(case.compressor.lora.targets) * case.decoder.num_hidden_layers


@pytest.mark.parametrize('peer', ['dense', 'folding'])
def test_a_peer_with_other_chunks_is_refused(case, runs, peer):
    run = runs(case.compressor.chunk_size // 2)
    with pytest.raises(ValueError, match='another computation'):
        train_step.agreement(run, (peer,))
    ours, theirs = (run(result_of, side, 'gradient') for side in (train_step.OURS, peer))
    with pytest.raises(ValueError, match='another computation'):
        train_step.disagreement(ours, (ours[0], theirs[1]))  # by its gradients alone


def test_gradients_of_other_tensors_are_refused(runs, case):
    loss, grads = runs(case.compressor.chunk_size)(result_of, train_step.OURS, 'gradient')
    with pytest.raises(ValueError, match='special'):
        train_step.disagreement((loss, grads), (loss, {name: grads[name] for name in grads if name != 'special'}))
    with pytest.raises(ValueError, match='another computation'):
        train_step.disagreement((loss, grads), (float('nan'), grads))


def test_a_gradient_that_is_no_number_is_refused():
    grads = {'memory': np.ones(3), 'special': np.ones(3)}
    assert train_step.disagreement((1.0, grads), (1.0, grads)) == {'loss': 0, 'gradient': 0}
    with pytest.raises(ValueError, match=r"another computation: .*'gradient': nan"):
        train_step.disagreement((1.0, grads), (1.0, grads | {'special': np.array([1, np.nan, 1])}))


@pytest.mark.slow
def test_flex_attention_agrees_and_says_why_it_has_no_gradient(case, runs):
    apart, reasons = train_step.agreement(runs(case.compressor.chunk_size), ('flex',))
    assert apart['forward']['flex']['loss'] < 1e-5
    assert 'backward' in reasons['gradient']['flex']


def test_a_dense_mask_costs_the_pairs_that_folding_leaves_out(case):
    counts, shape, settings = flops(case), case.decoder, case.compressor
    positions = case.context_tokens + case.context_tokens // settings.ratio
    chunks = case.context_tokens // settings.chunk_size
    pairs = BATCH * (positions**2 - chunks * (positions // chunks) ** 2)
    per_pair = 4 * shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim
    assert counts['dense']['forward'] - counts['folding']['forward'] == per_pair * pairs
    # Forward, and two products for each of its two in the backward pass.
    assert counts['dense']['gradient'] - counts['folding']['gradient'] == 3 * per_pair * pairs


def test_ratios_are_of_rounds_and_the_headline_is_against_the_fastest():
    assert ratio([2, 9, 4], [1, 3, 4]) == (2, 1, 3)
    seconds = {'pic_jax': [2.0, 2.0], 'dense': [12.0, 12.0], 'folding': [3.0, 3.0], 'flex': [5.0, 5.0]}
    found = train_step.ratios(seconds)
    assert found['fastest'] == 'folding'
    assert found['peers']['dense']['median'] == 6
    assert (found['algorithm']['median'], found['framework']['median']) == (4, 1.5)


@pytest.mark.slow
def test_the_script_measures_small_shapes_and_stores_nothing():
    pytest.importorskip('peft', reason="needs peft: pip install 'pic_jax[torch]'")
    script, stored = Path(train_step.__file__), sorted(train_step.RESULTS.glob('*'))
    words = ['--small', '--json', '--cores', '1', '--repetitions', '2', '--peers', 'dense', 'folding']
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=True)
    (row,) = map(json.loads, done.stdout.splitlines())
    assert all(len(times) == 2 for sides in row['seconds'].values() for times in sides.values())
    assert {'jax', 'torch', 'transformers', 'peft'} <= row['versions'].keys()
    assert row['cores'] == 1
    lines = train_step.table(row).splitlines()
    assert [line.split(' | ')[0] for line in lines if line.startswith('|')][2:] == ['| pic_jax', '| dense', '| folding']
    assert sorted(train_step.RESULTS.glob('*')) == stored
