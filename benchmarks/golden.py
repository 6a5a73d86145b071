"""Twenty training steps of every method on the bundled model: the numbers that must stay right.

JAX_PLATFORMS=cpu JAX_DISABLE_MOST_OPTIMIZATIONS=1 python benchmarks/golden.py     writes tests/golden/metrics.json

tests/golden holds every later version to them, compiled as tests are. benchmarks/golden_spread.py measures how far they
move for no fault of the code, and how far bfloat16 moves them; the bounds there are made from that.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from provenance import provenance

from pic_jax.cli.settings import resolve
from pic_jax.config import RunConfig, default_config
from pic_jax.files import write_text
from pic_jax.run import open_run
from pic_jax.training.sharding import make_mesh
from pic_jax.training.train import train

STORED = Path(__file__).parents[1] / 'tests' / 'golden' / 'metrics.json'
SEED, STEPS = 0, 20
METRICS = ('loss', 'grad_norm')
WINDOWED = ['compressor.window=8']
# At the default rate its gradients of 100 throw it about, and 20 steps make 8% of loss out of bfloat16's rounding.
STEADY = ['optimizer.learning_rate=1e-4']
RECURRENT = ['compressor.context_sees=chunk+memory', 'compressor.memory_sees_memory=previous']
# name: (compressor.method, further settings). Every preset, and the forms that the experiments compare.
CASES: dict[str, tuple[str, list[str]]] = {
    'pic': ('pic', ['compressor.chunk_size=8']),
    'pic_recurrent': ('pic', ['compressor.chunk_size=8', *RECURRENT]),
    'icae': ('icae', []),
    'icae_windowed': ('icae', WINDOWED),
    'epl': ('epl', []),
    'kv500x': ('kv500x', []),
    'kv500x_windowed': ('kv500x', WINDOWED),
    'icformer': ('icformer', STEADY),
    'icformer_windowed': ('icformer', WINDOWED + STEADY),
    'mean_pool': ('mean_pool', ['compressor.projector=linear']),
    'constant_memory': ('constant_memory', []),
}


def settings(name: str, *overrides: str) -> RunConfig:
    """A case: 24 generated tokens to 6 vectors, what follows them, AdamW with warm-up and decay.

    Args:
      overrides: `dotted.key=value`, which win.
    """
    config = default_config()
    config.base, config.seed = 'tiny_base', SEED
    config.compressor.method, further = CASES[name]
    config.compressor.ratio = 4
    config.compressor.context_length = config.data.context_length = 24
    config.compressor.lora.rank = 4
    config.objective.lm = 1.0
    config.data.size, config.data.validation, config.data.test = 48, 1, 0
    config.data.corpus.words = 60
    config.data.target_length = config.data.min_context = 8
    config.optimizer.warmup_steps, config.optimizer.weight_decay = 4, 0.01
    config.train.steps = config.train.eval_every = config.train.checkpoint_every = STEPS
    config.train.batch_size, config.train.microbatches = 4, 2
    config.train.log_every = config.train.eval_examples = 1
    return resolve(config.to_dict(), [f'--config.{each}' for each in (*further, *overrides)])


def metrics(name: str, *overrides: str) -> dict[str, list[float]]:
    """The float32 `METRICS` of every step, from the metrics.jsonl of a real run."""
    config = settings(name, *overrides)
    with tempfile.TemporaryDirectory() as workdir:
        train(open_run(config, make_mesh(config.mesh)), Path(workdir))
        lines = (Path(workdir) / 'metrics.jsonl').read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record['split'] == 'train']
    return {metric: [record[metric] for record in records] for metric in METRICS}


def farthest(found: dict[str, list[float]], wanted: dict[str, list[float]]) -> dict[str, float]:
    """Of each of the `METRICS`, the largest relative difference over the steps."""
    return {
        metric: float(np.max([abs(a / b - 1) for a, b in zip(found[metric], wanted[metric], strict=True)]))
        for metric in METRICS
    }


def rounded(values: dict[str, list[float]]) -> dict[str, list[float]]:
    """To nine digits, which keep a float32 whole."""
    return {metric: [float(f'{value:.9g}') for value in values[metric]] for metric in METRICS}


def main() -> None:
    origin = provenance(SEED)  # of the code that runs, whatever HEAD is later
    found = {name: rounded(metrics(name)) for name in CASES}
    # One list a line.
    lines = [f'"{name}": {{\n{rows(values)}\n}}' for name, values in found.items()]
    head = json.dumps(origin | {'steps': STEPS}, indent=1)[:-2]
    write_text(STORED, head + ',\n "cases": {\n' + ',\n'.join(lines) + '\n}}\n')


def rows(values: dict[str, list[float]]) -> str:
    """The metrics of a case as JSON, one to a line."""
    return ',\n'.join(f' "{metric}": {json.dumps(values[metric])}' for metric in METRICS)


if __name__ == '__main__':
    main()
