"""Readers: a named source becomes a list of records, and records become train, validation and test."""

import dataclasses
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pic_jax.data import formats
from pic_jax.data.records import Record, check_text, context_field, from_fields
from pic_jax.errors import ConfigError, PicJaxError, first_line

if TYPE_CHECKING:
    import datasets


def read(source: str, window: int) -> list[Record]:
    """Reads every record of `source`, in the order of the source.

    Args:
      source: a .jsonl, .txt/.md or SQuAD-format .json file, or `hub:owner/name[:config[:split]]`; `$NAME` at the start
        of a path is an environment variable.
      window: tokens of context and target together; a text file is cut into passages that fill it.

    Raises:
      ConfigError: `source` is none of these, or its environment variable is not set.
      PicJaxError: the source cannot be read, is empty or is malformed (the message has the line).
    """
    is_hub = source.startswith('hub:')
    records = from_dataset(_download(source), source) if is_hub else _read_file(source, window)
    if not records:
        raise PicJaxError(f'{source} holds no records')
    return records


def expand(path: str) -> Path:
    """`path` with a leading `$NAME` replaced by that environment variable.

    Raises:
      ConfigError: the variable is not set.
    """
    match = re.match(r'\$(\w+)(?=/|$)', path)
    if match is None:
        return Path(path)
    if not os.environ.get(match[1]):
        raise ConfigError(f'{path}: the environment variable {match[1]} is not set')
    return Path(os.environ[match[1]] + path[match.end() :])


def from_dataset(dataset: 'datasets.Dataset', name: str) -> list[Record]:
    """Records of a table whose columns are named like the fields of a .jsonl line.

    A table of questions and answers alone, as GSM8K is, has its own rows as examples: `formats.with_examples`.

    Raises:
      PicJaxError: the columns are not recognised, or a row is malformed.
    """
    rows: Iterator[tuple[str, dict[str, Any]]] = ((f'{name} row {number}', row) for number, row in enumerate(dataset))
    columns = set(dataset.column_names)
    if {'question', 'answer'} <= columns and not columns & {'text', 'context', 'input'}:
        rows = formats.with_examples(rows)
    records = (from_fields(row, source) for source, row in rows)
    return [record for record in records if record]


def split(records: list[Record], validation: int, test: int) -> dict[str, list[Record]]:
    """Holds out whole groups from the end: test is the last `test` groups, validation the ones before it.

    Groups are counted in the order of their first record.

    Returns:
      `train`, `validation` and `test`, each in the order of `records`.

    Raises:
      ConfigError: nothing would be left to train on, or a count is negative.
    """
    groups = list(dict.fromkeys(record.group for record in records))
    sides = split_ranges(len(groups), validation, test)
    side_of = {groups[place]: name for name, places in sides.items() for place in places}
    parts: dict[str, list[Record]] = {name: [] for name in sides}
    for record in records:
        parts[side_of[record.group]].append(record)
    return parts


def split_ranges(groups: int, validation: int, test: int) -> dict[str, range]:
    """Which of so many groups are `train`, `validation` and `test`.

    Raises:
      ConfigError: nothing would be left to train on, or a count is negative.
    """
    train = groups - validation - test
    if train <= 0 or validation < 0 or test < 0:
        raise ConfigError(
            f'data.validation={validation} and data.test={test} are not valid: expected a sum below '
            f'the {groups} groups of the source, so that some are left to train on'
        )
    return {
        'train': range(train),
        'validation': range(train, train + validation),
        'test': range(train + validation, groups),
    }


def documents(records: list[Record]) -> list[Record]:
    """The distinct contexts of `records`, in order, as plain text: a question source read for its documents."""
    first: dict[str, Record] = {}
    for record in records:
        first.setdefault(record.context, record)
    return [dataclasses.replace(record, prompt=None, answers=()) for record in first.values()]


def _read_file(source: str, window: int) -> list[Record]:
    path = expand(source)
    if path.suffix not in ('.jsonl', '.json', '.txt', '.md'):
        raise ConfigError(
            f'data.source={source!r} is not valid: expected a .jsonl, .json, .txt or .md file, '
            'hub:owner/name[:config[:split]], arrayrecord:folder or generated'
        )
    text = read_text(path)
    if path.suffix == '.jsonl':
        return list(formats.jsonl(formats.lines_of(text), path.name))
    if path.suffix == '.json':
        return list(formats.squad(text, path.name))
    return list(formats.passages(text, path.name, window))


def read_contexts(file: str) -> list[tuple[str, str]]:
    """(name, text) of every context in a file that is to be compressed.

    Args:
      file: a .jsonl file (each line has `text`, `context` or `input`; named 'file.jsonl:line'), any other text file
        (one context, named like the file), or `-` for standard input.

    Raises:
      PicJaxError: the file cannot be read or is empty, or a line has no text (the message has its number).
    """
    if file == '-':
        try:
            text = sys.stdin.read()
        except UnicodeDecodeError as error:
            raise PicJaxError(f'standard input: byte {error.start} is not UTF-8 text') from error
        if not text.strip():
            raise PicJaxError('standard input is empty')
        return [('-', check_text(text, 'standard input'))]
    path = expand(file)
    text = read_text(path)
    if path.suffix != '.jsonl':
        return [(path.name, text)]
    named = []
    for source, fields in formats.json_lines(formats.lines_of(text), path.name):
        value = fields.get('text' if 'text' in fields else context_field(fields))
        if not isinstance(value, str) or not value.strip():
            raise PicJaxError(f'{source}: expected a text or context that is not blank')
        named.append((source, check_text(value, f'{source}: the text')))
    return named


def read_text(path: Path) -> str:
    """The whole of a text file.

    Raises:
      PicJaxError: it cannot be read, is not UTF-8, or is blank.
    """
    try:
        text = path.read_text(encoding='utf-8-sig')
    except OSError as error:
        raise PicJaxError(f'{path}: cannot be read ({error.strerror})') from error
    except UnicodeDecodeError as error:
        raise PicJaxError(f'{path}: byte {error.start} is not UTF-8 text') from error
    if not text.strip():
        raise PicJaxError(f'{path} is empty')
    return text


def _download(source: str) -> 'datasets.Dataset':
    import datasets

    name, config, split = hub_parts(source)
    try:
        return datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the hub client raises many unrelated types
        raise PicJaxError(f'{source}: split {split} cannot be loaded ({first_line(error)})') from error


def hub_parts(source: str) -> tuple[str, str | None, str]:
    """Name, config (None: the only one) and split of `hub:owner/name[:config[:split]]`."""
    name, config, split, *_ = [*source.removeprefix('hub:').split(':', 2), '', '']
    return name, config or None, split or 'train'
