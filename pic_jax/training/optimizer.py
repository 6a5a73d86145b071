"""AdamW with clipping and a learning-rate schedule, all from optax."""

import optax

from pic_jax.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then constant, or cosine decay to 0 at `steps`."""
    warmup = min(config.warmup_steps, steps)
    if config.schedule == 'cosine':
        return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(steps, warmup + 1))
    if warmup == 0:  # optax's warm-up of no steps would stay at 0
        return optax.constant_schedule(config.learning_rate)
    return optax.warmup_constant_schedule(0.0, config.learning_rate, warmup)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW (decoupled weight decay on every trained tensor)."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(learning_rate(config, steps), b1=config.b1, b2=config.b2, weight_decay=config.weight_decay),
    )
