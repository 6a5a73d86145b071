"""Exact attention in blocks: time and memory go to what the pattern lets be seen, and no [T, S] array is made.

Queries of a chunk look at their own chunk's keys, all chunks as one batch. Where they see more (earlier memory, or all
earlier tokens), a loop takes some rows at a time, and its backward pass computes their scores again.
B batch, T queries, S keys, N, K heads, H head dim; G blocks of A queries each with P keys of their own, and F far keys
that all blocks share; Q = N / K.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pic_jax.masks import Cells, sees
from pic_jax.patterns import Part, Pattern, Segment, Span

_LARGE = 192**2  # pairs of queries and keys of a row
_HIDDEN = -0.7 * float(np.finfo(np.float32).max)


class Keys(NamedTuple):
    """Keys and values [..., H], and which of them are real."""

    k: jax.Array
    v: jax.Array
    valid: jax.Array


def structured(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, pattern: Pattern, valid_BS: jax.Array, platform: str = ''
) -> jax.Array:
    """Attention as `attention.attend` defines it, of the pattern's queries over its keys."""
    keys = Keys(k_BSKH, v_BSKH, jnp.broadcast_to(valid_BS, k_BSKH.shape[:2]))
    parts = [_attend_part(pattern, part, q_BTNH, keys, platform) for part in pattern.parts]
    return jnp.concatenate(parts, axis=1)


def _attend_part(pattern: Pattern, part: Part, q_BTNH: jax.Array, keys: Keys, platform: str) -> jax.Array:
    """[B, t, N, H] for the t queries of a part."""
    q_BGANH = _fold(q_BTNH, part.queries)
    own = Keys(*(_fold(x, part.own) for x in keys)) if part.own else None
    if own is not None and not part.segments:
        out_BGANH = _attend_own(pattern, part, q_BGANH, own, platform)
    else:
        own_AP = _own_mask(pattern, part) if part.own else None
        stretches = [_attend_segment(pattern, part, segment, q_BGANH, own, own_AP, keys) for segment in part.segments]
        out_BGANH = jnp.concatenate(stretches, axis=1)
    return _unfold(out_BGANH, part.queries)


def _attend_own(pattern: Pattern, part: Part, q_BGANH: jax.Array, own: Keys, platform: str) -> jax.Array:
    """[B, G, A, N, H] where blocks see nothing but themselves: each is a row, large ones with blocks of their own."""
    q_RANH, k_RPKH, v_RPKH, valid_RP = (x.reshape(-1, *x.shape[2:]) for x in (q_BGANH, *own))
    if pattern.of_a_chunk:
        out_RANH = structured(q_RANH, k_RPKH, v_RPKH, pattern.of_a_chunk, valid_RP, platform)
    else:
        mask_RAP = valid_RP[:, None] & _own_mask(pattern, part)[None]
        out_RANH = attend_rows(q_RANH, k_RPKH, v_RPKH, mask_RAP, platform)
    return out_RANH.reshape(q_BGANH.shape)


def _own_mask(pattern: Pattern, part: Part) -> np.ndarray:
    """[A, P]. In which block queries stand makes no difference to what they see of it: the first serves all."""
    return pattern.dense(_first_block(part.queries), _first_block(part.own))


def attend_rows(
    q_RTNH: jax.Array, k_RSKH: jax.Array, v_RSKH: jax.Array, mask_RTS: jax.Array, platform: str = ''
) -> jax.Array:
    """Attention under a mask that is written out; on one CPU large rows take turns."""
    mesh = jax.sharding.get_abstract_mesh()
    mask_RTS = jnp.broadcast_to(mask_RTS, (len(q_RTNH), *mask_RTS.shape[1:]))
    large = q_RTNH.shape[1] * k_RSKH.shape[1] >= _LARGE
    if platform != 'cpu' or len(q_RTNH) == 1 or not large or (not mesh.empty and mesh.size > 1):
        return jax.nn.dot_product_attention(q_RTNH, k_RSKH, v_RSKH, mask=mask_RTS[:, None])
    return _in_turns(q_RTNH, k_RSKH, v_RSKH, mask_RTS)


def _in_turns(q_RTNH: jax.Array, k_RSKH: jax.Array, v_RSKH: jax.Array, mask_RTS: jax.Array) -> jax.Array:
    """A row at a time, its backward pass too.

    Scores that stay in the CPU's cache take half the time, and are as quickly computed again for the backward pass.
    Heads go first for all rows at once: XLA would turn each row over again, slower, on its way into a product. The
    division comes last, on [T, H] instead of [T, S]: its derivative then sums over H instead of over S.
    """
    R, T, N, H = q_RTNH.shape
    q_RKQTH = jnp.moveaxis(q_RTNH.reshape(R, T, k_RSKH.shape[2], -1, H), 1, 3)
    k_RKSH, v_RKSH = (jnp.moveaxis(x, 1, 2) for x in (k_RSKH, v_RSKH))

    @jax.checkpoint
    def attend(row: tuple[jax.Array, ...]) -> jax.Array:
        q_KQTH, k_KSH, v_KSH, mask_TS = row
        scores = jnp.einsum('kqth,ksh->kqts', q_KQTH, k_KSH, preferred_element_type=jnp.float32) * H**-0.5
        scores_KQTS = jnp.where(mask_TS[None, None], scores, _HIDDEN)
        largest_KQT1 = jax.lax.stop_gradient(jnp.max(scores_KQTS, axis=-1, keepdims=True))
        exp_KQTS = jnp.exp(scores_KQTS - largest_KQT1)
        sum_KQTH = jnp.einsum('kqts,ksh->kqth', exp_KQTS.astype(v_KSH.dtype), v_KSH, preferred_element_type=jnp.float32)
        return (sum_KQTH / jnp.sum(exp_KQTS, axis=-1, keepdims=True)).astype(q_KQTH.dtype)

    out_RKQTH = jax.lax.map(attend, (q_RKQTH, k_RKSH, v_RKSH, mask_RTS))
    return jnp.moveaxis(out_RKQTH, 3, 1).reshape(R, T, N, H)


