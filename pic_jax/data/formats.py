"""File formats: the text of a file becomes records."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pic_jax.data.records import Record, from_fields
from pic_jax.errors import PicJaxError

# A passage holds this many characters per token of the window, so that it fills one with any tokenizer.
_CHARACTERS_PER_TOKEN = 6
EXAMPLES = 4  # worked examples in the context of a question that comes without one


def lines_of(text: str) -> list[str]:
    """The lines of a .jsonl text: JSON strings may hold characters that str.splitlines() takes for line ends."""
    return text.split('\n')


def jsonl(lines: Iterable[str], file: str) -> Iterator[Record]:
    """One record per line, with the fields of `records.from_fields`.

    Raises:
      PicJaxError: a line is not a record; the message has its number.
    """
    for source, fields in json_lines(lines, file):
        if record := from_fields(fields, source):
            yield record


def json_lines(lines: Iterable[str], file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """('file:line', object) of every line that is not blank.

    Raises:
      PicJaxError: a line is not a JSON object; the message has its number.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        source = f'{file}:{number}'
        try:
            fields = _parse(line)
        except ValueError as error:
            where = f'{error.msg} at column {error.colno}' if isinstance(error, json.JSONDecodeError) else error
            raise PicJaxError(f'{source}: not valid JSON ({where})') from error
        if not isinstance(fields, dict):
            raise PicJaxError(f'{source}: {line.strip()[:40]} is not a record: expected a JSON object')
        yield source, fields


def _parse(text: str) -> Any:
    """A JSON text; whatever is wrong with it is a ValueError (numbers of thousands of digits are, too)."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError('nested too deeply') from error


def with_examples(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Questions and answers without a context, each with others of the table as worked examples in its place.

    Every block of 2 * `EXAMPLES` rows is cut in two: either half is the context of the questions in the other, so no
    question is answered in its own context, and one context serves several questions. A block is one group. A row left
    over at the end, with no other in its block, is not asked.

    Args:
      rows: (source, fields with `question` and `answer`).
    """
    left = iter(rows)
    for number in itertools.count():
        block = list(itertools.islice(left, 2 * EXAMPLES))
        if len(block) < 2:
            return
        first, second = block[: len(block) // 2], block[len(block) // 2 :]
        for examples, asked in ((second, first), (first, second)):
            context = '\n\n'.join(f'Question: {row["question"]}\nAnswer: {row["answer"]}' for _, row in examples)
            for source, row in asked:
                yield source, {**row, 'context': context, 'title': f'block {number}', 'task': 'icl'}


def squad(text: str, file: str) -> Iterator[Record]:
    """SQuAD v1.1 or v2: articles under `data`, each with `paragraphs` of one `context` and its `qas`.

    An article is a group. Questions without an answer (v2) are left out.

    Raises:
      PicJaxError: the file is not JSON of that shape.
    """
    try:
        articles = _parse(text)['data']
        for number, article in enumerate(articles):
            title = article.get('title') or f'article {number}'
            for paragraph in article['paragraphs']:
                for question in paragraph['qas']:
                    fields = {
                        'title': title,
                        'context': paragraph['context'],
                        'question': question['question'],
                        'answers': [answer['text'] for answer in question['answers']],
                    }
                    if record := from_fields(fields, f'{file}: question {question.get("id", fields["question"])}'):
                        yield record
    except json.JSONDecodeError as error:
        raise PicJaxError(f'{file}:{error.lineno}: not valid JSON ({error.msg})') from error
    except ValueError as error:
        raise PicJaxError(f'{file}: not valid JSON ({error})') from error
    except (KeyError, TypeError, AttributeError) as error:
        raise PicJaxError(
            f'{file}: not SQuAD format ({error}): expected data/paragraphs with context and qas (question, answers)'
        ) from error


def passages(text: str, file: str, window: int) -> Iterator[Record]:
    """Plain text as passages of whole paragraphs (whole lines, where no line is blank), each a group of its own.

    Args:
      text: the whole file.
      file: its name.
      window: tokens that a passage should at least fill.
    """
    blocks = _blocks(text, r'\n\s*\n')
    if len(blocks) == 1:
        blocks = _blocks(text, r'\n')
    shortest = window * _CHARACTERS_PER_TOKEN
    starts, size = [], shortest
    for start, block in blocks:
        if size >= shortest:
            starts.append(start)
            size = 0
        size += len(block)
    if size < shortest and len(starts) > 1:
        starts.pop()  # the short rest stays with the passage before it
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        passage = text[start:end].strip()
        yield Record(passage, None, (), group=passage, source=f'{file}:{text.count(chr(10), 0, start) + 1}')


def _blocks(text: str, separator: str) -> list[tuple[int, str]]:
    """(offset, text) of each part between separators that is not blank."""
    ends = [(match.start(), match.end()) for match in re.finditer(separator, text)]
    starts = [0, *(end for _, end in ends)]
    stops = [*(start for start, _ in ends), len(text)]
    return [(a, text[a:b]) for a, b in zip(starts, stops, strict=True) if text[a:b].strip()]
