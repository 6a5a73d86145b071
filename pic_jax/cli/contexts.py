"""`pic-jax contexts`: looks into files of stored contexts, cuts rows out of them, joins them, drops vectors."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pic_jax.cli import contexts_to
from pic_jax.config.checks import is_whole_number
from pic_jax.errors import ConfigError
from pic_jax.interop import context_files, contexts
from pic_jax.interop.shrink import shrink

HELP = 'show, slice, merge or shrink files of stored contexts, or hand them to a serving engine'
EXAMPLE = """examples:
  pic-jax contexts show notes.safetensors
  pic-jax contexts slice notes.safetensors --rows 0,2:5 --out some.safetensors
  pic-jax contexts merge notes.safetensors more.safetensors --out all.safetensors
  pic-jax contexts to vllm notes.safetensors --base=models/llama --question="Who called?" --out request.json
  pic-jax contexts shrink notes.safetensors small.safetensors --ratio=16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the actions."""
    actions = parser.add_subparsers(dest='action', required=True, metavar='show | slice | merge | shrink | to')

    def add(name: str, text: str, example: str = EXAMPLE) -> argparse.ArgumentParser:
        return actions.add_parser(
            name,
            help=text,
            description=text,
            epilog=example,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    show = add('show', 'print what a file holds, one line per context')
    show.add_argument('file', metavar='FILE')
    show.add_argument('--json', action='store_true', help='print JSON instead of the table')
    cut = add('slice', 'copy some contexts into a new file')
    cut.add_argument('file', metavar='FILE')
    cut.add_argument('--rows', required=True, help='which, from 0; 0,2:5 are rows 0, 2, 3 and 4')
    merge = add('merge', 'join files of one compressor and one target, in the order given')
    merge.add_argument('files', metavar='FILE', nargs='+')
    less = add('shrink', 'drop vectors: what the compressor, if trained at several ratios, makes at a coarser one')
    less.add_argument('file', metavar='IN')
    less.add_argument('out', metavar='OUT', help='the new file')
    less.add_argument('--ratio', type=int, required=True, metavar='R', help='source tokens per vector')
    contexts_to.add_arguments(add('to', 'write what a serving engine takes', contexts_to.EXAMPLE))
    for action in (cut, merge):
        action.add_argument('--out', required=True, metavar='OUT', help='the new file')
    for action in (cut, merge, less):
        action.add_argument('--overwrite', action='store_true', help='replace OUT where it exists')


def run(args: argparse.Namespace) -> int:
    """Runs the action; returns the exit code.

    Raises:
      ConfigError: `--rows`, `--ratio` or OUT is not usable.
      PicJaxError: a file is missing or broken, does not go with the others, or cannot be shrunk.
    """
    if args.action == 'show':
        description = contexts.describe(context_files.read(args.file))
        print(json.dumps(description, indent=2) if args.json else _table(args.file, description))
        return 0
    out = Path(args.out)
    if out.exists() and not args.overwrite:
        raise ConfigError(f'OUT={out} exists: expected a new file name, or --overwrite')
    if args.action == 'to':
        contexts_to.run(args, out)
        print(out)
        return 0
    if args.action == 'slice':
        stored = context_files.read(args.file)
        result = contexts.select(stored, parse_rows(args.rows, len(stored)))
    elif args.action == 'shrink':
        result = shrink(context_files.read(args.file), args.ratio, args.file)
    else:
        result = contexts.merge([context_files.read(file) for file in args.files], args.files)
    context_files.write(out, result)
    print(f'{len(result)} contexts written', file=sys.stderr)
    print(out)
    return 0


def parse_rows(text: str, count: int) -> list[int]:
    """Row numbers of `0,2:5`: single rows, and ranges whose end is left out and whose ends may be missing.

    Args:
      text: the list.
      count: how many rows there are; all numbers must fit.

    Raises:
      ConfigError: an item that is neither, selects nothing, or is out of range.
    """
    rows: list[int] = []
    for item in text.split(','):
        first, colon, last = item.strip().partition(':')
        numbers = [number for number in (first, last) if number]
        if all(map(is_whole_number, numbers)) and (numbers or colon):
            start = int(first or 0)
            stop = int(last or count) if colon else start + 1
            if start < stop <= count:
                rows.extend(range(start, stop))
                continue
        raise ConfigError(
            f'--rows={text}: {item.strip()!r} is not valid: expected rows like 3 or ranges like 2:5, '
            f'within 0 to {count - 1} (the end of a range within {count})'
        )
    return rows


def _table(file: str, description: dict[str, Any]) -> str:
    """The description as text: shared fields, then one aligned line per context."""
    rows: list[tuple[str, ...]] = [('row', 'id', 'source tokens', 'k', 'ratio', 'bytes')]
    for context in description['contexts']:
        numbers = (context['source_tokens'], context['k'], f'{context["ratio"]:.2f}', context['bytes'])
        rows.append((str(context['row']), _printable(context['id']), *map(str, numbers)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shared = {'file': file} | {key: value for key, value in description.items() if key != 'contexts'}
    lines = [f'{key:<18}{_printable(value)}' for key, value in shared.items()]
    for row in rows:
        cells = [c.ljust(w) if i == 1 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append('  '.join(cells).rstrip())
    return '\n'.join(lines)


def _printable(value: Any) -> str:
    """`value` as one line that cannot steer a terminal: a file's strings are not to be trusted."""
    text = str(list(value)) if isinstance(value, tuple) else str(value)
    return text if text.isprintable() else ascii(text)
