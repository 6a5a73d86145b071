"""BLEU-4, ROUGE, prefix-EM and token accuracy of contexts that are written out again from their memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from pic_jax.data.examples import TokenisedRecord
from pic_jax.evaluation import harness, reconstruction, samples
from pic_jax.evaluation.metrics import bleu4, bleu4_resampled, bleu_signature, prefix_match, resamples
from pic_jax.evaluation.reconstruction import Reconstruction, reconstruct, score_reconstructions
from pic_jax.models.decoder import Decoder
from pic_jax.models.scoring import hits, text_logits

EOS = 1
LENGTHS = (8, 5, 3, 30, 8)  # cut to 8 tokens; batches of 4 with buckets of 4 and 8 leave one row over
KEPT = (8, 5, 3, 8, 8)
TIMES = resamples(range(5), seed=0)


class Words:
    """A tokenizer whose every id is a word; ids below 2 are special."""

    def decode(self, ids, skip_special_tokens):
        assert skip_special_tokens
        return ' '.join(f'w{int(token)}' for token in ids if token > 1)


@pytest.fixture(scope='module')
def run(tiny_config, random_params, bare_run):
    config = tiny_config(eos_token_ids=(EOS,))
    made = bare_run(
        config, random_params(Decoder(config)), dict(method='icae', ratio=4, context_length=8), dict(ae=1.0, lm=0.0),
        (5, 7), dict(context_length=8, min_context=2, buckets=(4, 8)),
    )  # fmt: skip
    train = dataclasses.replace(made.config.train, batch_size=4)
    return dataclasses.replace(made, config=dataclasses.replace(made.config, train=train), tokenizer=Words())


@pytest.fixture(scope='module')
def texts():
    rng = np.random.default_rng(3)
    nothing = np.zeros(0, np.int32)
    return [
        TokenisedRecord(rng.integers(2, 64, n).astype(np.int32), nothing, nothing, None, (), f'row {row}')
        for row, n in enumerate(LENGTHS)
    ]


@pytest.fixture(scope='module')
def first_choices(run):
    """[5, 9] likeliest tokens behind [prefix][memory][AE], where `rows` (of at most 9 tokens each) precede."""

    @jax.jit
    def choices(trainable, context_BS, length_B, tokens_BT):
        memory = run.compressor.compress(run.base, trainable, context_BS, length_B)
        special_D = trainable['special']['ae']
        return jnp.argmax(text_logits(run.decoder, run.base, memory, special_D, run.prefix, tokens_BT), axis=-1)

    def padded(rows, length):
        return np.stack([np.pad(row, (0, length - len(row))) for row in rows]).astype(np.int32)

    def make(trainable, contexts, rows):
        return np.asarray(choices(trainable, padded(contexts, 8), np.array(KEPT, np.int32), padded(rows, 9)))

    return make


@pytest.fixture
def repeats_the_context(monkeypatch):
    """Stands in for a perfect compressor: row i of a batch is its context with `wrong` [i] in place of token 1."""

    def use(texts, wrong):
        rows = iter(zip(texts, wrong, strict=True))

        def generate(decoder, params, inputs, max_new_tokens, eos_ids):
            tokens = np.full((len(inputs.x), max_new_tokens), EOS, np.int32)
            lengths = np.full(len(tokens), max_new_tokens)
            for row, (text, swap) in zip(range(len(tokens)), rows, strict=False):
                context = text.context[:8].copy()
                context[1] = context[1] if swap is None else swap
                tokens[row, : len(context)], lengths[row] = context, len(context)
            return jnp.asarray(tokens), jnp.asarray(lengths)

        monkeypatch.setattr(reconstruction, 'generate', generate)

    return use


def test_hits_are_counted_on_targets_only():
    logits_BTV = np.zeros((2, 3, 4), np.float32)
    for row, choices in enumerate([[1, 2, 3], [1, 1, 1]]):
        logits_BTV[row, np.arange(3), choices] = 1
    tokens_BT = np.array([[1, 2, 0], [1, 0, 1]])
    is_target_BT = np.array([[False, True, True], [True, True, True]])
    assert hits(logits_BTV, tokens_BT, is_target_BT).tolist() == [1, 2]


def test_bleu_is_sacrebleus_as_a_fraction():
    targets = ['a cat sat on the mat today', 'it rained all day long']
    written = ['a cat sat on the hat today', 'it rained all day long']
    assert bleu4(targets, targets) == pytest.approx(1)
    assert bleu4(written, targets) == pytest.approx(BLEU().corpus_score(written, [targets]).score / 100)
    # By hand: 11/12, 8/10, 6/8 and 4/6 of the 1- to 4-grams, equal lengths.
    assert bleu4(written, targets) == pytest.approx((11 / 12 * 8 / 10 * 6 / 8 * 4 / 6) ** 0.25)
    assert bleu4(['', ''], targets) == 0


def test_bleu_signature_says_how():
    assert bleu_signature().startswith('nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:')


def test_resampled_bleu_equals_the_bleu_of_the_resampled_corpus():
    targets = ['a cat sat on the mat today', 'it rained all day long', 'no', 'one two three four five six']
    written = ['a cat sat on the hat', 'all day long it rained', '', 'one two three four five six seven']
    times = np.array([[1, 1, 1, 1], [4, 0, 0, 0], [0, 0, 4, 0], [0, 2, 0, 2]])
    picks = [np.repeat(range(4), row) for row in times]
    expected = [bleu4([written[i] for i in row], [targets[i] for i in row]) for row in picks]
    np.testing.assert_allclose(bleu4_resampled(written, targets, times), expected, rtol=1e-12)


def test_scores_of_reconstructions_literally():
    """Two of four tokens, then all of them: the mean prefix is 0.75; BLEU sees words, not special tokens."""
    context = np.array([2, 3, 4, 5])
    pair = [Reconstruction(context, np.array([2, 3, 9, 5])), Reconstruction(context, np.array([2, 3, 4, 5]))]
    times = np.array([[2, 0], [0, 2], [1, 1]])
    scores = score_reconstructions(Words(), pair, times)
    assert scores['prefix_em'][0] == 0.75
    assert scores['prefix_em'][1].tolist() == [0.5, 1.0, 0.75]
    assert scores['bleu4'][0] == pytest.approx(bleu4(['w2 w3 w9 w5', 'w2 w3 w4 w5'], ['w2 w3 w4 w5'] * 2))
    assert scores['bleu4'][1][1] == pytest.approx(1)
    assert len(score_reconstructions(Words(), pair, np.ones((1000, 2), int))['bleu4'][1]) == 200
    for kind in ('rouge1', 'rougeL'):
        assert scores[kind][0] == pytest.approx(0.875)
        np.testing.assert_allclose(scores[kind][1], [0.75, 1, 0.875])
    turned = score_reconstructions(Words(), [Reconstruction(context, context[::-1])], np.ones((1, 1)))
    assert (turned['rouge1'][0], turned['rougeL'][0]) == (1, 0.25)


def test_what_is_written_is_the_decoders_first_choice_behind_the_memory(run, texts, first_choices):
    """Against logits in which what was written precedes; a row ends before EOS or one token past its context."""
    trainable = run.init_trainable()
    found = reconstruct(run, trainable, harness.batches_of(run, texts, 100))
    choices_BT = first_choices(trainable, [r.context for r in found], [r.written for r in found])
    for text, n, (context, written), choices in zip(texts, KEPT, found, choices_BT, strict=True):
        np.testing.assert_array_equal(context, text.context[:n])
        np.testing.assert_array_equal(written, choices[: len(written)])
        assert EOS not in written
        assert len(written) == n + 1 or (len(written) <= n and choices[len(written)] == EOS)
    assert len(found[2].written) == 4  # of a bucket of 8: cut one past its own context


def test_a_perfect_reconstruction_scores_one(run, texts, repeats_the_context):
    repeats_the_context(texts, [None] * 5)
    found = reconstruct(run, run.init_trainable(), harness.batches_of(run, texts, 100))
    scores = score_reconstructions(Words(), found, TIMES)
    for metric in ('bleu4', 'prefix_em', 'rouge1', 'rougeL'):
        assert scores[metric][0] == pytest.approx(1)
        np.testing.assert_allclose(scores[metric][1], 1)


def test_evaluate_has_the_rows(run, texts, repeats_the_context):
    repeats_the_context(texts, [63, None, None, 63, None])
    rows, answers = harness.evaluate(run, run.init_trainable(), texts, 100)
    table = {(row.method, row.metric): row for row in rows}
    methods = harness.methods_of(run)
    expected = {(method, metric) for method in methods for metric in ('nats_per_token', 'token_accuracy')}
    written = {('icae', metric) for metric in ('bleu4', 'prefix_em', 'rouge1', 'rougeL')}
    assert set(table) == expected | written
    assert len(rows) == len(table)
    assert answers == {}
    assert {(row.task, row.n) for row in rows} == {('reconstruction', 5)}
    assert all(row.low <= row.value <= row.high for row in rows)
    assert table['icae', 'prefix_em'].value == pytest.approx((1 / 8 + 1 + 1 + 1 / 8 + 1) / 5)
    assert 0.5 < table['icae', 'bleu4'].value < 1
    # One of the 8 words of the first and of the fourth text is wrong.
    assert table['icae', 'rougeL'].value == pytest.approx((7 / 8 + 1 + 1 + 7 / 8 + 1) / 5)


def test_token_accuracy_is_that_of_the_logits(run, texts, first_choices, monkeypatch):
    """Targets are the context and the end token; random weights never hit those, so one row gets what they write."""
    trainable, batches = run.init_trainable(), list(harness.batches_of(run, texts, 100))
    found = reconstruct(run, trainable, batches)
    contexts = [r.context for r in found]
    targets = [np.append(context, EOS) for context in contexts]
    targets[0][:6] = found[0].written[:6]
    batches[0]['ae']['tokens'][0, :6] = found[0].written[:6]
    monkeypatch.setattr(harness, 'batches_of', lambda *_: batches)
    scores = harness.score(run, trainable, texts, ('icae',), 100)['icae']
    assert scores.tokens['ae'].tolist() == [n + 1 for n in KEPT]
    choices_BT = first_choices(trainable, contexts, targets)
    expected = [int(np.sum(row[: len(target)] == target)) for row, target in zip(choices_BT, targets, strict=True)]
    assert scores.hits['ae'].tolist() == expected
    assert 6 <= expected[0] <= 8
    assert scores.accuracy('ae') == scores.hits['ae'].sum() / sum(n + 1 for n in KEPT)
    drawn = scores.resampled_accuracy('ae', np.array([[5, 0, 0, 0, 0], [1, 1, 1, 1, 1]]))
    assert drawn.tolist() == [scores.hits['ae'][0] / 9, scores.accuracy('ae')]


def test_samples_are_reconstructions_of_the_scored_records(run, texts):
    """Two of five, at even distances; what is stored is what scoring them all gives."""
    trainable = run.init_trainable()
    whole = reconstruct(run, trainable, harness.batches_of(run, texts, 5))
    found = samples.collect(run, trainable, texts, {}, count=2)
    assert found['answers'] == []
    assert [sample['source'] for sample in found['reconstructions']] == ['row 0', 'row 2']
    for sample, pair in zip(found['reconstructions'], (whole[0], whole[2]), strict=True):
        assert sample['context'] == run.tokenizer.decode(pair.context, skip_special_tokens=True)
        assert sample['written'] == run.tokenizer.decode(pair.written, skip_special_tokens=True)
        assert sample['prefix_em'] == prefix_match(pair.written, pair.context)
    assert len(samples.collect(run, trainable, texts, {})['reconstructions']) == 5


def test_a_context_with_several_questions_is_a_sample_once(run, texts):
    twice = [text for text in texts for _ in range(2)]
    found = samples.collect(run, run.init_trainable(), twice, {}, count=5)
    assert [sample['source'] for sample in found['reconstructions']] == [f'row {row}' for row in range(5)]
