"""Settings on the command line: a configuration file and dotted overrides become one dataclass."""

import argparse
import ast
import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pic_jax.config import PRESET_OPTIONS, MeshConfig, RunConfig, from_mapping, unknown_key
from pic_jax.config.checks import is_whole_number
from pic_jax.errors import ConfigError

if TYPE_CHECKING:
    from pic_jax.api import TrainedCompressor
    from pic_jax.interop.contexts import StoredContexts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of verbs that train: a configuration file and a workdir."""
    parser.add_argument('--config', metavar='FILE', required=True, help='Python file that defines get_config()')
    parser.add_argument('--workdir', metavar='DIR', required=True, help='where the run is kept')


def add_reading(parser: argparse.ArgumentParser) -> None:
    """`--step` and `--mesh`, of verbs that read a trained compressor."""
    parser.add_argument(
        '--step', type=_step, default='latest', metavar='STEP', help='checkpoint: its step, latest (default) or best'
    )
    parser.add_argument(
        '--mesh',
        default='',
        metavar='AXIS=SIZE,...',
        help='split the target over the devices, e.g. fsdp=-1 (default: one)',
    )


def _step(text: str) -> int | str:
    return int(text) if is_whole_number(text) else text


def mesh_config(text: str) -> MeshConfig:
    """The mesh of a `--mesh` argument, `fsdp=4,tensor=2`; axes that it does not name have one device.

    Raises:
      ConfigError: there is no such axis, or a size is not a whole number.
    """
    sizes = dict.fromkeys((field.name for field in dataclasses.fields(MeshConfig)), 1)
    for part in filter(None, text.split(',')):
        axis, _, size = part.partition('=')
        if axis not in sizes or not is_whole_number(size.removeprefix('-')):
            raise ConfigError(f'--mesh={text}: {part} is not valid: expected AXIS=SIZE, AXIS of {", ".join(sizes)}')
        sizes[axis] = int(size)
    return MeshConfig(**sizes)


def load(args: argparse.Namespace) -> 'TrainedCompressor':
    """The compressor of `--workdir`, as `add_reading` says; a mesh that is named stays set for the rest of the process.

    Raises:
      as `pic_jax.load` and `mesh_config`.
    """
    import jax

    from pic_jax import api
    from pic_jax.training.sharding import make_mesh

    mesh = None
    if args.mesh:
        mesh = make_mesh(mesh_config(args.mesh))
        jax.set_mesh(mesh)  # batches and activations are split as the mesh says
    return api.load(args.workdir, args.step, mesh)


def read_row(args: argparse.Namespace) -> 'StoredContexts':
    """The stored contexts of `args.file`, which have the row `args.row`.

    Raises:
      ConfigError: they do not. PicJaxError: the file is not usable.
    """
    from pic_jax.interop import context_files

    stored = context_files.read(args.file)
    if not 0 <= args.row < len(stored):
        raise ConfigError(f'--row={args.row} is not valid: {args.file} has rows 0 to {len(stored) - 1}')
    return stored


def load_file(path: str) -> dict[str, Any]:
    """What `get_config()` of a Python configuration file returns, as nested dicts. The file is executed.

    Args:
      path: `FILE.py`, or `FILE.py:ARGUMENT`, which calls `get_config(ARGUMENT)` as ml_collections' flags do.

    Raises:
      ConfigError: there is no such file, or it fails or defines no get_config.
    """
    return _call(path, 'get_config', lambda config: config.to_dict())


def load_sweep(path: str) -> list[dict[str, Any]]:
    """What `get_sweep()` of the same file returns: {dotted key: value} for every row of an ablation.

    Raises:
      ConfigError: as `load_file`, or the rows are not dicts.
    """
    sweep = _call(path, 'get_sweep', lambda sweep: sweep)
    if not isinstance(sweep, list) or not sweep or not all(isinstance(row, dict) for row in sweep):
        raise ConfigError(f'--config={path}: get_sweep() returned {sweep!r}, expected a list of dicts, at least one')
    return sweep


def _call(path: str, name: str, convert: Callable[[Any], Any]) -> Any:
    """Executes a Python file, calls one of its functions and converts what that returns."""
    file, colon, argument = path.partition('.py:')
    file += colon.rstrip(':')
    if not Path(file).is_file():
        raise ConfigError(f'--config={path}: no such file')
    spec = importlib.util.spec_from_file_location('pic_jax_config_file', file)
    if spec is None or spec.loader is None:
        raise ConfigError(f'--config={path}: expected a Python file')
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return convert(getattr(module, name)(*[argument] if argument else []))
    except Exception as error:  # whatever the user's file does wrong
        raise ConfigError(f'--config={path}: {type(error).__name__}: {error}') from error


def resolve(values: dict[str, Any], overrides: Sequence[str], kind: type = RunConfig) -> Any:
    """Applies `--config.a.b=value` words to nested settings and builds the dataclass `kind`.

    Values are Python literals (3, 1e-4, True, None, (8, 16)); anything else is a string.

    Raises:
      ConfigError: a word is malformed, names an unknown key (the nearest is given), or has an invalid value.
    """
    method = [_literal(word.partition('=')[2]) for word in overrides if word.startswith('--config.compressor.method=')]
    compressor = values.get('compressor')  # pretrain has none
    if method and isinstance(compressor, dict) and method[-1] != compressor.get('method'):
        # What the file sets for its own method says nothing about another one.
        compressor |= dict.fromkeys(PRESET_OPTIONS)
        if method[-1] == 'kv500x':  # keys and values have no projector
            compressor['projector'] = 'none'
    for word in overrides:
        path, equals, text = word.removeprefix('--config.').partition('=')
        if not equals:
            raise ConfigError(f'{word}: expected --config.KEY=VALUE')
        node, *parents = values, *path.split('.')[:-1]
        seen = ''
        for key in (*parents, path.split('.')[-1]):
            if not isinstance(node, dict) or key not in node:
                raise ConfigError(unknown_key(seen + key, key, tuple(node) if isinstance(node, dict) else ()))
            parent, node, seen = node, node[key], f'{seen}{key}.'
        if isinstance(node, dict):
            raise ConfigError(f'{word}: {path} is a group of settings ({", ".join(node)})')
        parent[path.split('.')[-1]] = _literal(text)
    return from_mapping(kind, values)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the last two: nested too deeply
        return text
