"""What a training prints at its start."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from pic_jax.budget import memory_slots
from pic_jax.compressors.slots import parts_of
from pic_jax.data.examples import TokenisedRecord
from pic_jax.data.packing import Packed
from pic_jax.models.attention import Choice, choose
from pic_jax.nested import at_ratio, served_ratios
from pic_jax.patterns import causal
from pic_jax.run import Run


def count(tree: Any) -> int:
    """Parameters in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def summary(run: Run, trainable: Any, training: Sequence[TokenisedRecord], dropped: int) -> list[str]:
    """What is about to happen, in a few lines; `dropped` documents were too short."""
    config = run.config
    context = config.data.context_length
    ratios = served_ratios(config.compressor)
    k = [memory_slots(at_ratio(config.compressor, ratio), context) for ratio in ratios]
    drawn = f' (each step draws one of {len(ratios)})' if len(ratios) > 1 else ''
    layout = config.compressor.method
    if config.compressor.chunk_size:
        layout += f' (chunks of {config.compressor.chunk_size}, context sees {config.compressor.context_sees})'
    return [
        f'devices: {shown_mesh(run.mesh)}',
        f'parameters: {count(trainable):,} trained, {count(run.base):,} frozen ({config.base})',
        f'{layout}: ratio {commas(ratios)}{drawn}, {context} tokens -> k = {commas(k)} vectors',
        attention(run),
        f'{len(training):,} training examples, {config.train.batch_size} a step, '
        f'up to {config.train.batch_size * context:,} context tokens a step',
        *([training.told()] if isinstance(training, Packed) else []),
        *(
            [f'{dropped:,} documents (of all splits read) are too short for data.min_context and are left out']
            if dropped
            else []
        ),
    ]


def attention(run: Run) -> str:
    """Which backends compute the attention of encoder and decoder at full length, and why."""
    config, platform = run.config, run.decoder.platform
    longest = config.data.context_length
    texts = max(config.data.text_length(name) for name in config.objective.names) if config.objective.names else 0
    behind = len(run.prefix) + memory_slots(config.compressor, longest) + 1 + texts
    patterns = {'decoder': causal(behind)}
    if hasattr(run.compressor, 'pattern'):
        window = min(longest, config.compressor.window or longest)
        tokens = parts_of(config.compressor, window, config.attention).layout.num_tokens
        patterns = {'encoder': run.compressor.pattern(tokens)} | patterns
    choices = {name: choose(config.attention, platform, pattern) for name, pattern in patterns.items()}
    if config.compressor.method == 'kv500x':
        choices['decoder'] = Choice('dense', 'memory of keys and values')
    return 'attention: ' + '; '.join(f'{name} {choice.backend} ({choice.why})' for name, choice in choices.items())


def shown_mesh(mesh: Mesh) -> str:
    """`8 x TPU v5 lite (data 2, fsdp 4) of 2 processes`."""
    axes = ', '.join(f'{axis} {size}' for axis, size in mesh.shape.items() if size > 1)
    processes = f' of {jax.process_count()} processes' if jax.process_count() > 1 else ''
    return f'{mesh.size} x {mesh.devices.flat[0].device_kind}{f" ({axes})" if axes else ""}{processes}'


def commas(numbers: Sequence[int]) -> str:
    """`4, 8, 16`."""
    return ', '.join(map(str, numbers))
