"""Pre-tokenised documents in ArrayRecord shards (docs/FORMATS.md): what the files say, and reading them at random."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import grain
import numpy as np

from pic_jax.config import DataConfig
from pic_jax.data.examples import TokenisedRecord, reserved_tokens, row_length, too_short
from pic_jax.data.packing import pack
from pic_jax.data.readers import expand, split_ranges
from pic_jax.data.tokenise import fingerprint
from pic_jax.errors import ConfigError, PicJaxError, first_line
from pic_jax.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREFIX = 'arrayrecord:'
INDEX, LENGTHS = 'index.json', 'lengths.bin'
FORMAT, FORMAT_VERSION = 'pic-tokens', 1
FIELDS = ['context']
LENGTH_DTYPE = '<u4'
_NOTHING = np.zeros(0, np.int32)


class Shard(NamedTuple):
    """One file of the index: `file` in the folder, its `documents` and `tokens`, and its size in `bytes`."""

    file: str
    documents: int
    tokens: int
    bytes: int


class _Stretch(NamedTuple):
    """Which records of a file to read; the names are those of ArrayRecord's FileInstruction."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


@dataclasses.dataclass(frozen=True)
class TokenFolder:
    """A folder of shards whose index has been checked.

    Attributes:
      lengths: tokens of every document, uint32 [documents].
      dtype: of a token in the files. vocab_size: ids are below it.
    """

    folder: Path
    tokenizer_sha256: str
    vocab_size: int
    dtype: str
    shards: tuple[Shard, ...]
    lengths: np.ndarray

    @functools.cached_property
    def records(self) -> grain.sources.ArrayRecordDataSource:
        """The bytes of every document; a file is opened when it is first read, and stays open."""
        return grain.sources.ArrayRecordDataSource(
            [_Stretch(str(self.folder / s.file), 0, s.documents, s.documents) for s in self.shards]
        )


def open_folder(folder: Path) -> TokenFolder:
    """Reads and checks the index of a folder that `pic-jax tokenize` has finished; no shard is opened.

    Raises:
      PicJaxError: the index is missing or breaks a rule of the format, or a shard is missing or has another size.
    """
    path = folder / INDEX
    if not path.is_file():
        raise PicJaxError(f'{path}: no such file: expected a folder that pic-jax tokenize has finished')
    values = read_json(path)

    def need(key: str, kind: type, source: dict[str, Any] = values) -> Any:
        value = source.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise PicJaxError(f'{path}: {key}={value!r} is not valid: expected {kind.__name__}')
        return value

    for key, valid in ('format', FORMAT), ('format_version', FORMAT_VERSION), ('fields', FIELDS):
        if values.get(key) != valid:
            raise PicJaxError(f'{path}: {key}={values.get(key)!r} is not valid: expected {valid!r}')
    if need('dtype', str) not in ('uint16', 'uint32'):
        raise PicJaxError(f'{path}: dtype={values["dtype"]!r} is not valid: expected uint16 or uint32')
    kinds = {'file': str, 'documents': int, 'tokens': int, 'bytes': int}
    entries = [entry if isinstance(entry, dict) else {} for entry in need('shards', list)]
    shards = tuple(Shard(**{key: need(key, kind, entry) for key, kind in kinds.items()}) for entry in entries)
    need('source', str)  # for people
    result = TokenFolder(
        folder=folder,
        tokenizer_sha256=need('tokenizer_sha256', str),
        vocab_size=need('vocab_size', int),
        dtype=values['dtype'],
        shards=shards,
        lengths=_read_lengths(folder, need('documents', int)),
    )
    _check_shards(result, need('tokens', int))
    return result


def _read_lengths(folder: Path, documents: int) -> np.ndarray:
    path = folder / LENGTHS
    try:
        lengths = np.fromfile(path, LENGTH_DTYPE)
    except OSError as error:
        raise PicJaxError(f'{path}: cannot be read ({error.strerror})') from error
    if len(lengths) != documents or not documents:
        raise PicJaxError(f'{path} has {len(lengths)} lengths: expected {documents}, the documents of {INDEX}')
    return lengths


def _check_shards(index: TokenFolder, tokens: int) -> None:
    """Raises PicJaxError where counts or sizes do not add up. ArrayRecord itself reads a cut file as an empty one."""
    start = 0
    for shard in index.shards:
        path = index.folder / shard.file
        if Path(shard.file).name != shard.file:
            raise PicJaxError(f'{index.folder / INDEX}: shard {shard.file!r} is not the name of a file in this folder')
        if not path.is_file():
            raise PicJaxError(f'{path}: no such file, but {INDEX} lists it')
        if path.stat().st_size != shard.bytes:
            raise PicJaxError(f'{path} has {path.stat().st_size} bytes: expected {shard.bytes}, as {INDEX} says')
        lengths = index.lengths[start : start + shard.documents]
        if shard.documents < 1 or int(lengths.sum(dtype=np.int64)) != shard.tokens:
            raise PicJaxError(f'{index.folder / LENGTHS}: the lengths of {shard.file} do not add up to {shard.tokens}')
        start += shard.documents
    if start != len(index.lengths) or sum(shard.tokens for shard in index.shards) != tokens:
        raise PicJaxError(f'{index.folder / INDEX}: documents and tokens are not the sums over its shards')


