"""Memory of one attention's gradient on TPUs that nobody has here, by backend; needs `pip install "pic_jax[aot]"`.

    pic-jax bench attention_memory [--json] [--table]

The gradient of attention over 2,048 tokens and 128 memory slots, batch 8, 32 heads, 8 key/value heads, bfloat16, on a
slice of 4 chips that split the batch, compiled by the TPU's own compiler. Bytes are what it takes per device beside
inputs and outputs. Nothing runs; times are not known.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from pages import table
from provenance import provenance

from pic_jax.files import write_text

RESULTS = Path(__file__).with_name('results') / 'attention_memory'
SEED, BATCH, TOKENS, HEADS, KV_HEADS = 0, 8, 2048, 32, 8
CHUNKS = dict(method='pic', chunk_size=256, ratio=16)
LAYOUTS = {
    'chunk-local': CHUNKS,
    'recurrent': CHUNKS | dict(context_sees='chunk+memory', memory_sees_memory='previous'),
    'icae': dict(method='icae', ratio=16, context_length=TOKENS),
}
# topology, layout, head_dim
ROWS = [
    *(('v5e:2x2', layout, 128) for layout in LAYOUTS),
    *(('v5e:2x2', 'chunk-local', head_dim) for head_dim in (64, 80)),
    *((topology, 'chunk-local', 128) for topology in ('v5p:2x2x1', 'v6e:2x2')),
]
BACKENDS = ('dense', 'structured', 'splash')


def compile_row(topology: str, layout: str, head_dim: int) -> dict:
    """Temporary bytes and seconds of compilation of every backend."""
    import jax
    import jax.numpy as jnp

    from pic_jax.config import CompressorConfig, MeshConfig
    from pic_jax.models.attention import PatternMask, attend
    from pic_jax.patterns import Pattern
    from pic_jax.planning.topology import find
    from pic_jax.training.sharding import batch_sharding, make_mesh

    mesh = make_mesh(MeshConfig(data=-1), find(topology).devices)
    pattern = Pattern(CompressorConfig.preset(**LAYOUTS[layout]), TOKENS)
    S = pattern.shape[1]

    def array(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct((BATCH, S, *shape), dtype, sharding=batch_sharding(mesh))

    def gradient(q, k, v, valid_BS, out_gradient, backend):
        mask = PatternMask(valid_BS, pattern)
        return jax.vjp(lambda *arrays: attend(*arrays, mask, backend, 'tpu'), q, k, v)[1](out_gradient)

    row = {'topology': topology, 'layout': layout, 'head_dim': head_dim, 'temporary_bytes': {}, 'compile_s': {}}
    q, kv = array(HEADS, head_dim), array(KV_HEADS, head_dim)
    arrays = q, kv, kv, array(dtype=bool), q
    for backend in BACKENDS:
        started = time.perf_counter()
        with jax.set_mesh(mesh):
            program = jax.jit(gradient, static_argnums=5).lower(*arrays, backend)
        row['temporary_bytes'][backend] = program.compile().memory_analysis().temp_size_in_bytes
        row['compile_s'][backend] = round(time.perf_counter() - started, 1)
    return row


def shown(rows: list[dict]) -> str:
    """Markdown, a line per row."""
    lines = []
    for row in rows:
        found = row['temporary_bytes']
        lines.append([
            row['topology'], row['layout'], str(row['head_dim']),
            *(f'{found[backend] / 2**20:,.1f}' for backend in BACKENDS),
            f'{found["dense"] / found["splash"]:.1f}',
        ])  # fmt: skip
    heading = ['slice', 'layout', 'head_dim', *(f'{backend}, MiB' for backend in BACKENDS), 'dense / splash']
    return table(heading, lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog='pic-jax bench attention_memory', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument('--json', action='store_true', help='print rows as JSON')
    parser.add_argument('--table', action='store_true', help='only print what is stored')
    args = parser.parse_args()
    path = RESULTS / 'rows.json'
    if not args.table:
        origin, rows = provenance(SEED), []
        for row in ROWS:
            rows.append(compile_row(*row))
            print(rows[-1], file=sys.stderr, flush=True)
        write_text(path, json.dumps({'rows': rows, **origin}, indent=1) + '\n')
    stored = json.loads(path.read_text())
    print(json.dumps(stored) if args.json else shown(stored['rows']))


if __name__ == '__main__':
    main()
