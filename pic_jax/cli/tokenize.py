"""`pic-jax tokenize`: documents become shards of token ids, which training reads from disk."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pic_jax.data.shard_writer import Settings

HELP = 'tokenise documents once, into shards that training reads from disk; run again to resume'
EXAMPLE = """examples:
  pic-jax tokenize notes.jsonl --base=path/to/hf-llama --out=notes_tokens
  pic-jax tokenize hub:HuggingFaceFW/fineweb:sample-10BT --base=hub:meta-llama/Llama-2-7b-hf --out=$FINEWEB
  pic-jax tokenize hub:HuggingFaceFW/fineweb:sample-10BT --base=hub:meta-llama/Llama-2-7b-hf --out=$FINEWEB --shard=3/8
  pic-jax tokenize --finish --out=$FINEWEB

then train with --config.data.source='arrayrecord:$FINEWEB'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the source, the tokenizer and the folder."""
    source_help = '.jsonl (lines with text), .txt or .md file, or hub:owner/name[:config[:split]], which is streamed'
    parser.add_argument('source', metavar='SOURCE', nargs='?', help=source_help)
    base_help = "model folder with the target's tokenizer, or hub:owner/name[@revision]; no weights are read"
    parser.add_argument('--base', metavar='MODEL', help=base_help)
    parser.add_argument('--out', metavar='DIR', required=True, help='folder of the shards; one begun before goes on')
    shard_help = 'be host I (from 0) of N: write every N-th shard. Shards are the same for any N (default: 0/1)'
    parser.add_argument('--shard', metavar='I/N', default='0/1', help=shard_help)
    parser.add_argument(
        '--documents_per_shard', type=int, metavar='N', default=50000, help='of every shard but the last (50000)'
    )
    parser.add_argument('--limit', type=int, metavar='N', help='the first N documents only')
    parser.add_argument(
        '--passage_tokens', type=int, metavar='N', default=1024, help='.txt and .md: tokens a passage fills (1024)'
    )
    revision_help = 'hub: sources: branch, tag or commit (default: the newest; its commit is kept in the index)'
    parser.add_argument('--revision', help=revision_help)
    finish_help = 'only write the index, where every shard is there and no host saw the last one'
    parser.add_argument('--finish', action='store_true', help=finish_help)
    parser.add_argument('--json', action='store_true', help='print the summary as JSON')


def run(args: argparse.Namespace) -> int:
    """Writes this host's shards, and the index where all are there; prints what the folder holds."""
    from pic_jax.data import shard_writer

    folder, written = Path(args.out), 0
    host, hosts = _host(args)
    if not args.finish:
        written = _write(args, folder, host, hosts)
    index = shard_writer.finish(folder)
    if index is None and args.finish:
        raise _unfinished(folder)
    summary = {'folder': str(folder), 'complete': index is not None, 'written': written, 'host': host, 'hosts': hosts}
    if index is not None:
        summary |= {key: index[key] for key in ('documents', 'tokens', 'longest')} | {'shards': len(index['shards'])}
    print(json.dumps(summary) if args.json else _as_text(summary))
    return 0


def _host(args: argparse.Namespace) -> tuple[int, int]:
    """I and N of --shard, once all numbers and the words that go together have been checked."""
    from pic_jax.config.checks import is_whole_number
    from pic_jax.errors import ConfigError

    host, _, hosts = args.shard.partition('/')
    if not (is_whole_number(host) and is_whole_number(hosts) and int(host) < int(hosts)):
        raise ConfigError(f'--shard={args.shard} is not valid: expected I/N with I from 0 to N - 1')
    for name in ('documents_per_shard', 'limit', 'passage_tokens'):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f'--{name}={value} is not valid: expected a positive number')
    if args.finish:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        alone = vars(parser.parse_args(['--finish', f'--out={args.out}']))
        for name, value in alone.items():
            given = getattr(args, name)
            if name != 'json' and given != value:
                raise ConfigError(f'--finish reads no source: expected --finish and --out alone, not {name}={given}')
    elif not (args.source and args.base):
        raise ConfigError('nothing to tokenise: expected SOURCE and --base, or --finish')
    return int(host), int(hosts)


def _write(args: argparse.Namespace, folder: Path, host: int, hosts: int) -> int:
    """Writes what is missing of this host's shards; returns how many."""
    from pic_jax.data import shard_writer, stream
    from pic_jax.data.tokenise import load_tokenizer
    from pic_jax.models import hub

    if args.base.startswith(hub.PREFIX):
        base = hub.snapshot(args.base, hub.TOKENIZER_FILES)
    else:
        from pic_jax.run import named_folder

        base = named_folder(args.base)
    tokenizer = load_tokenizer(base)
    settings = _settings(args, tokenizer)
    documents = stream.documents(args.source, settings.source_revision, args.passage_tokens)
    note = lambda line: print(line, file=sys.stderr, flush=True)
    return shard_writer.write_shards(documents, tokenizer, settings, folder, host, hosts, note)


def _settings(args: argparse.Namespace, tokenizer: Any) -> 'Settings':
    from pic_jax.data import shard_writer, stream
    from pic_jax.data.readers import expand
    from pic_jax.data.tokenise import fingerprint

    path = None if args.source.startswith('hub:') else expand(args.source)
    return shard_writer.Settings(
        source=args.source if path is None else path.name,
        source_revision=stream.revision_of(args.source, args.revision),
        tokenizer=args.base,
        tokenizer_sha256=fingerprint(tokenizer),
        vocab_size=max(tokenizer.get_vocab().values()) + 1,
        eos_token_id=tokenizer.eos_token_id,
        documents_per_shard=args.documents_per_shard,
        limit=args.limit,
        passage_tokens=args.passage_tokens if path is not None and path.suffix in stream.TEXT_FILES else None,
    )


def _unfinished(folder: Path) -> Exception:
    from pic_jax.data.shard_writer import missing, shard_name
    from pic_jax.errors import PicJaxError

    numbers = missing(folder)
    if numbers is None:
        return PicJaxError(f'{folder}: no host has reached the end of the source yet: run pic-jax tokenize again')
    shown = ', '.join(map(shard_name, numbers[:5])) + (f' and {len(numbers) - 5} more' if len(numbers) > 5 else '')
    return PicJaxError(f'{folder}: {shown} not finished: run pic-jax tokenize with the --shard that writes them')


def _as_text(summary: dict[str, Any]) -> str:
    told = f'{summary["folder"]}: {summary["written"]} shards written'
    if not summary['complete']:
        return f'{told}; other hosts have not finished theirs'
    held = f'{summary["shards"]} shards, {summary["documents"]:,} documents, {summary["tokens"]:,} tokens'
    return f'{told}; complete: {held}'
