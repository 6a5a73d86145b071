"""Scores of methods and controls against plain language-model scoring of each example by itself."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from pic_jax.config import RunConfig, from_mapping, to_mapping
from pic_jax.data.examples import TokenisedRecord
from pic_jax.data.loader import eval_batches
from pic_jax.evaluation import harness
from pic_jax.models.decoder import Decoder
from pic_jax.run import open_run

PREFIX = (5, 7)
CONTEXT, TARGET, RATIO = 8, 4, 4
LENGTHS = (12, 9, 7, 30, 12)  # contexts of 8, 5, 3, 8, 8 tokens; batches of 4 leave one row over
KEPT = (8, 5, 3, 8, 8)
METRICS = ('nats_per_token', 'gap_share', 'em', 'f1', 'rouge1', 'rougeL')  # of questions


def slots(context) -> int:
    return -(-len(context) // RATIO)


@pytest.fixture(scope='module')
def run(tiny_config, random_params, bare_run):
    config = tiny_config()
    data = dict(context_length=CONTEXT, target_length=TARGET, min_context=2, buckets=(4, CONTEXT))
    compressor = dict(method='icae', ratio=RATIO, context_length=CONTEXT)
    made = bare_run(config, random_params(Decoder(config)), compressor, dict(lm=1.0), PREFIX, data)
    train = dataclasses.replace(made.config.train, batch_size=4)
    return dataclasses.replace(made, config=dataclasses.replace(made.config, train=train))


@pytest.fixture(scope='module')
def texts():
    rng = np.random.default_rng(3)
    nothing = np.zeros(0, np.int32)
    return [
        TokenisedRecord(rng.integers(2, 64, n).astype(np.int32), nothing, nothing, None, (), f'row {row}')
        for row, n in enumerate(LENGTHS)
    ]


@pytest.fixture(scope='module')
def scores(run, texts):
    return harness.score(run, run.init_trainable(), texts, harness.methods_of(run), 100)


@pytest.fixture(scope='module')
def plain_nats(run):
    """Summed nats of `targets` behind `contexts`, each row by itself, by the plain decoder."""
    forward = jax.jit(lambda base, ids: run.decoder.apply({'params': base}, ids, method='forward'))

    def nats(contexts, targets):
        ids = np.zeros((len(contexts), len(PREFIX) + CONTEXT + TARGET), np.int32)
        for row, (context, target) in enumerate(zip(contexts, targets, strict=True)):
            whole = np.concatenate([PREFIX, context, target])
            ids[row, : len(whole)] = whole
        log_probs = np.asarray(jax.nn.log_softmax(forward(run.base, ids)), np.float64)
        found = []
        for row, (context, target) in enumerate(zip(contexts, targets, strict=True)):
            first = len(PREFIX) + len(context)
            found.append(-sum(log_probs[row, first + i - 1, token] for i, token in enumerate(target)))
        return np.array(found)

    return nats


@pytest.mark.parametrize(
    ('method', 'reads'),
    [
        ('full_context', lambda context: context),
        ('no_context', lambda context: context[:0]),
        ('truncate_last_k', lambda context: context[len(context) - slots(context) :]),
        ('truncate_first_k', lambda context: context[: slots(context)]),
    ],
)
def test_word_controls_equal_plain_scoring(scores, texts, plain_nats, method, reads):
    contexts = [reads(text.context[:n]) for text, n in zip(texts, KEPT, strict=True)]
    targets = [text.context[n : n + TARGET] for text, n in zip(texts, KEPT, strict=True)]
    expected = plain_nats(contexts, targets)
    np.testing.assert_allclose(scores[method].nats['lm'], expected, atol=1e-4 * TARGET)
    assert scores[method].tokens['lm'].tolist() == [TARGET] * 5
    assert scores[method].k.tolist() == [len(context) for context in contexts]
    assert scores[method].per_token('lm') == pytest.approx(expected.sum() / 20, abs=1e-4)


def test_every_method_scores_every_example_once(scores):
    assert list(scores) == [
        'icae', 'full_context', 'truncate_last_k', 'truncate_first_k', 'shuffled_memory', 'no_context',
    ]  # fmt: skip
    assert {len(score.nats['lm']) for score in scores.values()} == {5}
    assert scores['icae'].k.tolist() == [2, 2, 1, 2, 2]
    assert not np.allclose(scores['icae'].nats['lm'][:4], scores['shuffled_memory'].nats['lm'][:4])


def test_a_limit_takes_the_first_examples(run, texts, scores):
    few = harness.score(run, run.init_trainable(), texts, ['no_context'], 2)
    np.testing.assert_allclose(few['no_context'].nats['lm'], scores['no_context'].nats['lm'][:2], rtol=1e-6)


def test_full_context_is_left_out_where_it_does_not_fit(run):
    needed = len(PREFIX) + CONTEXT + TARGET
    for positions, expected in ((needed, True), (needed - 1, False)):
        config = dataclasses.replace(run.decoder.config, max_position_embeddings=positions)
        small = dataclasses.replace(run, decoder=Decoder(config))
        assert ('full_context' in harness.methods_of(small)) is expected


@pytest.fixture(scope='module')
def table(run, texts):
    rows, answers = harness.evaluate(run, run.init_trainable(), texts, 100)
    assert answers == {}
    return {(row.method, row.metric): row for row in rows}


def test_only_chosen_methods_are_scored(run, table, texts):
    """With the numbers that they have in the whole table; shares of the gap need its two ends."""
    chosen = (run.config.compressor.method, 'no_context')
    rows, _ = harness.evaluate(run, run.init_trainable(), texts, 100, chosen)
    assert rows == [table[method, 'nats_per_token'] for method in chosen]


def test_evaluate_agrees_with_the_scores(table, scores):
    assert set(table) == {(method, metric) for method in scores for metric in ('nats_per_token', 'gap_share')}
    nats = {method: score.per_token('lm') for method, score in scores.items()}
    for method, value in nats.items():
        row = table[method, 'nats_per_token']
        assert row.value == pytest.approx(value, rel=1e-6)
        assert row.low <= row.value <= row.high
        assert (row.task, row.n) == ('continuation', 5)
        assert row.k == scores[method].k.mean()
        gap = nats['no_context'] - nats['full_context']
        assert table[method, 'gap_share'].value == pytest.approx((nats['no_context'] - value) / gap, rel=1e-4)
    for metric, value in (('no_context', 0), ('full_context', 1)):
        row = table[metric, 'gap_share']
        assert row.value == pytest.approx(value)
        # Random weights: where a resample has no gap, the interval has no value.
        for edge in (row.low, row.high):
            assert np.isnan(edge) or edge == pytest.approx(value)
    assert table['no_context', 'nats_per_token'].ratio == float('inf')


def test_ratio_is_context_tokens_per_vector(table, texts):
    assert table['full_context', 'nats_per_token'].ratio == pytest.approx(1)
    assert table['icae', 'nats_per_token'].ratio == pytest.approx(np.mean(KEPT) / 1.8)


@pytest.fixture(scope='module')
def question_run(tiny_settings, question_data):
    settings = tiny_settings | {
        'data.source': str(question_data), 'data.context_length': 96, 'data.answer_length': 48, 'objective.lm': 0.0,
        'objective.ft': 1.0, 'compressor.context_length': 96, 'compressor.lora.rank': 0,
    }  # fmt: skip
    defaults = to_mapping(RunConfig())
    defaults['compressor'] = {'lora': defaults['compressor']['lora']}
    return open_run(from_mapping(RunConfig, nested(defaults, settings)))


def nested(values: dict, dotted: dict) -> dict:
    """`values` with dotted keys put in."""
    for path, value in dotted.items():
        *parents, last = path.split('.')
        node = values
        for key in parents:
            node = node[key]
        node[last] = value
    return values


def test_shuffled_memory_is_another_documents(question_run):
    """Every row must meet a context that is not its own, also where it is alone in the last batch."""
    run = question_run
    records = harness.held_out(run, 'train')
    for batch in eval_batches(records, run.config.data, ('ft',), run.eos_id, 4, 5):
        for row in np.flatnonzero(batch['index'] >= 0):
            own = batch['context'][row, : batch['context_length'][row]]
            other = batch['other']['context'][row, : batch['other']['context_length'][row]]
            assert any(np.array_equal(other, record.context) for record in records)
            assert not np.array_equal(own, other)


def test_greedy_answers_are_what_plain_decoding_gives(question_run):
    """The full_context control against a loop over whole forward passes, one row at a time."""
    run = question_run
    records = harness.held_out(run, 'test')[:3]
    assert len({len(record.context) for record in records}) > 1
    got = harness.answer(run, run.init_trainable(), records, 'full_context', 4)  # a batch of 4: one padding row
    forward = jax.jit(lambda base, ids: run.decoder.apply({'params': base}, ids, method='forward'))
    for text, record in zip(got, records, strict=True):
        before = np.concatenate([run.prefix, record.context, record.question])
        ids = np.zeros((1, 2 + 96 + 48 + 32), np.int32)
        ids[0, : len(before)] = before
        end = len(before)
        while end < len(before) + 32:
            ids[0, end] = int(np.argmax(forward(run.base, ids)[0, end - 1]))
            if ids[0, end] == run.eos_id:
                break
            end += 1
        assert text == run.tokenizer.decode(ids[0, len(before) : end], skip_special_tokens=True).strip()


@pytest.mark.slow
def test_evaluate_questions(question_run, tmp_path):
    """Every method answers every question, and the table has every metric."""
    run = question_run
    records = harness.held_out(run, 'test')
    rows, answers = harness.evaluate(run, run.init_trainable(), records, 6)
    methods = harness.methods_of(run)
    assert set(answers) == set(methods)
    assert {len(texts) for texts in answers.values()} == {6}
    expected = {(m, metric) for m in methods for metric in METRICS}
    assert {(row.method, row.metric) for row in rows} == expected
    assert {row.n for row in rows} == {6}
    json.dumps(answers)
