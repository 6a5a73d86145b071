"""AdamW or Muon with clipping and a learning-rate schedule, all from optax."""

from typing import Any

import jax
import optax

from pic_jax.config import OptimizerConfig

# Spread of Muon's updates at a learning rate of 1: AdamW's is about as large, so one rate serves both.
MUON_RMS = 0.6


def learning_rate(config: OptimizerConfig, steps: int, peak: jax.typing.ArrayLike | None = None) -> optax.Schedule:
    """Linear warm-up from 0, then constant, or cosine decay to 0 at `steps`.

    Args:
      peak: stands in for `config.learning_rate`; may be traced.
    """
    peak, warmup = config.learning_rate if peak is None else peak, min(config.warmup_steps, steps)
    if config.schedule == 'cosine':
        shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, max(steps, warmup + 1))
    elif warmup == 0:  # optax's warm-up of no steps would stay at 0
        shape = optax.constant_schedule(1.0)
    else:
        shape = optax.warmup_constant_schedule(0.0, 1.0, warmup)
    return lambda step: peak * shape(step)


def make_optimizer(
    config: OptimizerConfig, steps: int, peak: jax.typing.ArrayLike | None = None
) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW, or Muon on the layers' matrices and AdamW (with Nesterov momentum) on the rest.

    Both decay every trained tensor (decoupled). Muon: optax.contrib.muon, after Jordan et al. 2024. `peak` is that of
    `learning_rate`.
    """
    schedule = learning_rate(config, steps, peak)
    if config.name == 'adamw':
        rule = optax.adamw(schedule, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay)
    else:
        rule = optax.contrib.muon(
            schedule,
            weight_decay=config.weight_decay,
            adam_b1=config.b1,
            adam_b2=config.b2,
            adam_weight_decay=config.weight_decay,
            muon_weight_dimension_numbers=_matrices,
            consistent_rms=MUON_RMS,
        )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), rule)


def _matrices(params: Any) -> Any:
    """Muon's dimension numbers of every stacked kernel or adapter factor [L, in, out]; None elsewhere."""

    def of(path, leaf):
        stacked = path[-1].key in ('kernel', 'lora_A', 'lora_B') and leaf.ndim == 3
        return optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2) if stacked else None

    return jax.tree_util.tree_map_with_path(of, params)
