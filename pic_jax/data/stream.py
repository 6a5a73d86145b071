"""Documents of a source one after the other, however large it is: what `pic-jax tokenize` reads."""

from collections.abc import Iterator
from pathlib import Path

from pic_jax.data import formats
from pic_jax.data.readers import expand, hub_parts, read_text
from pic_jax.data.records import Record, from_fields
from pic_jax.errors import ConfigError, PicJaxError, first_line
from pic_jax.files import sha256

TEXT_FILES = ('.txt', '.md')


def revision_of(source: str, wanted: str | None = None) -> str:
    """What pins the text of a source: the sha256 of a file, or the commit of a data set on the Hub.

    Args:
      wanted: branch, tag or commit of a data set on the Hub; None is its default branch.

    Raises:
      ConfigError: a source of no known kind, or a revision of a file.
      PicJaxError: it cannot be read.
    """
    if source.startswith('hub:'):
        import huggingface_hub

        try:
            commit = huggingface_hub.HfApi().dataset_info(hub_parts(source)[0], revision=wanted).sha
        except Exception as error:  # the hub client raises many unrelated types
            raise PicJaxError(f'{source}: cannot be found ({first_line(error)})') from error
        if commit is None:
            raise PicJaxError(f'{source}: the Hub names no commit of it')
        return commit
    if wanted is not None:
        raise ConfigError(f'--revision={wanted} is not valid for {source}: expected a hub: source')
    path = _file(source)
    try:
        return sha256(path)
    except OSError as error:
        raise PicJaxError(f'{path}: cannot be read ({error.strerror})') from error


def documents(source: str, revision: str, passage_tokens: int) -> Iterator[Record]:
    """Every document of a source that is not blank, in order, read as they are asked for.

    Args:
      source: a .jsonl file of documents, a .txt or .md file (it is cut into passages, and read whole), or
        `hub:owner/name[:config[:split]]`, which is streamed.
      revision: as `revision_of` found it.
      passage_tokens: tokens that a passage of a text file should at least fill.

    Raises:
      PicJaxError: a document cannot be read or is a question; the message has its line or row.
    """
    for record in _records(source, revision, passage_tokens):
        if record.prompt is not None:
            raise PicJaxError(
                f'{record.source} is a question: expected documents (text); questions are read as they are, by '
                f'data.source={source}'
            )
        yield record


def _records(source: str, revision: str, passage_tokens: int) -> Iterator[Record]:
    if source.startswith('hub:'):
        return _rows(source, revision)
    path = _file(source)
    if path.suffix == '.jsonl':
        return formats.jsonl(_lines(path), path.name)
    return formats.passages(read_text(path), path.name, passage_tokens)


def _file(source: str) -> Path:
    path = expand(source)
    if path.suffix not in ('.jsonl', *TEXT_FILES):
        raise ConfigError(
            f'source {source!r} is not valid: expected a .jsonl, .txt or .md file or hub:owner/name[:config[:split]]'
        )
    return path


def _lines(path: Path) -> Iterator[str]:
    """Lines without their ends; only a line feed ends one."""
    try:
        with open(path, 'rb') as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield line.removesuffix(b'\n').decode('utf-8-sig' if number == 1 else 'utf-8')
                except UnicodeDecodeError as error:
                    raise PicJaxError(f'{path.name}:{number}: byte {error.start} is not UTF-8 text') from error
    except OSError as error:
        raise PicJaxError(f'{path}: cannot be read ({error.strerror})') from error


def _rows(source: str, revision: str) -> Iterator[Record]:
    import datasets

    name, config, split = hub_parts(source)
    row = None
    try:
        table = datasets.load_dataset(name, config, split=split, revision=revision, streaming=True)
        for row, fields in enumerate(table):
            if record := from_fields(fields, f'{source} row {row}'):
                yield record
    except PicJaxError:
        raise
    except Exception as error:  # of the network and the Hub's client: many unrelated types
        where = 'cannot be loaded' if row is None else f'reading stopped after row {row}'
        raise PicJaxError(f'{source}: split {split} {where} ({first_line(error)})') from error
