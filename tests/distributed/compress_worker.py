"""Compiles `compress` for a mesh of 8 devices and prints which collectives cross its axes, as one JSON line.

    python tests/distributed/compress_worker.py SPEC  # {"method", "options", "mesh", "rows"} in JSON

Contexts of 64 tokens lie as a training batch does where the mesh has a place for every row; else split over (data,
fsdp) by rows and over `context` by tokens. Also prints how far the memory is from the one of a single device.
"""

import json
import sys

import jax
import numpy as np
from crossing import crosses
from jax.sharding import NamedSharding, PartitionSpec

from pic_jax.compressors.registry import make_compressor
from pic_jax.config import CompressorConfig, DecoderConfig, LoraConfig, MeshConfig
from pic_jax.models.decoder import Decoder, init_params
from pic_jax.models.partitioning import AXES, RULES, ways
from pic_jax.planning import hlo
from pic_jax.planning.collectives import collectives
from pic_jax.training.sharding import make_mesh, shardings

SHAPE = DecoderConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, head_dim=8, max_position_embeddings=256,
)  # fmt: skip
TOKENS, LENGTHS = 64, (64, 33, 61, 7)


def farthest(ours, theirs):
    """The largest difference of two dicts of arrays; nan where one holds a nan."""
    assert ours.keys() == theirs.keys()
    return float(np.max([np.abs(np.asarray(ours[name]) - np.asarray(theirs[name])).max() for name in ours]))


def main():
    spec = json.loads(sys.argv[1])
    jax.config.update('jax_default_matmul_precision', 'highest')
    config = CompressorConfig.preset(
        spec['method'], ratio=4, context_length=TOKENS, lora=LoraConfig(4), **spec['options']
    )
    compressor = make_compressor(config, Decoder(SHAPE))
    base = init_params(compressor.decoder, jax.random.key(0))
    trainable = jax.tree.map(lambda x: x + 0.1, compressor.init(jax.random.key(1), base))
    tokens_BS = np.random.default_rng(0).integers(2, 64, (spec['rows'], TOKENS)).astype(np.int32)
    lengths_B = np.array(LENGTHS[: spec['rows']], np.int32)
    alone = compressor.compress(base, trainable, tokens_BS, lengths_B)

    mesh = make_mesh(MeshConfig(*spec['mesh']))
    places = [PartitionSpec(RULES['batch'])] * 2
    if spec['rows'] % ways(mesh, RULES['batch']):
        places = [PartitionSpec(('data', 'fsdp'), 'context'), PartitionSpec(('data', 'fsdp'))]
    placed = jax.device_put(
        (base, trainable, tokens_BS, lengths_B),
        (
            shardings(base, mesh),
            shardings(trainable, mesh),
            *(NamedSharding(mesh, place) for place in places),
        ),
    )
    with jax.set_mesh(mesh):
        program = jax.jit(compressor.compress).lower(*placed).compile()
        memory = program(*placed)
    far = farthest(memory.vectors, alone.vectors)
    found = collectives(hlo.parse(program.as_text()))
    crossing = {axis: sorted({each.kind for each in found if crosses(each, mesh, axis)}) for axis in AXES}
    print(json.dumps({'crossing': crossing, 'far': far}))


if __name__ == '__main__':
    main()
