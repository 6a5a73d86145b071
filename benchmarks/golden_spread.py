"""How far the numbers of benchmarks/golden.py move for no fault of the code, and how far bfloat16 moves them.

Every variation computes the same in another order, or with other instructions, in a process of its own; a row is the
largest relative difference of a case to tests/golden/metrics.json over the 20 steps. Rows `bfloat16` are of every case
computed in that, the others of a few. They also have the norm of the difference of memory, bfloat16 to float32, over
that of float32: of all slots of ragged contexts of 96 tokens (`memory`), and of the worst one (`worst_slot`).

    JAX_PLATFORMS=cpu JAX_DISABLE_MOST_OPTIMIZATIONS=1 python benchmarks/golden_spread.py

Rows that exist are skipped.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import golden
import jax
import jax.numpy as jnp
import numpy as np
from provenance import provenance, rows_of

from pic_jax.files import read_json, write_text
from pic_jax.run import open_run

RESULTS = Path(__file__).with_name('results') / 'golden' / 'rows.json'
LENGTHS = (96, 61, 96, 30)
FEW = ('pic', 'kv500x', 'icformer')
LOW = 'bfloat16'
# name: (environment, settings)
VARIATIONS: dict[str, tuple[dict[str, str], list[str]]] = {
    LOW: ({}, ['dtype=bfloat16']),
    'optimised': ({'JAX_DISABLE_MOST_OPTIMIZATIONS': '0'}, []),
    'one thread': ({'XLA_FLAGS': '--xla_cpu_multi_thread_eigen=false'}, []),
    'SSE4.2 only': ({'XLA_FLAGS': '--xla_cpu_max_isa=SSE4_2'}, []),
    'structured attention': ({}, ['attention=structured']),
    'recomputed': ({}, ['remat=full']),
    'two devices': ({'XLA_FLAGS': '--xla_force_host_platform_device_count=2'}, ['mesh.data=2']),
}


def row(variation: str, name: str) -> dict[str, Any]:
    """Of a case under a variation whose environment this process has."""
    far = golden.farthest(golden.metrics(name, *VARIATIONS[variation][1]), read_json(golden.STORED)['cases'][name])
    return {'variation': variation, 'case': name} | far | (memory_drift(name) if variation == LOW else {})


def memory_drift(name: str) -> dict[str, float]:
    """How far a case's memory is off in bfloat16: norms over the float32 memory's, `memory` of all slots and
    `worst_slot`. Nothing trained is at its start value, where adapters are zero."""
    contexts = np.random.default_rng(golden.SEED).integers(2, 2048, (len(LENGTHS), max(LENGTHS))).astype(np.int32)
    found = {}
    for dtype in ('float32', 'bfloat16'):
        longer = [f'{key}.context_length={max(LENGTHS)}' for key in ('data', 'compressor')]
        run = open_run(golden.settings(name, f'dtype={dtype}', *longer))
        trainable = jax.tree_util.tree_map_with_path(moved, run.init_trainable())
        memory = jax.jit(run.compressor.compress)(run.base, trainable, jnp.asarray(contexts), jnp.asarray(LENGTHS))
        slots = [np.asarray(part, np.float32)[np.asarray(memory.valid)] for part in memory.vectors.values()]
        found[dtype] = np.concatenate([part.reshape(len(part), -1) for part in slots], axis=1)  # a row for each slot
    difference = np.linalg.norm(found['bfloat16'] - found['float32'], axis=1)
    size = np.linalg.norm(found['float32'], axis=1)
    whole = np.linalg.norm(difference) / np.linalg.norm(size)
    return {'memory': float(whole), 'worst_slot': float((difference / size).max())}


def moved(path: Any, leaf: jax.Array) -> jax.Array:
    """A trained tensor some way from its start."""
    return leaf + 0.05 * jax.random.normal(jax.random.key(len(str(path))), leaf.shape)


def measure(variation: str, cases: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a variation as they come, from a process of its own: flags of XLA are read once."""
    environ = os.environ | {'JAX_COMPILATION_CACHE_DIR': ''} | VARIATIONS[variation][0]
    command = [sys.executable, __file__, '--here', variation, *cases]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        raise SystemExit(f'{variation}: exit code {process.returncode}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('cases', nargs='*', metavar='CASE', help='only these, instead of all that are missing')
    parser.add_argument('--here', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        for name in args.cases:
            print(json.dumps(row(args.here, name)), flush=True)
        return
    rows = rows_of(read_json(RESULTS)) if RESULTS.exists() else []
    origin = provenance(golden.SEED)
    for variation in VARIATIONS:
        known = {row['case'] for row in rows if row['variation'] == variation}
        names = golden.CASES if variation == LOW else FEW
        missing = [name for name in names if name not in known and (not args.cases or name in args.cases)]
        for found in measure(variation, missing) if missing else ():
            rows.append(found | origin)
            write_text(RESULTS, json.dumps({'rows': rows}, indent=1) + '\n')
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """The largest of every variation."""
    text = ['| variation | cases | loss | grad_norm |', '|---|---|---|---|']
    for variation in dict.fromkeys(row['variation'] for row in rows):
        those = [row for row in rows if row['variation'] == variation]
        most = [max(row[metric] for row in those) for metric in golden.METRICS]
        text.append(f'| {variation} | {len(those)} | {most[0]:.1e} | {most[1]:.1e} |')
    return '\n'.join(text)


if __name__ == '__main__':
    main()
