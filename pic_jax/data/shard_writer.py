"""Writes pre-tokenised documents: one shard at a time, each a function of the source and of nothing else."""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from pic_jax.data.records import Record
from pic_jax.data.token_shards import FIELDS, FORMAT, FORMAT_VERSION, INDEX, LENGTH_DTYPE, LENGTHS
from pic_jax.data.tokenise import encode_all
from pic_jax.errors import ConfigError, PicJaxError, first_line
from pic_jax.files import read_json, replacing, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END = 'end.json'
_TOGETHER = 1000  # documents that a tokenizer gets at once
MOST_SHARDS = 10**6  # more files than a folder can use: a damaged number
_RECORD_OPTIONS = 'group_size:1'  # every record is compressed by itself, so that one can be read alone


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the bytes of shards depend on; every file of a folder repeats it.

    Attributes:
      source, source_revision: the name of the source, and what pins its text (`stream.revision_of`).
      tokenizer: its name, for people. tokenizer_sha256: `tokenise.fingerprint`.
      vocab_size: ids are below it. eos_token_id: the tokenizer's; it is not in the documents.
      documents_per_shard: of every shard but the last. limit: the first so many documents only, or None.
      passage_tokens: tokens of a passage where the source is a text file, else None.
    """

    source: str
    source_revision: str
    tokenizer: str
    tokenizer_sha256: str
    vocab_size: int
    eos_token_id: int | None
    documents_per_shard: int
    limit: int | None
    passage_tokens: int | None

    @property
    def dtype(self) -> str:
        """The smallest of the two types that holds every id."""
        return 'uint16' if self.vocab_size <= 2**16 else 'uint32'

    def header(self) -> dict[str, Any]:
        """The fields with which every file of the folder begins."""
        kind = {'format': FORMAT, 'format_version': FORMAT_VERSION, 'fields': FIELDS, 'dtype': self.dtype}
        return kind | dataclasses.asdict(self)


def write_shards(
    documents: Iterable[Record],
    tokenizer: 'PreTrainedTokenizerBase',
    settings: Settings,
    folder: Path,
    host: int,
    hosts: int,
    note: Callable[[str], None],
) -> int:
    """Writes every shard k with k % hosts == host that is not finished yet, then notes where the source ends.

    Args:
      documents: all of them, whatever the host: those of other shards are passed over. None is read where nothing is
        left to do.
      note: takes lines about the progress.

    Returns:
      how many shards were written.

    Raises:
      ConfigError: the folder was begun with other settings.
      PicJaxError: the source or the folder cannot be used. Finished shards stay.
    """
    _check_settings(folder, settings)
    left = missing(folder)
    if left is not None and not any(number % hosts == host for number in left):
        return 0
    count = written = 0
    blocks = itertools.groupby(
        enumerate(itertools.islice(documents, settings.limit)), lambda pair: pair[0] // settings.documents_per_shard
    )
    for number, block in blocks:
        owned = number % hosts == host
        if owned and not is_finished(folder, number):
            texts = (record.context for _, record in block)
            done, tokens = _write_shard(folder, number, texts, tokenizer, settings)
            written += 1
            note(f'{shard_name(number)}: {done:,} documents, {tokens:,} tokens')
        else:
            done = sum(1 for _ in block)
        count += done
    if not count:
        raise PicJaxError(f'{settings.source} holds no documents')
    write_text(folder / END, _json(settings.header() | {'documents': count}))
    return written


def _write_shard(
    folder: Path, number: int, texts: Iterator[str], tokenizer: 'PreTrainedTokenizerBase', settings: Settings
) -> tuple[int, int]:
    """One shard, then the file beside it that says it is finished; returns its documents and tokens."""
    path, lengths = folder / shard_name(number), []
    dtype = np.dtype(settings.dtype).newbyteorder('<')
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PicJaxError(f'{folder}: cannot be written: {error.strerror}') from error
    with replacing(path) as temporary:
        try:
            with contextlib.closing(ArrayRecordWriter(str(temporary), _RECORD_OPTIONS)) as writer:
                for ids in _encoded(texts, tokenizer):
                    writer.write(np.asarray(ids, dtype).tobytes())
                    lengths.append(len(ids))
            with contextlib.closing(ArrayRecordReader(str(temporary))) as reader:
                readable = reader.num_records()
        except RuntimeError as error:  # all that ArrayRecord raises, for a full disk too
            raise PicJaxError(f'{path}: cannot be written ({first_line(error)})') from error
        if readable != len(lengths):
            raise PicJaxError(f'{path}: {readable} of {len(lengths)} documents were written')
        size = temporary.stat().st_size
    own = {'documents': len(lengths), 'tokens': sum(lengths), 'bytes': size, 'lengths': lengths}
    write_text(path.with_suffix('.json'), _json(settings.header() | own))
    return len(lengths), sum(lengths)


def _encoded(texts: Iterator[str], tokenizer: 'PreTrainedTokenizerBase') -> Iterator[list[int]]:
    """Ids of every text, without special tokens."""
    while some := list(itertools.islice(texts, _TOGETHER)):
        yield from encode_all(tokenizer, some)


def finish(folder: Path) -> dict[str, Any] | None:
    """Writes the index once every shard is there; None while some are missing (of whichever host).

    Returns:
      the index.

    Raises:
      PicJaxError: the folder cannot be used, or its shards were made with different settings.
    """
    end = _end_of(folder)
    if end is None or missing(folder):
        return None
    header, documents, numbers = end
    shards, lengths = [], []
    for number in numbers:
        path = folder / shard_name(number)
        own = read_json(path.with_suffix('.json'))
        _refuse_differences(path.with_suffix('.json'), own, header)
        if not _is_whole(own):
            raise PicJaxError(f'{path.with_suffix(".json")} is damaged: delete it and run pic-jax tokenize again')
        lengths += own['lengths']
        shards.append({'file': path.name} | {key: own[key] for key in ('documents', 'tokens', 'bytes')})
    if len(lengths) != documents:
        raise PicJaxError(f'{folder} has shards of {len(lengths)} documents: expected {documents}, as {END} says')
    with replacing(folder / LENGTHS) as temporary:
        np.asarray(lengths, LENGTH_DTYPE).tofile(temporary)
    index = header | {'documents': len(lengths), 'tokens': sum(lengths), 'longest': max(lengths), 'shards': shards}
    write_text(folder / INDEX, _json(index))
    for left in folder.glob('.tokens-*.tmp'):  # of processes that were killed: nothing is being written any more
        left.unlink(missing_ok=True)
    return index


def _check_settings(folder: Path, settings: Settings) -> None:
    """Raises ConfigError where a file of the folder was written with other settings, naming those that differ."""
    for path in sorted((*folder.glob('tokens-*.json'), *folder.glob(END), *folder.glob(INDEX))):
        _refuse_differences(path, read_json(path), settings.header())


def _refuse_differences(path: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    differing = [key for key in ours if theirs.get(key) != ours[key] and key != 'tokenizer']
    if differing:
        key = differing[0]
        raise ConfigError(
            f'{path} was made with {key}={theirs.get(key)!r}, not with {key}={ours[key]!r}: expected an empty folder, '
            'or the settings with which this one was begun'
        )


def missing(folder: Path) -> list[int] | None:
    """Numbers of the shards that are not finished; None where no process has seen the end of the source yet."""
    end = _end_of(folder)
    return end and [number for number in end[2] if not is_finished(folder, number)]


def _end_of(folder: Path) -> tuple[dict[str, Any], int, range] | None:
    """Header, documents and numbers of all shards, as the process knew them that saw the end of the source."""
    path = folder / END
    if not path.is_file():
        return None
    header = read_json(path)
    documents, size = header.pop('documents', None), header.get('documents_per_shard')
    whole = all(isinstance(number, int) and number >= 1 for number in (documents, size))
    if not whole or -(-documents // size) > MOST_SHARDS:
        raise PicJaxError(f'{path} is damaged: delete it and run pic-jax tokenize again')
    return header, documents, range(-(-documents // size))


def _is_whole(own: dict[str, Any]) -> bool:
    """Whether the file beside a shard says how long each of its documents is."""
    lengths = own.get('lengths')
    if not isinstance(lengths, list) or not all(type(n) is int and 0 <= n < 2**32 for n in lengths):
        return False
    return bool(lengths) and own.get('documents') == len(lengths) and own.get('tokens') == sum(lengths)


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f'tokens-{number:05d}.arrayrecord'


def is_finished(folder: Path, number: int) -> bool:
    """Whether a shard is there, whole, with the file beside it."""
    path = folder / shard_name(number)
    beside = path.with_suffix('.json')
    return path.is_file() and beside.is_file() and read_json(beside).get('bytes') == path.stat().st_size


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values) + '\n'
