"""Attention of T queries over S keys, by backends that agree: dense, structured, splash.

B batch, N query heads, K key/value heads, H head dim.
"""

from typing import Any, NamedTuple

import flax.struct
import jax

from pic_jax.models.structured_attention import attend_rows, softmax_over_all, structured
from pic_jax.patterns import Pattern

# On each platform the pairs of queries and keys up to which one dense product is as fast as anything else.
DENSE_PAIRS = {'cpu': 576**2, 'gpu': 1024**2, 'tpu': 1024**2}
# Where blocks leave out less than a quarter of the pairs they cost more than they save, and one dense product is
# faster; up to so many pairs, whose float32 scores take 64 MiB a head.
DENSE_SHARE, DENSE_PAIRS_AT_MOST = 0.75, 4096**2


@flax.struct.dataclass
class PatternMask:
    """Query t may attend to key s where the pattern says so and `valid` [B, S] is True.

    B may be 1 for the whole batch. The mask itself is written out by the backend that needs it, if any.
    """

    valid: jax.Array
    pattern: Pattern = flax.struct.field(pytree_node=False)

    @property
    def dense(self) -> jax.Array:
        """[B, T, S] bool."""
        seen_1TS: Any = self.pattern.dense()[None]
        return seen_1TS & self.valid[:, None]


class Choice(NamedTuple):
    """A backend, and why it."""

    backend: str
    why: str


def choose(backend: str, platform: str, pattern: Pattern) -> Choice:
    """The backend for a pattern: the one that is asked for, or with `auto` the fastest on that platform.

    Args:
      backend: of config.ATTENTIONS. platform: cpu | gpu | tpu, or '' for that of JAX's default device.
    """
    T, S = pattern.shape
    if backend != 'auto':
        return Choice(backend, f'attention={backend}')
    platform = platform or jax.default_backend()
    if DENSE_PAIRS.get(platform, DENSE_PAIRS['gpu']) >= T * S:
        return Choice('dense', f'{T} x {S} queries and keys are few for {platform}')
    if platform == 'tpu':
        return Choice('splash', f'{T} x {S} queries and keys on a TPU')
    if DENSE_PAIRS_AT_MOST >= T * S and pattern.block_pairs > DENSE_SHARE * T * S:
        return Choice('dense', f'nearly all of {T} x {S} queries and keys are seen')
    return Choice('structured', f'{T} x {S} queries and keys on {platform}')


def attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: jax.Array | PatternMask,
    backend: str = 'auto',
    platform: str = '',
) -> jax.Array:
    """Scaled dot-product attention with grouped key/value heads; softmax in float32.

    Args:
      q_BTNH: queries. k_BSKH, v_BSKH: keys and values, K divides N.
      mask: bool [B, T, S], True = attend, which is always dense; or a pattern, which any backend can use. A leading
        dimension of 1 serves the whole batch. A row without any True returns something finite that no reader may use
        (jax.nn.dot_product_attention: the mean of all values).
      backend, platform: see `choose`.

    Returns:
      [B, T, N, H] in the queries' dtype.
    """
    if not isinstance(mask, PatternMask):
        return attend_rows(q_BTNH, k_BSKH, v_BSKH, mask)
    platform = platform or jax.default_backend()
    name = choose(backend, platform, mask.pattern).backend
    if name == 'dense':
        return attend_rows(q_BTNH, k_BSKH, v_BSKH, mask.dense, platform if backend == 'auto' else '')
    if name == 'structured':
        return structured(q_BTNH, k_BSKH, v_BSKH, mask.pattern, mask.valid, platform)
    from pic_jax.models.splash_attention import splash  # Pallas takes a while to import

    return splash(q_BTNH, k_BSKH, v_BSKH, mask.pattern, mask.valid, interpret=platform == 'cpu')


def attend_behind(
    q_BTNH: jax.Array, past: tuple[jax.Array, jax.Array], own: tuple[jax.Array, jax.Array], mask_BTS: jax.Array
) -> jax.Array:
    """Attention over [past][own] keys and values, which stay where they are: a cache is read and never copied.

    Args:
      past, own: keys and values [B, P, K, H] and [B, T, K, H]. mask_BTS: bool, S = P + T, True = attend.

    Returns:
      [B, T, N, H] in the queries' dtype.
    """
    P = past[0].shape[1]
    masks_B1TS = mask_BTS[:, None, :, :P], mask_BTS[:, None, :, P:]
    found = [(each, 'bf', mask_B1TS) for each, mask_B1TS in zip((past, own), masks_B1TS, strict=True)]
    return softmax_over_all(q_BTNH[:, None], found)[:, 0]
