"""How the time and memory of compressing one context grow with its length, by layout.

    pic-jax bench scaling [--json] [LAYOUT ...]

A Llama of random weights (D 256, 4 layers, 32,000 words, float32), chunks and windows of 256 tokens, 16 tokens per
vector. Every point is a process of its own: seconds are the median of the calls after the first, memory is the peak of
anonymous memory in the first call, beyond what the process had before. Exponents are slopes of log-log lines through
all points of a layout. Layouts that grow with the square of the length end at 16,384 tokens.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from peak_memory import peak_memory
from provenance import provenance

from pic_jax.files import write_text

RESULTS = Path(__file__).with_name('results') / 'scaling'
SEED, RATIO, CHUNK = 0, 16, 256
LENGTHS = tuple(2**power for power in range(9, 18))
SHORTER = tuple(length for length in LENGTHS if length <= 16384)
MODEL = dict(
    vocab_size=32000, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=4, head_dim=64, max_position_embeddings=2**18,
)  # fmt: skip
# name: method, options, lengths
LAYOUTS = {
    'chunk-local': ('pic', dict(chunk_size=CHUNK, context_sees='chunk', position_origin='chunk'), LENGTHS),
    'icae, windows': ('icae', dict(window=CHUNK, context_length=CHUNK), LENGTHS),
    'recurrent': (
        'pic', dict(chunk_size=CHUNK, context_sees='chunk+memory', memory_sees_memory='previous'), SHORTER
    ),
    'context causal': ('pic', dict(chunk_size=CHUNK, context_sees='causal'), SHORTER),
    'icae': ('icae', {}, SHORTER),
    'icformer': ('icformer', {}, SHORTER),
}  # fmt: skip
CALLS_WITHIN_S = 8.0  # as many calls as fit, at least 3, at most 15


def point(layout: str, n: int) -> dict[str, float]:
    """One length of one layout, in this process."""
    import jax
    import jax.numpy as jnp

    from pic_jax.compressors.registry import make_compressor
    from pic_jax.config import CompressorConfig, DecoderConfig, LoraConfig
    from pic_jax.models.decoder import Decoder, init_params

    method, options, _ = LAYOUTS[layout]
    decoder = Decoder(DecoderConfig(**MODEL))
    base = jax.jit(lambda key: init_params(decoder, key))(jax.random.key(SEED))
    settings = {'ratio': RATIO, 'context_length': n, 'lora': LoraConfig(0)} | options
    compressor = make_compressor(CompressorConfig.preset(method, **settings), decoder)
    trainable = compressor.init(jax.random.key(SEED), base)
    tokens_1n = jnp.asarray(np.random.default_rng(SEED).integers(2, 32000, (1, n)), jnp.int32)
    compress = jax.jit(compressor.compress).lower(base, trainable, tokens_1n, jnp.array([n])).compile()

    def call():
        jax.block_until_ready(compress(base, trainable, tokens_1n, jnp.array([n])))

    with peak_memory() as peak:
        call()
    seconds, until = [], time.perf_counter() + CALLS_WITHIN_S
    while len(seconds) < 3 or (len(seconds) < 15 and time.perf_counter() < until):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return {'n': n, 'seconds': statistics.median(seconds), 'calls': len(seconds), 'bytes': peak.bytes}


def exponent(points: list[dict], field: str) -> float:
    """Slope of the line through log(field) over log(n)."""
    return float(np.polyfit(*(np.log([each[name] for each in points]) for name in ('n', field)), 1)[0])


def path(layout: str) -> Path:
    """Where the row of a layout is kept."""
    return RESULTS / f'{layout.replace(", ", "_").replace(" ", "_")}.json'


def table(rows: dict[str, dict]) -> str:
    """Markdown, a line per layout."""
    shown = (512, 2048, 8192, 32768, 131072)
    lines = [
        f'| layout | {" | ".join(f"{n:,}" for n in shown)} | time grows as | memory grows as |',
        '|---' * (len(shown) + 3) + '|',
    ]
    for layout, row in rows.items():
        known = {each['n']: each for each in row['points']}
        cells = [
            f'{known[n]["seconds"]:.3g} s, {known[n]["bytes"] / 2**20:.0f} MiB' if n in known else '-' for n in shown
        ]
        growth = [f'n^{row[name]:.2f}' for name in ('time_exponent', 'memory_exponent')]
        lines.append(f'| {layout} | {" | ".join(cells)} | {" | ".join(growth)} |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog='pic-jax bench scaling', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('layouts', nargs='*', metavar='LAYOUT', help=f'of {", ".join(LAYOUTS)}; default: all')
    parser.add_argument('--json', action='store_true', help='print rows as JSON')
    parser.add_argument('--point', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        print(json.dumps(point(args.point[0], int(args.point[1]))))
        return
    if unknown := [name for name in args.layouts if name not in LAYOUTS]:
        parser.error(f'no layout {unknown[0]}: expected some of {", ".join(LAYOUTS)}')
    rows, origin = {}, provenance(SEED)
    for layout in args.layouts or LAYOUTS:
        points = []
        for n in LAYOUTS[layout][2]:
            command = [sys.executable, __file__, '--point', layout, str(n)]
            points.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
            print(layout, points[-1], file=sys.stderr, flush=True)
        growth = {'time_exponent': exponent(points, 'seconds'), 'memory_exponent': exponent(points, 'bytes')}
        rows[layout] = {'points': points, **growth, **origin}
        write_text(path(layout), json.dumps(rows[layout], indent=1) + '\n')
    print(json.dumps(rows) if args.json else table(rows))


if __name__ == '__main__':
    main()
