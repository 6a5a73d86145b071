"""The unit of data: one document, or one question about one."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pic_jax.errors import PicJaxError

QUESTION_TASKS = ('qa', 'icl')  # the context tells the answer, or shows by examples how to find one


@dataclasses.dataclass(frozen=True)
class Record:
    """One document, or one question about one.

    Attributes:
      context: what gets compressed; the whole text of a text source.
      prompt: the question, or None for plain text.
      answers: accepted answers (training uses the first); empty for plain text.
      group: records of one group never end up on two sides of a split.
      source: where the record stands, for messages: 'stories.jsonl:12'.
      place: where in the context the answer is told, as a fraction of its length; None where that is not known.
      task: what a question is scored as, one of `QUESTION_TASKS`.
    """

    context: str
    prompt: str | None
    answers: tuple[str, ...]
    group: str
    source: str
    place: float | None = None
    task: str = 'qa'


def from_fields(fields: Mapping[str, Any], source: str) -> Record | None:
    """The record that named fields describe; jsonl lines and table rows share this.

    Args:
      fields: either `text`, or `context` (or `input`), `prompt` (or `question`) and `answers` (or `answer`): a string,
        a list of strings, or `{"text": [...]}` as SQuAD tables have it. A `title` groups questions; others group by
        context. `task` says `icl` where the context is examples of how to answer. Other fields are not read.
      source: named in messages.

    Returns:
      The record, or None where there is nothing to learn from: blank text, or a question without an answer.

    Raises:
      PicJaxError: a field is missing or of the wrong type.
    """
    if 'text' in fields:
        text = _string(fields, 'text', source)
        return Record(text, None, (), group=text, source=source) if text.strip() else None
    text = context_field(fields)
    question = 'prompt' if 'prompt' in fields else 'question'
    answer = 'answers' if 'answers' in fields else 'answer'
    missing = [name for name in (text, question, answer) if name not in fields]
    if missing:
        raise PicJaxError(
            f'{source}: fields {", ".join(map(str, fields)) or "none"} are not a record: '
            'expected text, or context (or input) with prompt (or question) and answers (or answer)'
        )
    context, prompt = (_string(fields, name, source) for name in (text, question))
    prompt = prompt.strip()  # some of SQuAD's questions stand behind long runs of spaces
    if not context.strip():
        raise PicJaxError(f'{source}: {text} is blank: expected the text that answers the question')
    answers = _answers(fields[answer], f'{source}: {answer}')
    if not answers:
        return None
    title = fields.get('title')
    group = title if isinstance(title, str) and title else context
    task = 'icl' if fields.get('task') == 'icl' else 'qa'
    return Record(context, prompt, answers, group, source, task=task)


def context_field(fields: Mapping[str, Any]) -> str:
    """Which field holds the context: `context`, or `input` as PwC names it."""
    return 'context' if 'context' in fields else 'input'


def _string(fields: Mapping[str, Any], name: str, source: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise PicJaxError(f'{source}: {name}={str(value)[:40]} is not valid: expected a string')
    return check_text(value, f'{source}: {name}')


def _answers(value: Any, where: str) -> tuple[str, ...]:
    """The distinct answers that are not blank, in order."""
    values = value.get('text') if isinstance(value, Mapping) else value
    values = [values] if isinstance(values, str) else values
    if not isinstance(values, list | tuple) or not all(isinstance(item, str) for item in values):
        raise PicJaxError(f'{where}={str(value)[:40]} is not valid: expected a string or a list of strings')
    return tuple(dict.fromkeys(check_text(item, where) for item in values if item.strip()))


def check_text(text: str, where: str) -> str:
    """The text itself.

    Raises:
      PicJaxError: it has half of a surrogate pair, as JSON's escapes can say and no tokenizer reads.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PicJaxError(
            f'{where} is not valid: {text[error.start]!a} at character {error.start} is half of a surrogate pair, '
            'expected Unicode text'
        ) from error
    return text
