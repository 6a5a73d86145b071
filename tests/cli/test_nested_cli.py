"""A nested compressor as a user meets it: Python, compress, contexts shrink, ask, eval, train."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import pic_jax
from pic_jax.cli.main import main
from pic_jax.cli.settings import load_file, resolve
from pic_jax.config import OptimizerConfig
from pic_jax.errors import ConfigError
from pic_jax.evaluation import ablation
from pic_jax.interop import context_files
from pic_jax.run import open_run
from pic_jax.training.ensemble import check_members, train_members
from pic_jax.training.ratios import drawn_ratios
from pic_jax.training.start import initial_trainable
from pic_jax.training.telemetry import MEASURED
from pic_jax.training.train import train
from pic_jax.training.weights import write_weights

TEXTS = ['Mara lives in Stonehaven and sells plums.', 'Short.']
WORDS = [
    'compressor.ratio=2',
    'compressor.ratios=2,4,8',
    'compressor.positions=end',
    'compressor.position_origin=chunk',
]


@pytest.fixture(scope='module')
def make_run(tiny_config_file):
    """A function from overrides to a run of ratios 2, 4 and 8 that can be shrunk."""

    def make(*words):
        return open_run(resolve(load_file(str(tiny_config_file)), [f'--config.{word}' for word in (*WORDS, *words)]))

    return make


@pytest.fixture(scope='module')
def nested_run(make_run):
    return make_run()


@pytest.fixture(scope='module')
def saved(nested_run, tmp_path_factory) -> Path:
    """A compressor nobody trained, whose every weight matters."""
    folder = tmp_path_factory.mktemp('saved') / 'nested'
    moved = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(3), leaf.shape), nested_run.init_trainable()
    )
    write_weights(folder, nested_run.config, moved)
    return folder


@pytest.fixture(scope='module')
def trained(saved):
    return pic_jax.load(saved)


def test_python_compresses_at_every_served_ratio(trained):
    memories = {ratio: trained.compress(TEXTS, ratio=ratio) for ratio in (None, 2, 8)}
    lengths = {ratio: memory.lengths.tolist() for ratio, memory in memories.items()}
    full, rest = np.divmod(trained.store(TEXTS, TEXTS).metadata.source_tokens, 8)
    assert lengths[8] == (full + -(-rest // 8)).tolist()
    assert lengths[None] == lengths[2] == (4 * full + -(-rest // 2)).tolist()
    np.testing.assert_array_equal(memories[None].embeddings, memories[2].embeddings)
    np.testing.assert_allclose(memories[8].embeddings[0, 0], memories[2].embeddings[0, 0], atol=1e-5)
    with pytest.raises(ConfigError, match='ratio=3 is not valid: the compressor serves 2, 4, 8'):
        trained.compress(TEXTS, ratio=3)
    with pytest.raises(ConfigError, match='ratio=3 is not valid'):
        trained.store(TEXTS, TEXTS, ratio=3)


def test_compress_shrink_and_ask(saved, tmp_path, capsys):
    for number, text in enumerate(TEXTS):
        (tmp_path / f'{number}.txt').write_text(text)
    files = [str(tmp_path / f'{number}.txt') for number in range(len(TEXTS))]
    fine, small, again = (str(tmp_path / name) for name in ('fine', 'small', 'again'))
    command = ['compress', f'--workdir={saved}', *files]
    assert main([*command, f'--out={fine}']) == 0
    assert main([*command, f'--out={again}', '--ratio=4']) == 0
    capsys.readouterr()
    assert main(['contexts', 'shrink', fine, small, '--ratio=4']) == 0
    assert capsys.readouterr().out == f'{small}\n'
    shrunk, compressed = context_files.read(small), context_files.read(again)
    assert shrunk.metadata == compressed.metadata
    np.testing.assert_allclose(shrunk.embeddings, compressed.embeddings, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(shrunk.positions, compressed.positions)
    assert shrunk.lengths.sum() < context_files.read(fine).lengths.sum()

    before = Path(small).read_bytes()
    assert main(['contexts', 'shrink', fine, small, '--ratio=8']) == 2
    assert 'exists' in capsys.readouterr().err
    assert Path(small).read_bytes() == before
    assert main(['contexts', 'shrink', small, str(tmp_path / 'finer'), '--ratio=2']) == 2
    assert f'{small}: ratio=2 is not valid: from 4, contexts shrink to 4, 8' in capsys.readouterr().err
    assert main([*command, f'--out={tmp_path / "x"}', '--ratio=3']) == 2
    assert 'the compressor serves 2, 4, 8' in capsys.readouterr().err
    assert not (tmp_path / 'finer').exists()
    assert not (tmp_path / 'x').exists()

    answers = []
    for file in (small, again):  # shrunk contexts are still this compressor's
        assert main(['ask', f'--workdir={saved}', file, 'Mara', '--max_new_tokens=4']) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def test_contexts_of_an_ordinary_compressor_do_not_shrink(tmp_path, capsys):
    golden = Path(__file__).parents[1] / 'interop' / 'golden_contexts.safetensors'
    assert main(['contexts', 'shrink', str(golden), str(tmp_path / 'out'), '--ratio=16']) == 1
    assert 'golden_contexts.safetensors: made by a compressor of one ratio' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_fingerprints_of_ordinary_compressors_know_nothing_of_ratios(trained):
    """Contexts that were stored before there were ratios can still be asked."""
    ordinary = trained.at_ratio(4)
    assert ordinary.run.config.compressor.ratios == ()
    assert ordinary.trainable['memory_embeddings'].shape[0] == 2
    assert len({one.fingerprint for one in (trained, ordinary, trained.at_ratio(8))}) == 3
    older = dict(dataclasses.asdict(ordinary.run.config.compressor))
    del older['ratios']
    import hashlib

    digest = hashlib.sha256(json.dumps(older, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(ordinary.trainable):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    assert ordinary.fingerprint == digest.hexdigest()


def test_training_goes_on_from_a_nested_compressor_with_the_vectors_of_that_ratio(make_run, trained, saved):
    theirs = np.asarray(trained.trainable['memory_embeddings'])
    for words, kept in (
        (['compressor.ratio=4', 'compressor.ratios=()'], [0, 1]),
        (['compressor.ratio=4', 'compressor.ratios=4,8'], [0, 1]),
        (['compressor.ratio=8', 'compressor.ratios=()'], [0]),
        ([], [0, 1, 2, 3]),
    ):
        ours = initial_trainable(make_run(*words, f'start={saved}'))['memory_embeddings']
        np.testing.assert_array_equal(ours, theirs[kept])


def test_members_share_the_seed_that_draws(nested_run, make_run):
    def with_(seed, rate):
        config = dataclasses.replace(nested_run.config, seed=seed, optimizer=OptimizerConfig(learning_rate=rate))
        return dataclasses.replace(nested_run, config=config)

    check_members([with_(1, 1e-3), with_(1, 1e-2)])
    with pytest.raises(ConfigError, match=r'seed is 0 and 1: .*learning_rate, start \(the seed draws the ratio'):
        check_members([with_(0, 1e-3), with_(1, 1e-3)])
    rows = [ablation.Row({'seed': seed, 'optimizer.learning_rate': rate}, with_(seed, rate).config)
            for seed in (0, 1) for rate in (1e-3, 1e-2)]  # fmt: skip
    assert ablation.groups(rows) == [rows[:2], rows[2:]]
    ordinary = [row._replace(config=dataclasses.replace(row.config, compressor=make_run(
        'compressor.ratios=()').config.compressor)) for row in rows]  # fmt: skip
    assert ablation.groups(ordinary) == [ordinary]


@pytest.mark.slow
def test_members_of_a_nested_training_equal_separate_runs(make_run, tmp_path):
    runs = [make_run('train.steps=8', f'optimizer.learning_rate={rate}') for rate in (3e-3, 1e-2)]
    outcomes, seconds = train_members(runs, lambda line: None)
    assert seconds > 0
    for number, (run, outcome) in enumerate(zip(runs, outcomes, strict=True)):
        alone = train(run, tmp_path / str(number))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), outcome.trainable, alone)
    assert {'lm_nats', 'lm_nats_4x', 'lm_nats_8x'} <= set(outcomes[0].curve[-1])


def test_a_nested_training_takes_steps_at_every_ratio(make_run, tmp_path):
    """No text is decoded, which is most of what compiles in the tests below."""
    words = ['compressor.ratios=2,4', 'objective.lm=0.0', 'objective.words=1.0', 'optimizer.learning_rate=0.03']
    run = make_run(*words, 'train.steps=3', 'train.eval_every=3')
    trained, fresh = train(run, tmp_path), run.init_trainable()
    steps = [record for record in fields(tmp_path) if record['split'] == 'train']
    drawn = drawn_ratios((2, 4), 0, range(3)).tolist()
    assert [record['ratio'] for record in steps] == drawn
    assert set(drawn) == {2, 4}
    # A chunk of 8 tokens has 4 or 2 vectors; the batch has 4 contexts of at most 24 tokens.
    most = {2: 4 * 12, 4: 4 * 6}
    assert all(most[record['ratio']] / 2 < record['words_tokens'] <= most[record['ratio']] for record in steps)
    assert trained['memory_embeddings'].shape == fresh['memory_embeddings'].shape == (4, 32)
    assert np.abs(trained['memory_embeddings'] - fresh['memory_embeddings']).max(axis=1).min() > 1e-3
    first, last = [record['words_distance'] for record in fields(tmp_path) if record['split'] == 'validation']
    assert last < first


def fields(workdir: Path) -> list[dict]:
    found = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [{key: value for key, value in record.items() if not key.endswith(MEASURED)} for record in found]


@pytest.mark.slow
def test_train_resumes_bit_for_bit(tiny_config_file, tmp_path, capsys):
    words = [f'--config.{word}' for word in (*WORDS, 'train.microbatches=2', 'train.steps=6')]
    command = ['train', f'--config={tiny_config_file}', *words]
    assert main([*command, f'--workdir={tmp_path / "whole"}']) == 0
    assert 'ratio 2, 4, 8 (each step draws one of 3), 24 tokens -> k = 12, 6, 3 vectors' in capsys.readouterr().err
    found = fields(tmp_path / 'whole')
    drawn = drawn_ratios((2, 4, 8), 0, range(6)).tolist()
    assert [record['ratio'] for record in found if record['split'] == 'train'] == drawn
    assert len(set(drawn)) > 1
    validation = [record for record in found if record['split'] == 'validation'][-1]
    assert len({validation[key] for key in ('lm_nats', 'lm_nats_4x', 'lm_nats_8x')}) == 3

    # Stopped at its second checkpoint and started again, as if nothing had happened.
    copy = Path(shutil.copytree(tmp_path / 'whole', tmp_path / 'again'))
    shutil.rmtree(copy / 'checkpoints' / '6')
    assert main([*command, f'--workdir={copy}']) == 0
    assert 'resumed from step 4' in capsys.readouterr().err
    assert fields(copy) == found
    ends = [pic_jax.load(tmp_path / name).trainable for name in ('whole', 'again')]
    jax.tree.map(np.testing.assert_array_equal, *ends)


@pytest.mark.slow
def test_eval_has_rows_at_every_ratio(saved, tmp_path, capsys):
    folder = Path(shutil.copytree(saved, tmp_path / 'folder'))
    assert main(['eval', f'--workdir={folder}', '--json']) == 0
    rows = json.loads(capsys.readouterr().out)
    nats = [row for row in rows if row['metric'] == 'nats_per_token']
    ours = [row for row in nats if row['method'] == 'pic']
    assert [row['k'] for row in ours] == sorted((row['k'] for row in ours), reverse=True)
    assert len({row['value'] for row in ours}) == len(ours) == 3
    assert [row['method'] for row in nats].count('full_context') == 1
    assert [row['method'] for row in nats].count('truncate_last_k') == 3
    shares = [row for row in rows if row['metric'] == 'gap_share' and row['method'] == 'pic']
    assert len(shares) == 3
    costs = json.loads((folder / 'results.json').read_text())['costs']
    assert {'pic', 'pic 4x', 'pic 8x', 'full_context', 'truncate_last_k 8x'} <= set(costs)
    assert 'full_context 4x' not in costs
    stored = [costs[name]['stored_bytes'] for name in ('pic', 'pic 4x', 'pic 8x')]
    assert stored == sorted(stored, reverse=True)
    lines = [line for line in csv.DictReader((folder / 'results.csv').open()) if line['method'] == 'pic']
    assert sorted({float(line['stored_bytes']) for line in lines}, reverse=True) == stored

    # One ratio by itself, and the ordinary compressor at that ratio by itself, have the same numbers.
    pic_jax.load(folder).at_ratio(4).save(tmp_path / 'four')
    for command in ([f'--workdir={folder}', '--ratios=4'], [f'--workdir={tmp_path / "four"}']):
        assert main(['eval', *command, '--json']) == 0
        found = {row['metric']: row for row in json.loads(capsys.readouterr().out) if row['method'] == 'pic'}
        for key in ('ratio', 'k', 'value', 'low', 'high'):
            assert found['nats_per_token'][key] == pytest.approx(ours[1][key], rel=1e-5)
        assert found['gap_share']['value'] == pytest.approx(shares[1]['value'], rel=1e-3)


@pytest.mark.parametrize(
    'ratios', ['4,5', 'four', '', '2;4', pytest.param('1' * 5000, id='more digits than int takes')]
)
def test_eval_refuses_ratios_that_are_not_served(saved, capsys, ratios):
    assert main(['eval', f'--workdir={saved}', f'--ratios={ratios}']) == 2
    said = f'--ratios={ratios} is not valid: expected some of 2,4,8'
    assert said[:3000] in capsys.readouterr().err  # the rest of a long line is not printed
    assert not (saved / 'results.json').exists()