class Documents(Sequence[TokenisedRecord]):
    """Documents of a folder as records without questions, read from disk each time they are asked for."""

    def __init__(self, index: TokenFolder, places: np.ndarray):
        """`places`: the documents meant, by their number in the folder."""
        self._index, self._places = index, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> TokenisedRecord: ...

    @overload
    def __getitem__(self, index: slice) -> 'Documents': ...

    def __getitem__(self, index: int | slice) -> 'TokenisedRecord | Documents':
        if isinstance(index, slice):
            return Documents(self._index, self._places[index])
        place = int(self._places[index])
        name = f'{self._index.folder} document {place}'
        try:
            data = self._index.records[place]
        except (RuntimeError, ValueError, IndexError) as error:  # what ArrayRecord raises for a damaged file
            raise PicJaxError(f'{name}: cannot be read ({first_line(error)})') from error
        dtype = np.dtype(self._index.dtype).newbyteorder('<')
        if len(data) != dtype.itemsize * self._index.lengths[place]:
            raise PicJaxError(f'{name} has {len(data)} bytes: expected {self._index.lengths[place]} tokens')
        tokens = np.frombuffer(data, dtype)
        if len(tokens) and tokens.max() >= self._index.vocab_size:  # before a large id becomes a negative one
            raise PicJaxError(f'{name} holds token {tokens.max()}: expected ids below {self._index.vocab_size}')
        return TokenisedRecord(tokens.astype(np.int32), _NOTHING, _NOTHING, None, (), name)

    def __iter__(self) -> Iterator[TokenisedRecord]:
        return (self[index] for index in range(len(self)))


def prepare(
    cfg: DataConfig,
    objectives: Sequence[str],
    tokenizer: 'PreTrainedTokenizerBase',
    vocab_size: int,
    splits: Sequence[str],
) -> tuple[dict[str, Sequence[TokenisedRecord]], int]:
    """As `data.prepare.prepare`, for `arrayrecord:` sources: documents stay on disk, and each is a group of its own.

    Raises:
      ConfigError: another tokenizer made the folder, an objective needs questions, the splits leave nothing, or
        cfg.pack has no end token to use.
      PicJaxError: the folder cannot be used, or every document of a split is too short.
    """
    if 'ft' in objectives or cfg.questions_per_example > 1:
        raise ConfigError(
            f'objective.ft and data.questions_per_example have no data: {cfg.source} holds documents, expected '
            'context, prompt and answers'
        )
    index = open_folder(expand(cfg.source.removeprefix(PREFIX)))
    ours = fingerprint(tokenizer)
    if index.tokenizer_sha256 != ours:
        raise ConfigError(
            f'data.source={cfg.source} has tokenizer_sha256={index.tokenizer_sha256[:12]}, the target of this run has '
            f'{ours[:12]}: expected what pic-jax tokenize makes with the same --base'
        )
    ids = max(tokenizer.get_vocab().values()) + 1
    if index.vocab_size != ids:
        raise PicJaxError(
            f'{index.folder / INDEX}: vocab_size={index.vocab_size} is not valid: expected {ids}, what the tokenizer '
            'has'
        )
    index = dataclasses.replace(index, vocab_size=min(ids, vocab_size))
    needed = cfg.min_context + reserved_tokens(cfg, objectives)
    parts: dict[str, Sequence[TokenisedRecord]] = {}
    dropped = 0
    for name, places in split_ranges(len(index.lengths), cfg.validation, cfg.test).items():
        if name not in splits:
            continue
        lengths = index.lengths[places.start : places.stop]
        if cfg.pack:
            documents = Documents(index, np.arange(places.start, places.stop, dtype=np.uint32))
            rows = pack(documents, lengths, row_length(cfg, objectives), needed, tokenizer.eos_token_id)
            parts[name], used = rows, rows.num_documents
        else:
            parts[name] = Documents(index, (places.start + np.flatnonzero(lengths >= needed)).astype(np.uint32))
            used = len(parts[name])
        if len(places) and not used:
            raise too_short(len(places), f'{index.folder} document {places.start}', cfg, objectives)
        dropped += len(places) - used
    return parts, dropped
