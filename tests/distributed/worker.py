"""Trains a small compressor on whatever devices there are; the tests of this folder start it as processes.

    python tests/distributed/worker.py SPEC.json

SPEC: {"workdir", "base": folder of the target, "overrides": {dotted key: value}, "method"}. Prints the losses of the
steps that ran, the bytes of state that every device holds and the mesh, as one JSON line, in process 0.
"""

import json
import sys

import jax


def settings(spec):
    from pic_jax.cli.settings import resolve
    from pic_jax.config import default_config

    values = default_config()
    values.base = spec['base']
    values.compressor.method = spec['method']
    values.compressor.context_length = values.data.context_length = 32
    values.compressor.ratio = 4
    values.compressor.chunk_size = 8 if spec['method'] == 'pic' else None
    values.compressor.lora.rank = 4
    values.data.size, values.data.validation = 24, 8
    values.data.corpus.words = 60
    values.data.target_length = 8
    values.data.min_context = 16
    values.train.batch_size, values.train.steps = 16, 30
    values.train.log_every = 1
    values.train.eval_every = values.train.checkpoint_every = 30
    values.train.eval_examples = 8
    values.optimizer.warmup_steps = 2
    overrides = [f'--config.{key}={value}' for key, value in spec['overrides'].items()]
    return resolve(values.to_dict(), overrides)


def main():
    with open(sys.argv[1]) as file:
        spec = json.load(file)
    from pathlib import Path

    from pic_jax import distributed
    from pic_jax.run import open_run
    from pic_jax.training.sharding import make_mesh
    from pic_jax.training.train import train

    jax.config.update('jax_default_matmul_precision', 'highest')
    distributed.start('auto')
    config, workdir = settings(spec), Path(spec['workdir'])
    run = open_run(config, make_mesh(config.mesh))
    trained = train(run, workdir)
    held = {}
    for tree in (trained, run.base):
        for leaf in jax.tree.leaves(tree):
            for shard in leaf.addressable_shards:
                held[shard.device.id] = held.get(shard.device.id, 0) + shard.data.nbytes
    if distributed.is_main():
        lines = (workdir / 'metrics.jsonl').read_text().splitlines()
        records = [json.loads(line) for line in lines]
        losses = {record['step']: record['loss'] for record in records if record['split'] == 'train'}
        validation = [record['loss'] for record in records if record['split'] == 'validation']
        bytes_held = sorted(held.values())
        print(
            json.dumps(
                {'losses': losses, 'validation': validation, 'bytes': bytes_held, 'processes': jax.process_count()}
            )
        )


if __name__ == '__main__':
    main()
