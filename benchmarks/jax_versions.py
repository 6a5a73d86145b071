"""The oldest and the newest jax that setup.cfg allows, each in a fresh environment with a narrow set of tests.

`oldest` takes jax, flax, optax and orbax at the lower bounds of setup.cfg, `newest` the newest there are; everything
else is as in constraints.txt. A row has what pip put there, and how many tests passed and failed.

    python benchmarks/jax_versions.py [oldest|newest ...]     exit code 1 where a test failed, or none passed
    python benchmarks/jax_versions.py --jax=0.9.2             `trial`: as `oldest`, with that jax
"""

import argparse
import configparser
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from provenance import provenance, rows_of

from pic_jax.files import read_json, write_text

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name('results') / 'jax_versions' / 'rows.json'
SEED = 0
STACK = ('jax', 'flax', 'optax', 'orbax-checkpoint')
FIXED_TO_STACK = (*STACK, 'jaxlib', 'libtpu')
# Losses and gradients, attention by every backend, and a loop that is stopped and goes on.
TESTS = (
    'tests/golden/test_golden_metrics.py', 'tests/models/test_attention_backends.py', 'tests/training/test_step.py',
    'tests/training/test_training_loop.py', 'tests/training/test_sharding.py', 'tests/training/test_workdir.py',
)  # fmt: skip


def required() -> dict[str, str]:
    """{package: lower bound or ''} of what setup.cfg asks for."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    lines = setup['options']['install_requires'].split()
    return {name: bound for name, _, bound in (line.partition('>=') for line in lines)}


def wanted(which: str, jax: str | None) -> list[str]:
    """What pip is asked for, a requirement each."""
    bounds = required() | ({'jax': jax} if jax else {})
    if which == 'newest':
        return sorted(bounds)
    return sorted(f'{name}=={bound}' if name in STACK else name for name, bound in bounds.items())


def install(folder: Path, requirements: list[str]) -> Path:
    """Makes an environment in a folder; returns its python."""
    subprocess.run([sys.executable, '-m', 'venv', folder / 'venv'], check=True)
    known = (ROOT / 'constraints.txt').read_text().splitlines()
    rest = [line for line in known if line.partition('==')[0] not in FIXED_TO_STACK]
    (folder / 'constraints.txt').write_text('\n'.join(rest) + '\n')
    python = folder / 'venv' / 'bin' / 'python'
    pip = [python, '-m', 'pip', 'install', '--quiet', '--no-compile', '--disable-pip-version-check']
    pip += ['--constraint', folder / 'constraints.txt']
    subprocess.run([*pip, *requirements, 'hypothesis', 'pytest', 'tensorboardX'], check=True)
    return python


def versions(python: Path) -> dict[str, str]:
    """Those of the stack in an environment."""
    script = 'import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))'
    done = subprocess.run([python, '-c', script, *STACK, 'jaxlib'], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def tested(python: Path, report: Path, tests: list[str], marker: str) -> dict[str, Any]:
    """Runs the tests; how many passed, were skipped and failed, and the names of the failed."""
    environ = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT), 'PYTHONDONTWRITEBYTECODE': '1'}
    command = [python, '-m', 'pytest', '-p', 'no:cacheprovider', '-m', marker, f'--junitxml={report}', *tests]
    code = subprocess.run(command, cwd=ROOT, env=environ, stdout=sys.stderr).returncode
    if not report.exists():
        raise SystemExit(f'no test was run (exit code {code})')
    cases = list(ElementTree.parse(report).getroot().iter('testcase'))
    failed = [case for case in cases if case.find('failure') is not None or case.find('error') is not None]
    skipped = sum(case.find('skipped') is not None for case in cases)
    return {
        'passed': len(cases) - len(failed) - skipped, 'skipped': skipped, 'failed': len(failed), 'exit_code': code,
        'failures': [f'{case.get("classname")}.{case.get("name")}' for case in failed],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('which', nargs='*', metavar='WHICH', help='oldest or newest; default: both')
    parser.add_argument('--jax', metavar='X', help='only try this version in place of the lower bound')
    args = parser.parse_args()
    if unknown := set(args.which) - {'oldest', 'newest'}:  # `choices` refuses an empty list
        parser.error(f'no row {min(unknown)}: expected oldest or newest')
    if args.jax and args.which:
        parser.error(f'--jax takes no {args.which[0]}: it is a row of its own')
    if args.jax and not re.fullmatch(r'[0-9.]+', args.jax):
        parser.error(f'--jax={args.jax} is not valid: expected a version')
    failed = False
    for which in ['trial'] if args.jax else args.which or ['oldest', 'newest']:
        origin = provenance(SEED)  # of the code that runs, whatever HEAD is later
        with tempfile.TemporaryDirectory() as folder:
            python = install(Path(folder), wanted(which, args.jax))
            row = origin | {'which': which, 'python': platform.python_version(), **versions(python)}
            row |= tested(python, Path(folder) / 'report.xml', list(TESTS), 'not slow')
        print(json.dumps(row), flush=True)
        rows = [row] + (rows_of(read_json(RESULTS)) if RESULTS.exists() else [])
        unique = {(each['which'], each['jax']): each for each in reversed(rows)}
        write_text(RESULTS, json.dumps({'rows': list(unique.values())}, indent=1) + '\n')
        failed |= row['exit_code'] != 0 or not row['passed']
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
