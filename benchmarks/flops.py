"""What compressing a context costs on Llama-2-7B, by counting; no weight is allocated.

    pic-jax bench flops [--json]

Attention in blocks, adapters merged, no LM head. `executed` counts every pair of a block, `useful` those that see.
"""

import argparse
import dataclasses
import functools
import json

import jax
import numpy as np

from pic_jax.compressors.registry import make_compressor
from pic_jax.config import CompressorConfig, LoraConfig
from pic_jax.evaluation.flops import CompressionFlops, compression_flops
from pic_jax.models.decoder import Decoder, init_params
from pic_jax.models.shapes import SHAPES

LENGTHS = (512, 2048, 8192, 32768)
RATIO, WINDOW, CHUNK, DIGESTS = 4, 512, 128, 128
# Only the number of positions is larger, so that long windows can be counted.
LLAMA2_7B = dataclasses.replace(SHAPES['meta-llama/Llama-2-7b-hf'], max_position_embeddings=65536)
# Options of each row; `fixed_k` makes the ratio n / k.
ROWS = {
    'icae': dict(method='icae'),
    'icae, windows of 512': dict(method='icae', window=WINDOW),
    'epl': dict(method='epl'),
    'pic': dict(method='pic', chunk_size=CHUNK),
    'pic, recurrent': dict(
        method='pic', chunk_size=CHUNK, context_sees='chunk+memory', memory_sees_memory='previous'
    ),
    'kv500x': dict(method='kv500x'),
    'mean_pool': dict(method='mean_pool'),
    'icformer': dict(method='icformer'),
    'icformer, windows of 512': dict(method='icformer', window=WINDOW, window_split='even'),
    'icformer, 128 digests': dict(method='icformer', fixed_k=DIGESTS),
}  # fmt: skip


def measure(n: int, fixed_k: int | None = None, **options) -> tuple[int, CompressionFlops]:
    """k, and the cost of n tokens."""
    ratio = n // fixed_k if fixed_k else RATIO
    config = CompressorConfig.preset(ratio=ratio, context_length=n, lora=LoraConfig(0), **options)
    decoder = Decoder(LLAMA2_7B, attention='structured')
    base = jax.eval_shape(functools.partial(init_params, decoder), jax.random.key(0))
    compressor = make_compressor(config, decoder)
    trainable = jax.eval_shape(compressor.init, jax.random.key(0), base)
    return n // ratio, compression_flops(compressor, base, trainable, n)


def exponent(costs: list[float]) -> float:
    """b of the least-squares fit of cost = a n^b over LENGTHS."""
    return float(np.polyfit(np.log(LENGTHS), np.log(costs), 1)[0])


def table(found: dict[str, list[tuple[int, CompressionFlops]]]) -> str:
    """Markdown: executed operations per length, and the exponents of both columns."""
    heading = ['method', *(f'n = {n:,}' for n in LENGTHS), 'growth', 'growth, useful']
    lines = [heading, ['---'] * len(heading)]
    for name, costs in found.items():
        executed, useful = ([getattr(cost, field) for _, cost in costs] for field in CompressionFlops._fields)
        cells = [f'{value:.3g}' for value in executed]
        lines.append([name, *cells, f'n^{exponent(executed):.2f}', f'n^{exponent(useful):.2f}'])
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog='pic-jax bench flops', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object per line')
    args = parser.parse_args()
    found = {name: [measure(n, **options) for n in LENGTHS] for name, options in ROWS.items()}
    ratio = found['icformer'][0][1].executed / found['icae'][0][1].executed
    if not args.json:
        print(table(found))
        print(f'\nicformer over icae, 512 -> 128: 1/{1 / ratio:.1f} (the paper: 1/32.4)')
        return
    for name, costs in found.items():
        for n, (k, cost) in zip(LENGTHS, costs, strict=True):
            print(json.dumps({'method': name, 'n': n, 'k': k, 'executed': cost.executed, 'useful': cost.useful}))
    print(json.dumps({'icformer_over_icae': ratio}))


if __name__ == '__main__':
    main()
