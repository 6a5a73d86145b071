"""Host memory that loading a model takes beyond the parameters themselves, on a checkpoint of 4.6 GB made on the spot.

Rows: one device, eight devices of one process (fsdp=8), and four processes of two devices each (fsdp=8), which must
read their own parts only. On a CPU the devices' memory is the host's, so the parameters that a process holds are taken
off its peak (benchmarks/peak_memory.py).

    python benchmarks/load_memory.py            measure, print a table, exit with 1 where a limit is passed
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peak_memory import peak_memory
from provenance import provenance

from pic_jax.files import write_text

RESULTS = Path(__file__).with_name('results') / 'load_memory' / 'rows.json'
SEED = 0
LAYERS, D, F, V, LAYERS_PER_SHARD = 32, 2048, 8192, 32000, 8
# name: processes, devices of each
ROWS = {'one device': (1, 1), 'eight devices': (1, 8), 'four processes': (4, 2)}
SHARDS_ALLOWED = 1.5  # beyond the parameters, in shards of the checkpoint


def make_checkpoint(folder: Path) -> float:
    """Writes a Llama of random bits (finite bfloat16) in shards; returns bytes of the largest shard."""
    import ml_dtypes
    import numpy as np
    from safetensors.numpy import save_file

    rng, weight_map, largest = np.random.default_rng(SEED), {}, 0
    shapes = {
        'self_attn.q_proj': (D, D), 'self_attn.k_proj': (D, D), 'self_attn.v_proj': (D, D), 'self_attn.o_proj': (D, D),
        'mlp.gate_proj': (F, D), 'mlp.up_proj': (F, D), 'mlp.down_proj': (D, F), 'input_layernorm': (D,),
        'post_attention_layernorm': (D,),
    }  # fmt: skip
    ends = {'model.embed_tokens.weight': (V, D), 'lm_head.weight': (V, D), 'model.norm.weight': (D,)}
    shards = [ends]
    for first in range(0, LAYERS, LAYERS_PER_SHARD):
        layers = range(first, min(first + LAYERS_PER_SHARD, LAYERS))
        shards.append({f'model.layers.{i}.{name}.weight': shape for i in layers for name, shape in shapes.items()})
    for number, tensors in enumerate(shards):
        file = f'model-{number:05}-of-{len(shards):05}.safetensors'
        bits = {name: rng.integers(0, 2**14, shape, np.uint16) for name, shape in tensors.items()}
        save_file({name: array.view(ml_dtypes.bfloat16) for name, array in bits.items()}, folder / file)
        weight_map |= dict.fromkeys(tensors, file)
        largest = max(largest, (folder / file).stat().st_size)
    config = {
        'model_type': 'llama', 'vocab_size': V, 'hidden_size': D, 'intermediate_size': F, 'num_hidden_layers': LAYERS,
        'num_attention_heads': 16, 'max_position_embeddings': 4096,
    }  # fmt: skip
    (folder / 'config.json').write_text(json.dumps(config))
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': weight_map}))
    return largest


def load(folder: Path, process: int, processes: int, port: int) -> None:
    """One process of a row: prints bytes held and the peak beyond them."""
    import jax

    if processes > 1:
        jax.distributed.initialize(f'localhost:{port}', processes, process)
    import jax.numpy as jnp

    from pic_jax.config import MeshConfig
    from pic_jax.models import hf
    from pic_jax.run import load_base
    from pic_jax.training.sharding import make_mesh

    mesh = make_mesh(MeshConfig(data=1, fsdp=-1))
    jax.block_until_ready(jnp.zeros(1) + 1)
    started = time.perf_counter()
    with peak_memory() as peak:
        params = jax.block_until_ready(load_base(folder, hf.read_config(folder), jnp.dtype('bfloat16'), mesh))
    seconds = time.perf_counter() - started
    held = sum(shard.data.nbytes for leaf in jax.tree.leaves(params) for shard in leaf.addressable_shards)
    print(json.dumps({'held': held, 'beyond': peak.bytes - held, 'seconds': round(seconds, 1)}))


def measure(folder: Path, processes: int, devices: int) -> list[dict]:
    """What every process of a row printed."""
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        port = probe.getsockname()[1]
    flags = f'--xla_force_host_platform_device_count={devices}'
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}
    running = [
        subprocess.Popen(
            [sys.executable, __file__, '--load', str(folder), '--process', f'{i}/{processes}', '--port', str(port)],
            stdout=subprocess.PIPE, text=True, env=environment,
        )
        for i in range(processes)
    ]  # fmt: skip
    printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit('a process failed, see above')
    return [json.loads(text.splitlines()[-1]) for text in printed]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--load', metavar='FOLDER', help=argparse.SUPPRESS)
    parser.add_argument('--process', default='0/1', help=argparse.SUPPRESS)
    parser.add_argument('--port', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        load(Path(args.load), *map(int, args.process.split('/')), args.port)
        return 0
    origin = provenance(SEED)  # of the code that runs, whatever HEAD is later
    with tempfile.TemporaryDirectory() as temporary:
        shard = make_checkpoint(Path(temporary))
        size = sum(file.stat().st_size for file in Path(temporary).glob('*.safetensors'))
        rows = {name: measure(Path(temporary), *shape) for name, shape in ROWS.items()}
    stored = {'checkpoint_bytes': size, 'largest_shard_bytes': shard, 'rows': rows, **origin}
    write_text(RESULTS, json.dumps(stored, indent=1) + '\n')
    print(f'checkpoint {size / 2**30:.2f} GiB, largest shard {shard / 2**30:.2f} GiB')
    print('| row | parameters of a process, GiB | at the most beyond them, GiB | seconds |\n|---|---|---|---|')
    for name, processes in rows.items():
        worst = max(processes, key=lambda each: each['beyond'])
        print(f'| {name} | {worst["held"] / 2**30:.2f} | {worst["beyond"] / 2**30:.2f} | {worst["seconds"]} |')
    return int(any(each['beyond'] > SHARDS_ALLOWED * shard for row in rows.values() for each in row))


if __name__ == '__main__':
    sys.exit(main())