def _attend_segment(
    pattern: Pattern, part: Part, segment: Segment, q_BGANH: jax.Array, own: Keys | None, own_AP: Any, keys: Keys
) -> jax.Array:
    """Blocks `segment.first` .. `segment.stop` - 1 over their own and the far keys, `part.group` blocks at a time."""
    blocks, far = slice(segment.first, segment.stop), slice(part.far[0], part.far[0] + segment.far)
    far_keys, far_cells = Keys(*(x[:, far] for x in keys)), pattern.key_cells[far]
    cells_GA = _fold_cells(pattern.query_cells, part.queries[0])[blocks]
    count, steps = segment.stop - segment.first, -(-(segment.stop - segment.first) // part.group)

    def by_step(x: Any, axis: int) -> jax.Array:
        padded = jnp.pad(x, [(0, steps * part.group - count) if i == axis else (0, 0) for i in range(x.ndim)])
        return jnp.moveaxis(padded.reshape(*x.shape[:axis], steps, part.group, *x.shape[axis + 1 :]), axis, 0)

    @jax.checkpoint
    def step(far_keys: Keys, taken: tuple[Any, ...]) -> jax.Array:
        q_BGANH, chunk_GA, index_GA, source_GA, own = taken
        query = Cells(cells_GA.kind[0, 0], chunk_GA[..., None], index_GA[..., None], source_GA[..., None])
        far_1GAF = sees(pattern.config, query, far_cells[None, None])[None]
        found = [(far_keys[:2], 'bf', far_1GAF & far_keys.valid[:, None, None])]
        if own is not None:
            found.append((own[:2], 'bgf', own_AP[None, None] & own.valid[:, :, None]))
        return softmax_over_all(q_BGANH, found)

    taken = (
        by_step(q_BGANH[:, blocks], 1),
        *(by_step(x, 0) for x in (cells_GA.chunk, cells_GA.index, cells_GA.source)),
        own and Keys(*(by_step(x[:, blocks], 1) for x in own)),
    )
    if steps == 1:
        return step(far_keys, jax.tree.map(lambda x: x[0], taken))[:, :count]
    _, out = jax.lax.scan(lambda carry, each: (carry, step(carry, each)), far_keys, taken)
    out = jnp.moveaxis(out, 0, 1)
    return out.reshape(out.shape[0], steps * part.group, *out.shape[3:])[:, :count]


def softmax_over_all(q_BGANH: jax.Array, found: list[tuple[tuple[jax.Array, jax.Array], str, jax.Array]]) -> jax.Array:
    """One softmax over keys of several kinds; [B, G, A, N, H].

    Args:
      found: keys and values; their dimensions before heads, as in an einsum; and which of them every query sees,
        [B, G, A, ...].
    """
    K, H = found[0][0][0].shape[-2:]
    q_BGAKQH = q_BGANH.reshape(*q_BGANH.shape[:3], K, -1, H)
    scores, seen = [], []
    for (k, _), dims, seen_BGAF in found:
        scores.append(jnp.einsum(f'bgakqh,{dims}kh->bgkqaf', q_BGAKQH, k, preferred_element_type=jnp.float32) * H**-0.5)
        seen.append(jnp.broadcast_to(seen_BGAF, (*q_BGANH.shape[:3], seen_BGAF.shape[-1])))
    seen_BG11AF = jnp.concatenate(seen, axis=-1)[:, :, None, None]
    weights = jax.nn.softmax(jnp.where(seen_BG11AF, jnp.concatenate(scores, axis=-1), _HIDDEN), axis=-1)
    out: Any = 0
    first = 0
    for (_, v), dims, seen_BGAF in found:
        size = seen_BGAF.shape[-1]
        own = weights[..., first : first + size].astype(q_BGANH.dtype)
        out, first = out + jnp.einsum(f'bgkqaf,{dims}kh->bgakqh', own, v), first + size
    return out.reshape(q_BGANH.shape)


def _fold(x_BT: jax.Array, spans: tuple[Span, ...]) -> jax.Array:
    """[B, blocks, A, ...] of spans of [B, T, ...]: block after block what every span has of it.

    What a short block lacks is zero or False.
    """
    found = []
    for span in spans:
        x = x_BT[:, span.start : span.stop]
        missing = span.blocks * span.size - x.shape[1]
        x = jnp.pad(x, ((0, 0), (0, missing), *((0, 0),) * (x.ndim - 2)))
        found.append(x.reshape(x.shape[0], span.blocks, span.size, *x.shape[2:]))
    return jnp.concatenate(found, axis=2)


def _unfold(x_BGA: jax.Array, spans: tuple[Span, ...]) -> jax.Array:
    """[B, t, ...], span after span, of what `_fold` made of them."""
    found, first = [], 0
    for span in spans:
        x = x_BGA[:, :, first : first + span.size]
        found.append(x.reshape(x.shape[0], -1, *x.shape[3:])[:, : span.stop - span.start])
        first += span.size
    return jnp.concatenate(found, axis=1)


def _fold_cells(cells: Cells, span: Span) -> Cells:
    """[blocks, size] each; what a short block lacks repeats its last cell."""
    index = np.arange(span.start, span.start + span.blocks * span.size).clip(max=span.stop - 1)
    return cells[index.reshape(span.blocks, span.size)]


def _first_block(spans: tuple[Span, ...]) -> np.ndarray:
    return np.concatenate([np.arange(span.start, span.start + span.size) for span in spans])
