"""The `pic-jax` command. Every failure is one line on stderr.

Exit codes: 0 done, 1 failed, 2 bad usage, 75 interrupted (run the same command again to go on), 134 another process
of a training died, or this one was aborted.
"""

import argparse
import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from pic_jax import compile_cache
from pic_jax.errors import EXIT_RESTART, ConfigError, PicJaxError, RunInterruptedError

MOST_SHOWN = 4000  # characters of an error

VERBS = (
    'demo',
    'pretrain',
    'train',
    'eval',
    'ablate',
    'compress',
    'ask',
    'contexts',
    'convert',
    'export',
    'check',
    'tokenize',
    'plan',
    'plot',
    'bench',
)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs. Verb modules import nothing heavy until they run."""
    parser = argparse.ArgumentParser(prog='pic-jax', description='Context compression for large language models.')
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='VERB')
    for name in VERBS:
        module = importlib.import_module(f'pic_jax.cli.{name}')
        verb = verbs.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=module.EXAMPLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(verb)
        verb.set_defaults(run=module.run, takes_overrides=getattr(module, 'TAKES_OVERRIDES', False))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit code."""
    compile_cache.set_default()
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    args.overrides = [word for word in rest if args.takes_overrides and word.startswith('--config.')]
    unknown = [word for word in rest if word not in args.overrides]
    try:
        if unknown:
            raise ConfigError(f'unknown argument {unknown[0]} (pic-jax {args.verb} --help lists what is valid)')
        return args.run(args)
    except RunInterruptedError as error:  # which all processes of a job have
        _report(str(error))
        return EXIT_RESTART
    except PicJaxError as error:
        _report(str(error))
        code = 2 if isinstance(error, ConfigError) else 1
    except OSError as error:  # where no reader expects it: a name that is too long, a pipe that is closed
        _report(f'{error.filename}: {error.strerror}' if error.filename else str(error))
        code = 1
    except RecursionError:
        _report('a file is not valid: nested too deeply')
        code = 1
    except KeyboardInterrupt:
        print('pic-jax: interrupted', file=sys.stderr)
        code = 1
    except Exception:
        if not _joined():
            raise
        traceback.print_exc()
        code = 1
    if _joined():
        _leave(code)
    return code


def _joined() -> bool:
    """Whether this is one process of a job of several."""
    return 'jax' in sys.modules and sys.modules['jax'].distributed.is_initialized()


def _leave(code: int) -> None:
    """Ends the process where the others of its job do not end too."""
    from pic_jax import distributed

    if not distributed.left():
        for stream in sys.stdout, sys.stderr:
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


def _report(message: str) -> None:
    """One line, not endless, that cannot steer a terminal: it may hold names that a file says."""
    shown = message if len(message) <= MOST_SHOWN else message[:MOST_SHOWN] + '...'
    shown = ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
    with contextlib.suppress(OSError):  # the disk that is full may be that of the log
        print(f'pic-jax: error: {shown}', file=sys.stderr)


if __name__ == '__main__':
    sys.exit(main())
