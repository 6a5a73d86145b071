"""Losses against plain language-model scoring of the same words, row by row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.memory import Memory
from pic_jax.models.decoder import Decoder
from pic_jax.models.inputs import word_memory
from pic_jax.models.scoring import divergence, nll, text_logits
from pic_jax.training.objectives import compressor_loss, objective_totals

PREFIX = (5, 7)
LENGTHS = [6, 1, 4]
S, T, D = 6, 5, 32


@pytest.fixture(scope='module')
def target(tiny_config, random_params):
    decoder = Decoder(tiny_config())
    return decoder, random_params(decoder)


@pytest.fixture(scope='module')
def words():
    rng = np.random.default_rng(0)
    return rng.integers(2, 64, (3, S)).astype(np.int32), rng.integers(2, 64, (3, T)).astype(np.int32)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_words_as_memory_score_like_plain_text(target, words):
    decoder, base = target
    context, text = words  # what stands behind a row's length is another row's business: it must not matter
    memory = word_memory(decoder, base, context, jnp.array(LENGTHS))
    got = jax.jit(lambda m, t: text_logits(decoder, base, m, None, PREFIX, t))(memory, text)
    plain = np.zeros((3, len(PREFIX) + S + T), np.int32)
    for row, n in enumerate(LENGTHS):
        ids = np.concatenate([PREFIX, context[row, :n], text[row]])
        plain[row, : len(ids)] = ids
    logits = jax.jit(lambda ids: decoder.apply({'params': base}, ids, method='forward'))(plain)
    for row, n in enumerate(LENGTHS):
        first = len(PREFIX) + n - 1  # the last token of the context predicts the first token of the text
        np.testing.assert_allclose(got[row], logits[row, first : first + T], atol=1e-4)


def test_the_special_vector_predicts_the_first_token(target, words):
    """Against unpadded rows [prefix][valid memory][special][text] with the memory's own positions."""
    decoder, base = target
    rng = np.random.default_rng(1)
    text = words[1]
    embeddings = rng.standard_normal((3, S, D)).astype(np.float32)
    positions = np.cumsum(rng.integers(1, 4, (3, S)), axis=1).astype(np.int32)
    valid = np.arange(S)[None] < np.array(LENGTHS)[:, None]
    start = positions.max(axis=1) + 2
    memory = Memory(jnp.array(embeddings), jnp.array(positions), jnp.array(valid), jnp.array(start))
    special = jnp.array(rng.standard_normal(D), jnp.float32)
    got = jax.jit(lambda m, s, t: text_logits(decoder, base, m, s, PREFIX, t))(memory, special, text)

    table, P = np.asarray(base['embed_tokens']['embedding']), len(PREFIX)
    x, ids = np.zeros((3, P + S + 1 + T, D), np.float32), np.zeros((3, P + S + 1 + T), np.int32)
    for row, n in enumerate(LENGTHS):
        parts = [table[list(PREFIX)], embeddings[row, :n], np.asarray(special)[None], table[text[row]]]
        places = [np.arange(P), P + positions[row, :n], [P + start[row]], P + start[row] + 1 + np.arange(T)]
        x[row, : P + n + 1 + T], ids[row, : P + n + 1 + T] = np.concatenate(parts), np.concatenate(places)

    @jax.jit
    def reference(x, ids):
        hidden, _ = decoder.apply({'params': base}, x, ids, jnp.tri(x.shape[1], dtype=bool)[None])
        return decoder.apply({'params': base}, hidden, method='logits')

    logits = reference(x, ids)
    for row, n in enumerate(LENGTHS):
        np.testing.assert_allclose(got[row], logits[row, P + n : P + n + T], atol=1e-4)


