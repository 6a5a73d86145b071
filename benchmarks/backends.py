"""Attention backends against each other, by layout and length: forward, and forward and backward.

    pic-jax bench backends [--json] [--table] [LAYOUT ...]

One attention of 8 heads of 64, float32, chunks of 256 tokens, 16 tokens per vector, all positions real. The programs of
a shape take turns in one process, of two seconds or one call; seconds of a call are medians of 7 rounds after a
warm-up, a ratio is the median of the ratios of the rounds with its quartiles, and bytes are what the compiler takes
beside inputs and outputs. `auto` is one of the backends; its share is the smallest such ratio of any backend's time to
that of the one it picks.
"""

import argparse
import functools
import json
import sys
from pathlib import Path

import numpy as np
from pages import table
from provenance import provenance
from timing import interleaved

from pic_jax.config import CompressorConfig
from pic_jax.files import write_text

RESULTS = Path(__file__).with_name('results') / 'backends'
SEED, HEADS, HEAD_DIM, ROUNDS = 0, 8, 64, 7
LENGTHS = (256, 2048, 8192)
DIFFERENCE_ALLOWED = 1e-4
CHUNKS = dict(method='pic', chunk_size=256, ratio=16)
LAYOUTS = {
    'chunk-local': CHUNKS,
    'recurrent': CHUNKS | dict(context_sees='chunk+memory', memory_sees_memory='previous'),
    'context causal': CHUNKS | dict(context_sees='causal'),
    'icae': dict(method='icae', ratio=16, context_length=max(LENGTHS)),
    'icformer': dict(method='icformer', ratio=16, context_length=max(LENGTHS)),
    'text': None,
}
PASSES = ('forward', 'forward + backward')


def pattern_of(layout: str, n: int):
    """The pattern of n tokens."""
    from pic_jax.masks import MEMORY
    from pic_jax.patterns import BOTH, Pattern, causal

    if LAYOUTS[layout] is None:
        return causal(n)
    config = CompressorConfig.preset(**LAYOUTS[layout])
    return Pattern(config, n, (MEMORY,) if config.method == 'icformer' else BOTH)


def measure(layout: str, n: int) -> dict:
    """Both passes of every backend that this machine can run."""
    import jax
    import jax.numpy as jnp

    from pic_jax.models.attention import PatternMask, attend, choose

    pattern, platform = pattern_of(layout, n), jax.default_backend()
    T, S = pattern.shape
    arrays = [
        jax.random.normal(jax.random.key(SEED + i), (1, length, HEADS, HEAD_DIM)) for i, length in enumerate((T, S, S))
    ]
    mask = PatternMask(jnp.ones((1, S), bool), pattern)

    def forward(backend, *arrays):
        return attend(*arrays, mask, backend, platform)

    def loss(backend, *arrays):
        return jnp.sum(forward(backend, *arrays) ** 2)

    functions = dict(zip(PASSES, (forward, jax.value_and_grad(loss, argnums=(1, 2, 3))), strict=True))
    backends, outputs, row = ('dense', 'structured', *(('splash',) if platform == 'tpu' else ())), {}, {}
    row['auto'] = choose('auto', platform, pattern)._asdict()
    for name, function in functions.items():
        programs = {
            backend: jax.jit(functools.partial(function, backend)).lower(*arrays).compile() for backend in backends
        }
        outputs = {backend: jax.block_until_ready(program(*arrays)) for backend, program in programs.items()}
        worst = [difference(outputs['dense'], outputs[backend]) for backend in backends]
        del outputs
        seconds = interleaved(programs, arrays, ROUNDS)
        medians = {backend: float(np.median(times)) for backend, times in seconds.items()}
        row[name] = {
            'seconds': medians,
            'temporary_bytes': {
                backend: program.memory_analysis().temp_size_in_bytes for backend, program in programs.items()
            },
            'difference': max(worst),
            'dense_over_structured': quartiles(np.array(seconds['dense']) / np.array(seconds['structured'])),
            'auto_share': share_of(row['auto']['backend'], seconds),
        }
    return {'n': n, 'T': T, 'S': S, **row}


def difference(wanted, found) -> float:
    """The largest one of any output or gradient, as a share of the largest value there is.

    Raises:
      SystemExit: it is more than rounding makes, or no number.
    """
    import jax

    leaves = (map(np.asarray, jax.tree.leaves(tree)) for tree in (wanted, found))  # max() of jax drops NaN on a CPU
    tiny = np.finfo(np.float32).tiny  # of zeros
    worst = float(np.max([abs(x - y).max() / max(abs(x).max(), tiny) for x, y in zip(*leaves, strict=True)]))
    if not worst <= DIFFERENCE_ALLOWED:
        raise SystemExit(f'results differ by {worst:g} of the largest value, expected at most {DIFFERENCE_ALLOWED:g}')
    return worst


def share_of(picked: str, seconds: dict[str, list[float]]) -> float:
    """How fast the picked backend is as a share of the fastest, by the medians of the rounds' ratios; at most 1."""
    return min(float(np.median(np.array(times) / np.array(seconds[picked]))) for times in seconds.values())


def quartiles(ratios: np.ndarray) -> list[float]:
    """First, median, third."""
    return [round(float(value), 3) for value in np.percentile(ratios, (25, 50, 75))]


def shown(rows: dict[str, dict]) -> str:
    """Markdown, a line per layout, length and pass."""
    lines = []
    for layout, row in rows.items():
        for point in row['points']:
            for name in PASSES:
                found = point[name]
                low, middle, high = found['dense_over_structured']
                lines.append([
                    layout, f'{point["n"]:,}', name,
                    *(f'{1e3 * found["seconds"][each]:.3g}' for each in ('dense', 'structured')),
                    f'{middle:.2f} ({low:.2f} to {high:.2f})',
                    *(f'{found["temporary_bytes"][each] / 2**20:,.0f}' for each in ('dense', 'structured')),
                    point['auto']['backend'], f'{found["auto_share"]:.2f}',
                ])  # fmt: skip
    heading = ['layout', 'tokens', 'pass', 'dense, ms', 'structured, ms', 'dense / structured (quartiles)',
               'dense, MiB', 'structured, MiB', '`auto` picks', 'its share of the fastest']  # fmt: skip
    return table(heading, lines)


def path(layout: str) -> Path:
    """Where the rows of a layout are kept."""
    return RESULTS / f'{layout.replace(" ", "_")}.json'


def main() -> None:
    parser = argparse.ArgumentParser(
        prog='pic-jax bench backends', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('layouts', nargs='*', metavar='LAYOUT', help=f'of {", ".join(LAYOUTS)}; default: all')
    parser.add_argument('--json', action='store_true', help='print rows as JSON')
    parser.add_argument('--table', action='store_true', help='only print what is stored')
    args = parser.parse_args()
    if unknown := [name for name in args.layouts if name not in LAYOUTS]:
        parser.error(f'no layout {unknown[0]}: expected some of {", ".join(LAYOUTS)}')
    names, rows = args.layouts or list(LAYOUTS), {}
    origin = {} if args.table else provenance(SEED)
    for layout in names:
        if args.table:
            rows[layout] = json.loads(path(layout).read_text())
            continue
        points = []
        for n in LENGTHS:
            points.append(measure(layout, n))
            print(layout, n, {name: points[-1][name]['seconds'] for name in PASSES}, file=sys.stderr, flush=True)
        rows[layout] = {'points': points, **origin}
        write_text(path(layout), json.dumps(rows[layout], indent=1) + '\n')
    print(json.dumps(rows) if args.json else shown(rows))


if __name__ == '__main__':
    main()
