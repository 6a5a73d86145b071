"""How long ICAE and IC-Former take to compress, in one run, as a ratio.

    pic-jax bench compression_time [--json] [--shape=llama2_7b]

Random weights; adapters are merged, as they would be for use. The two take turns: after a warm-up each of at least
seven rounds times both, and the table has the median and the range of the rounds' ratios. The paper (arXiv 2406.13618,
table 3) reports 68x (8 contexts of 512 tokens) to 112x (8 of 2,048) for Llama-2-7B on a GPU, with 128 digests. A small
model has fewer layers and narrower matrices, so its ratio of operations, printed beside, is what to compare with.
"""

import argparse
import functools
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from provenance import provenance

from pic_jax.compressors.base import Compressor
from pic_jax.compressors.registry import make_compressor
from pic_jax.config import CompressorConfig, DecoderConfig, LoraConfig
from pic_jax.evaluation.flops import compression_flops
from pic_jax.models.decoder import Decoder, init_params

RESULTS = Path(__file__).parent / 'results' / 'compression_time'
ROUNDS, BATCH, DIGESTS, SEED = 7, 8, 128, 0
LENGTHS = (512, 2048)
# `small` has the depth of Llama-2-7B and a sixteenth of its width.
SHAPES = {
    'small': dict(hidden_size=256, intermediate_size=688, num_hidden_layers=32, heads=8, head_dim=32),
    'llama2_7b': dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, heads=32, head_dim=128),
}  # fmt: skip


def decoder_config(hidden_size: int, intermediate_size: int, num_hidden_layers: int, heads: int, head_dim: int):
    """A Llama of that shape with the vocabulary and positions of Llama-2-7B."""
    return DecoderConfig(
        vocab_size=32000, hidden_size=hidden_size, intermediate_size=intermediate_size,
        num_hidden_layers=num_hidden_layers, num_attention_heads=heads, num_key_value_heads=heads, head_dim=head_dim,
        max_position_embeddings=4096,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def compress(compressor: Compressor, base, trainable, tokens_BS, lengths_B) -> jax.Array:
    """[B, k, D] memory vectors."""
    return compressor.compress(base, trainable, tokens_BS, lengths_B).embeddings


def measure(shape: str, n: int, dtype, origin: dict[str, object]) -> dict[str, object]:
    """One row: seconds of both, per round, and their operations."""
    decoder = Decoder(decoder_config(**SHAPES[shape]), dtype=dtype, param_dtype=dtype)
    base = jax.jit(functools.partial(init_params, decoder))(jax.random.key(SEED))
    tokens_BS = jnp.asarray(np.random.default_rng(SEED).integers(2, 32000, (BATCH, n)), jnp.int32)
    lengths_B = jnp.full(BATCH, n)
    calls, flops = {}, {}
    for method in ('icae', 'icformer'):
        config = CompressorConfig.preset(method, ratio=n // DIGESTS, context_length=n, lora=LoraConfig(0))
        compressor = make_compressor(config, decoder)
        trainable = jax.tree.map(lambda x: x.astype(dtype), compressor.init(jax.random.key(SEED), base))
        calls[method] = functools.partial(compress, compressor, base, trainable, tokens_BS, lengths_B)
        flops[method] = BATCH * compression_flops(compressor, base, trainable, n).executed
        jax.block_until_ready(calls[method]())
    seconds = {method: [] for method in calls}
    for _ in range(ROUNDS):
        for method, call in calls.items():
            started = time.perf_counter()
            jax.block_until_ready(call())
            seconds[method].append(time.perf_counter() - started)
    ratios = [a / b for a, b in zip(seconds['icae'], seconds['icformer'], strict=True)]
    return {
        'shape': shape, 'batch': BATCH, 'n': n, 'k': DIGESTS, 'dtype': jnp.dtype(dtype).name,
        'seconds': seconds, 'flops': flops, 'flops_ratio': flops['icae'] / flops['icformer'],
        'ratio': statistics.median(ratios), 'ratio_low': min(ratios), 'ratio_high': max(ratios),
        **origin,
    }  # fmt: skip


def table(rows: list[dict]) -> str:
    """Markdown, one line per row."""
    lines = [
        '| shape | contexts | icae, s | icformer, s | icae / icformer | in operations | device |',
        '|' + '---|' * 7,
    ]
    for row in rows:
        seconds = [statistics.median(row['seconds'][method]) for method in ('icae', 'icformer')]
        lines.append(
            f'| {row["shape"]} | {row["batch"]} x {row["n"]:,} to {row["k"]} | {seconds[0]:.3g} | {seconds[1]:.3g} | '
            f'{row["ratio"]:.1f}x [{row["ratio_low"]:.1f}, {row["ratio_high"]:.1f}] | {row["flops_ratio"]:.1f}x | '
            f'{row["machine"]} |'
        )
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog='pic-jax bench compression_time',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--shape', choices=SHAPES, default='small', help='default: small')
    parser.add_argument('--json', action='store_true', help='print one JSON object per line')
    args = parser.parse_args()
    dtype = jnp.float32 if jax.default_backend() == 'cpu' else jnp.bfloat16
    origin = provenance(SEED)  # of the code that runs, whatever HEAD is later
    rows = [measure(args.shape, n, dtype, origin) for n in LENGTHS]
    RESULTS.mkdir(parents=True, exist_ok=True)
    for row in rows:
        path = RESULTS / f'{args.shape}-{row["n"]}-{jax.default_backend()}.json'
        path.write_text(json.dumps(row, indent=1) + '\n')
    print('\n'.join(map(json.dumps, rows)) if args.json else table(rows))


if __name__ == '__main__':
    main()