def test_nll_counts_targets_only():
    rng = np.random.default_rng(2)
    logits, tokens = rng.standard_normal((3, T, 9)).astype(np.float32), rng.integers(0, 9, (3, T))
    is_target = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
    logits[1, 3:] = np.inf  # what stands behind the targets may be anything
    with np.errstate(invalid='ignore'):
        chosen = np.take_along_axis(log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
    got = nll(jnp.array(logits), jnp.array(tokens), jnp.array(is_target))
    np.testing.assert_allclose(got.nats, -np.where(is_target, chosen, 0).sum(axis=1), rtol=1e-5)
    assert got.tokens.tolist() == [5, 1, 0]


def test_divergence_is_from_teacher_to_student():
    rng = np.random.default_rng(3)
    student, teacher = rng.standard_normal((2, 1, T, 9)).astype(np.float32)
    is_target = np.array([[0, 1, 1, 0, 1]], bool)
    p, q = log_softmax(teacher), log_softmax(student)
    expected = np.where(is_target, (np.exp(p) * (p - q)).sum(axis=-1), 0).sum()
    got = divergence(jnp.array(student), jnp.array(teacher), jnp.array(is_target))
    assert float(got.nats[0]) == pytest.approx(expected, rel=1e-4)
    assert got.tokens.tolist() == [3]
    same = divergence(jnp.array(teacher + 2), jnp.array(teacher), jnp.array(is_target))
    assert abs(float(same.nats[0])) < 1e-5


@dataclasses.dataclass(frozen=True)
class AllButTheLastWord:
    """A compressor that hands over the words themselves, so that the last one can be the special vector."""

    decoder: Decoder

    def compress(self, base, trainable, tokens_BS, lengths_B):
        return word_memory(self.decoder, base, tokens_BS, lengths_B - 1)


def test_distill_is_zero_exactly_where_the_student_reads_what_the_teacher_reads(
    target, bare_run, tiny_config, ragged_batch
):
    decoder, base = target
    run = bare_run(tiny_config(), base, dict(method='icae'), dict(lm=1.0, ft=1.0, distill=1.0), PREFIX)
    run = dataclasses.replace(run, compressor=AllButTheLastWord(decoder))
    batch = ragged_batch(64, S, [6, 2, 4], {'lm': (4, [0, 0, 0], [4, 2, 3]), 'ft': (3, [1, 1, 2], [3, 2, 3])})
    batch['context'][np.arange(3), batch['context_length'] - 1] = 33
    totals = jax.jit(lambda special, base: objective_totals(run, {'special': special}, base, batch))
    last_word = base['embed_tokens']['embedding'][33]
    same = totals({'lm': last_word, 'ft': last_word}, base)['distill']
    np.testing.assert_allclose(same.nats, 0, atol=1e-5)
    assert same.tokens.tolist() == [6, 3, 4]
    other = totals({'lm': last_word, 'ft': last_word + 1}, base)['distill']
    assert float(other.nats.min()) > 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class FixedMemory:
    """A compressor whose vectors were made before."""

    memory: Memory

    def compress(self, base, trainable, tokens_BS, lengths_B):
        return self.memory


@pytest.mark.slow
def test_words_is_the_distance_to_mixtures_of_own_words_by_self_information(
    target, bare_run, tiny_config, ragged_batch
):
    """Ratio 2, rows of 5, 2 and 6 tokens: 3, 1 and 3 vectors; what invalid vectors hold does not matter."""
    decoder, base = target
    rng = np.random.default_rng(4)
    vectors = rng.standard_normal((3, 3, D)).astype(np.float32)
    valid = np.arange(3)[None] < np.array([3, 1, 3])[:, None]
    memory = Memory(jnp.array(vectors), jnp.zeros((3, 3), jnp.int32), jnp.array(valid), jnp.full(3, 3))
    run = bare_run(tiny_config(), base, dict(method='icae', ratio=2), dict(lm=0.0, words=1.0), PREFIX)
    run = dataclasses.replace(run, compressor=FixedMemory(memory))
    batch = ragged_batch(64, S, [5, 2, 6], {})
    got = jax.jit(lambda base: objective_totals(run, {}, base, batch))(base)['words']

    table = np.asarray(base['embed_tokens']['embedding'], np.float64)
    expected = np.zeros(3)
    for row, n in enumerate([5, 2, 6]):
        ids = batch['context'][row, :n]
        read = np.concatenate([[PREFIX[-1]], ids[:-1]])[None]
        log_probs = log_softmax(decoder.apply({'params': base}, jnp.array(read), method='forward')[0])
        nats = -log_probs[np.arange(n), ids]
        for slot in range(-(-n // 2)):
            own = slice(2 * slot, min(2 * slot + 2, n))
            mixture = nats[own] @ table[ids[own]] / np.linalg.norm(nats[own])
            expected[row] += ((vectors[row, slot] - mixture) ** 2).sum()
    np.testing.assert_allclose(got.nats, expected / (table**2).sum(axis=1).mean(), rtol=1e-3)
    assert got.tokens.tolist() == [3, 1, 3]
    assert compressor_loss(run).counts(batch)['words'] == 7


def test_words_alone_trains_without_a_pass_of_the_decoder_over_memory(target, bare_run, tiny_config, ragged_batch):
    _, base = target
    run = bare_run(tiny_config(), base, dict(method='pic', ratio=2, chunk_size=4), dict(lm=0.0, words=1.0), PREFIX)
    trainable = run.compressor.init(jax.random.key(0), base)
    batch = ragged_batch(64, S, [5, 2, 6], {})
    loss = compressor_loss(run)
    assert loss.weights == {'words': 1.0}
    grads = jax.jit(jax.grad(lambda t: jnp.sum(loss.totals(t, base, batch)['words'].nats)))(trainable)
    assert not jax.tree.leaves(jax.tree.map(np.any, grads['special'])).count(True)
    assert np.any(grads['memory_embeddings'])
