"""Where examples come from, and what generated documents are like."""

import dataclasses

from pic_jax.config.checks import require


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """What a generated document is like (data/generator.py).

    Attributes:
      facts_per_context: facts told in a document, at the most: at least 5 people share every attribute, and each has a
        value of its own, of which an attribute has 7 or more.
      words: documents are filled up with sentences about nothing to at most this many words.
      questions: questions per document at the most.
      ledgers: share of fact documents that are lists of short entries instead of stories.
      word_lists: share of documents that are labelled examples (in-context learning) instead of facts.
    """

    facts_per_context: int = 12
    words: int = 190
    questions: int = 4
    ledgers: float = 0.25
    word_lists: float = 0.0

    def __post_init__(self):
        require(self.facts_per_context >= 5, 'corpus.facts_per_context', self.facts_per_context, 'at least 5')
        for name in ('words', 'questions'):
            require(getattr(self, name) >= 1, f'corpus.{name}', getattr(self, name), 'a positive number')
        for name in ('ledgers', 'word_lists'):
            require(0 <= getattr(self, name) <= 1, f'corpus.{name}', getattr(self, name), 'a share from 0 to 1')


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where examples come from and their shapes.

    Attributes:
      source: a .jsonl, .txt/.md or SQuAD-format .json file, `hub:owner/name[:config[:split]]`, `arrayrecord:folder` as
        `pic-jax tokenize` makes it, or `generated`.
      validation, test: how many groups are held out, counted from the end of the source: test is the last,
        validation the ones before it. A group is a document, or all questions of one article or context. For
        `generated`, how many documents of these splits are made.
      context_length: tokens of context an example has at the most.
      target_length: tokens of continuation (text sources).
      answer_length: tokens of prompt and answer together at the most (question sources).
      questions_per_example: training asks up to that many questions on one compressed context, one after the other,
        as far as answer_length reaches; scoring always asks one.
      min_context: documents that leave less context than this are left out.
      pack: whole documents of a split are joined, in order and with the tokenizer's end token between them, as long as
        they fit context_length and target (data/packing.py); text sources.
      random_start: training windows start anywhere in a document instead of at its beginning.
      buckets: context lengths that batches are padded to, ascending; empty means (context_length,).
      size, seed: how many documents to train on `generated` makes, and from which seed (the run's own seed orders
        them). corpus: what they are like.
    """

    source: str = 'generated'
    validation: int = 100
    test: int = 200
    context_length: int = 192
    target_length: int = 64
    answer_length: int = 64
    questions_per_example: int = 1
    min_context: int = 32
    pack: bool = False
    random_start: bool = True
    buckets: tuple[int, ...] = ()
    size: int = 2000
    seed: int = 0
    corpus: CorpusConfig = CorpusConfig()

    def __post_init__(self):
        for name in ('context_length', 'target_length', 'answer_length', 'questions_per_example', 'size'):
            require(getattr(self, name) >= 1, f'data.{name}', getattr(self, name), 'a positive number')
        require(self.validation >= 1, 'data.validation', self.validation, 'a positive number')
        for name in ('test', 'seed'):
            require(getattr(self, name) >= 0, f'data.{name}', getattr(self, name), 'at least 0')
        require(
            1 <= self.min_context <= self.context_length, 'data.min_context', self.min_context,
            f'1 to data.context_length={self.context_length}',
        )  # fmt: skip
        require(
            not self.pack or self.questions_per_example == 1, 'data.pack', self.pack,
            f'False for data.questions_per_example={self.questions_per_example}: a question is about one context',
        )  # fmt: skip
        if self.buckets:
            require(
                list(self.buckets) == sorted(set(self.buckets)) and self.buckets[0] > 0
                and self.buckets[-1] == self.context_length,
                'data.buckets', self.buckets, f'ascending lengths ending in data.context_length={self.context_length}',
            )  # fmt: skip

    def text_length(self, objective: str, context_length: int | None = None) -> int:
        """Tokens of text that batches reserve for an objective behind contexts of that (default: the full) length."""
        context_length = self.context_length if context_length is None else context_length
        return {'ae': context_length + 1, 'lm': self.target_length, 'ft': self.answer_length}[objective]
