"""Samples (evaluation/samples.py) as HTML: what is right and what is wrong shows at a glance, also without colour."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pic_jax.evaluation.markup import Html, element, folded, joined, table

_LONGEST = 600  # words of a reconstruction that are compared: a page is read by people, and comparing is quadratic


def sample_views(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Html]:
    """Answers, then reconstructions; a sentence where there are neither."""
    answers, reconstructions = samples['answers'], samples['reconstructions']
    if not answers and not reconstructions:
        return [element('p', 'None: the run is trained neither on questions (objective.ft) nor on autoencoding (ae).')]
    return [*(answer_views(answers) if answers else []), *(written_views(reconstructions) if reconstructions else [])]


def answer_views(samples: Sequence[Mapping[str, Any]]) -> list[Html]:
    """A table of marks, then every question with the answers of all methods."""
    methods = list(dict.fromkeys(method for sample in samples for method in sample['answers']))
    heading = ['method', *(f'Q{number}' for number in range(1, len(samples) + 1))]
    lines = [[method, *(_mark(sample['answers'].get(method), short=True) for sample in samples)] for method in methods]
    cards = [_question(number, sample) for number, sample in enumerate(samples, start=1)]
    return [
        element('h3', 'Answers'),
        element('p', _key('right'), ' equals an expected answer, ', _key('partly'), ' shares words with one, ',
                _key('wrong'), ' shares none.'),
        table(f'Marks of {len(samples)} sample questions', [heading, *lines]),
        element('div', joined(cards), class_='cards'),
    ]  # fmt: skip


def written_views(samples: Sequence[Mapping[str, Any]]) -> list[Html]:
    """Every reconstruction with what differs from its context marked."""
    cards = [_reconstruction(number, sample) for number, sample in enumerate(samples, start=1)]
    return [
        element('h3', 'Reconstructions'),
        element('p', 'The context as it is written out again from memory: ', element('del', 'struck through'),
                ' is missing, ', element('ins', 'underlined'), ' is not in the context. ', _key('partly'),
                ' keeps half of the words or more.'),
        element('div', joined(cards), class_='cards'),
    ]  # fmt: skip


_SIGNS = {'right': '✓', 'partly': '≈', 'wrong': '✗'}


def _key(kind: str) -> Html:
    return element('span', f'{_SIGNS[kind]}\xa0{kind}', class_=f'mark {kind}')


def _mark(answer: Mapping[str, Any] | None, short: bool) -> Html:
    """Sign, word and colour of an answer; the short form keeps the word for screen readers only."""
    if answer is None:
        return element('span', '-')
    kind = 'right' if answer['em'] == 1 else 'partly' if answer['f1'] > 0 else 'wrong'
    if short:
        return element('span', _SIGNS[kind], element('span', f' {kind}', class_='unseen'), class_=f'mark {kind}')
    return element('span', f'{_SIGNS[kind]}\xa0{kind}', f', F1 {answer["f1"]:.2f}' * (kind == 'partly'),
                   class_=f'mark {kind}')  # fmt: skip


def _question(number: int, sample: Mapping[str, Any]) -> Html:
    lines = [['method', 'mark', 'answer']] + [
        [method, _mark(answer, short=False), _said(answer['text'])] for method, answer in sample['answers'].items()
    ]
    golds = joined([element('q', gold, dir='auto') for gold in sample['golds']], ' or ')
    return element(
        'article',
        element('h4', f'Q{number}: ', element('bdi', sample['question'])),
        element('p', 'Expected: ', golds),
        table(f'Answers to question {number}', lines),
        folded('Context', element('p', sample['context'], class_='text', dir='auto'), _source(sample)),
    )


def _said(text: str) -> Html:
    return element('span', text, dir='auto') if text else element('em', 'nothing')


def _source(sample: Mapping[str, Any]) -> Html:
    return element('p', f'From {sample["source"]}.', class_='note')


def _reconstruction(number: int, sample: Mapping[str, Any]) -> Html:
    context, written = sample['context'].split(), sample['written'].split()
    shown, kept = differences(context[:_LONGEST], written[:_LONGEST])
    right = sample['prefix_em'] == 1 and sample['written'] == sample['context']
    kind = 'right' if right else 'partly' if 2 * kept >= len(context[:_LONGEST]) else 'wrong'
    cut = f' Compared as far as the first {_LONGEST} words.' if max(len(context), len(written)) > _LONGEST else ''
    return element(
        'article',
        element('h4', f'Reconstruction {number}'),
        element('p', _key(kind), f' {kept} of {min(len(context), _LONGEST)} words kept, '
                     f'{100 * sample["prefix_em"]:.0f}% of the tokens before the first error.{cut}'),
        element('p', shown, class_='text', dir='auto'),
        _source(sample),
    )  # fmt: skip


def differences(context: Sequence[str], written: Sequence[str]) -> tuple[Html, int]:
    """Two lists of words as one text with `<del>` and `<ins>`, and how many words of the context are kept."""
    parts, kept = [], 0
    for tag, i, j, a, b in difflib.SequenceMatcher(None, context, written, autojunk=False).get_opcodes():
        if tag == 'equal':
            parts.append(' '.join(context[i:j]))
            kept += j - i
        else:
            parts += [element('del', ' '.join(context[i:j]))] if i < j else []
            parts += [element('ins', ' '.join(written[a:b]))] if a < b else []
    return joined(parts, ' '), kept
