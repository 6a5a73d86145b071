"""`pic-jax plan`: compiles a run's programs for a TPU slice that is not there, and says whether they fit."""

import argparse
import json
import math
import sys

from pic_jax.cli import settings

HELP = 'compile a run for a TPU slice without one: memory, communication, time at best'
EXAMPLE = """examples:
  pic-jax plan --config=configs/llama2_7b_pic_16x.py --topology=v5e:4x4
  pic-jax plan --config=configs/llama2_7b_pic_16x.py --topology=v5e:4x4 --config.train.batch_size=64 --fit
  pic-jax plan --config=configs/llama2_7b_pic_16x.py --topology=v5p:4x4x4 --programs=train --json

Exit codes: 0 fits, 1 does not fit, 2 bad usage. Needs `pip install "pic_jax[aot]"` (libtpu), and no TPU. Nothing is
downloaded for a target with a known shape (hub:meta-llama/Llama-2-7b-hf and others).
"""
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration, the slice, and what to plan."""
    parser.add_argument('--config', metavar='FILE', required=True, help='Python file that defines get_config()')
    parser.add_argument('--topology', metavar='NAME', required=True, help='e.g. v5e:4x4, v5p:4x4x4, v6e:2x4')
    parser.add_argument(
        '--programs', metavar='NAMES', default='train,compress,decode', help='default: train,compress,decode'
    )
    parser.add_argument('--fit', action='store_true', help='search mesh and microbatches for the training step')
    parser.add_argument(
        '--budget_s', type=float, default=600, metavar='S', help='start no compilation of --fit later (default 600)'
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object per line')


def run(args: argparse.Namespace) -> int:
    """Prints the plan; 1 if a program does not fit."""
    from pic_jax.errors import ConfigError

    config = settings.resolve(settings.load_file(args.config), args.overrides)
    import jax

    jax.config.update('jax_enable_compilation_cache', False)  # what is timed is compiled

    jax.config.update('jax_platforms', 'cpu')  # the devices of this machine have no part in it
    from pic_jax.planning import fit, measure, programs, report, topology
    from pic_jax.training.sharding import make_mesh

    names = tuple(args.programs.split(','))
    unknown = [name for name in names if name not in programs.NAMES]
    if unknown:
        raise ConfigError(f'--programs={args.programs} is not valid: expected some of {", ".join(programs.NAMES)}')
    if not 0 < args.budget_s < math.inf:
        raise ConfigError(f'--budget_s={args.budget_s} is not valid: expected a positive number of seconds')
    shape, slice_ = programs.decoder_shape(config.base), topology.find(args.topology)
    if config.prompt_template != 'plain':
        _note(f'prompt_template={config.prompt_template}: the few tokens that open it are not in the plan')
    found: list[measure.Measured] = []
    if args.fit:
        searched = fit.search(config, shape, slice_, args.budget_s, _note)
        if searched.best is None or searched.measured is None:
            reason = 'nothing that was tried fits' if searched.complete else f'no answer within {args.budget_s:.0f} s'
            print(f'pic-jax: {reason}: {_closest(searched.trials)}', file=sys.stderr)
            return 1
        if not searched.complete:
            _note('the next faster setting was not compiled in full: no time was left')
        config = searched.best.apply(config)
        found, names = [searched.measured], ()
        _print_fit(searched.best.overrides(), args.json)
    mesh = make_mesh(config.mesh, slice_.devices)
    abstract = programs.abstract_run(config, shape, mesh)
    for name in names:
        _note(f'compiling {name} for {args.topology}')
        (program,) = programs.programs(abstract, (name,))
        found.append(measure.measure(program, mesh, slice_))
    heading = {'topology': args.topology, 'devices': len(slice_.devices)}
    heading |= {axis: size for axis, size in mesh.shape.items() if size > 1}
    heading |= {'batch': config.train.batch_size, 'microbatches': config.train.microbatches, 'base': config.base}
    if args.json:
        print('\n'.join(json.dumps(heading | report.to_dict(each)) for each in found))
    else:
        print(report.to_text(found, heading))
    return 0 if all(each.fits for each in found) else 1


def _print_fit(overrides: list[str], as_json: bool) -> None:
    print(json.dumps({'overrides': overrides}) if as_json else 'use  ' + ' '.join(overrides) + '\n')


def _closest(trials: list) -> str:
    from pic_jax.planning import fit

    known = [trial for trial in trials if trial.peak is not None]
    return 'closest was ' + fit.describe(min(known, key=lambda trial: trial.peak)) if known else 'nothing was compiled'


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
