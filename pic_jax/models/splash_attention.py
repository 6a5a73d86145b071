"""JAX's Pallas TPU kernel with a static mask: blocks that nobody sees are left out when the program is compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec

from pic_jax.models.partitioning import RULES, ways
from pic_jax.patterns import Pattern

LANES = 128  # blocks are multiples of a TPU register's width
LARGEST, MOST_PADDING = 512, 1 / 32


class _Padded(masks.Mask):
    """A pattern whose rows and columns are filled up to whole blocks; a row that is filled up sees one key."""

    def __init__(self, pattern: Pattern, shape: tuple[int, int]):
        self._pattern, self._shape = pattern, shape

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        (row_first, row_stop, _), (first, stop, _) = (
            part.indices(size) for part, size in zip(index, self._shape, strict=True)
        )
        T, S = self._pattern.shape
        found = np.zeros((row_stop - row_first, stop - first), bool)
        rows, columns = (slice(row_first, min(row_stop, T)), slice(first, min(stop, S)))
        if rows.start < rows.stop and columns.start < columns.stop:
            found[: rows.stop - rows.start, : columns.stop - columns.start] = self._pattern.dense(rows, columns)
        if first == 0 and row_stop > T:
            found[max(T - row_first, 0) :, 0] = True
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Padded) and (self._pattern, self._shape) == (other._pattern, other._shape)

    def __hash__(self) -> int:
        return hash((self._pattern, self._shape))


def splash(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, pattern: Pattern, valid_BS: jax.Array, interpret: bool
) -> jax.Array:
    """Attention as `attention.attend` defines it, of the pattern's queries over its keys.

    Sequences are padded to whole blocks inside; keys that are not valid form a segment of their own. Under a mesh every
    device runs the kernel on its rows and heads. `interpret` runs it without a TPU, for tests.
    """
    B, T, _, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    block = _block(pattern)
    padded_T, padded_S = (-(-size // block) * block for size in (T, S))
    run = functools.partial(_run, pattern, block, (padded_T, padded_S), interpret)

    def padded(x: jax.Array, size: int) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, size - x.shape[1]), *((0, 0),) * (x.ndim - 2)))

    mesh = jax.sharding.get_abstract_mesh()
    valid_BS = jnp.broadcast_to(valid_BS, (B, S))
    arrays = padded(q_BTNH * H**-0.5, padded_T), padded(k_BSKH, padded_S), padded(v_BSKH, padded_S)
    if mesh.empty or mesh.size == 1:
        return run(*arrays, padded(valid_BS, padded_S))[:, :T]
    rows = RULES['batch'] if B % ways(mesh, RULES['batch']) == 0 else None
    heads = RULES['heads'] if K % ways(mesh, RULES['heads']) == 0 else None
    spec = PartitionSpec(rows, None, heads, None)
    sharded = jax.shard_map(
        run, mesh=mesh, in_specs=(spec, spec, spec, PartitionSpec(rows, None)), out_specs=spec, check_vma=False
    )
    return sharded(*arrays, padded(valid_BS, padded_S))[:, :T]


def _block(pattern: Pattern) -> int:
    """Tokens of a block: the most that keep blocks between chunks empty and add little to the longer sequence."""
    longest, chunk = max(pattern.shape), pattern.config.chunk_size or LARGEST
    sizes = [size for size in (LARGEST, LARGEST // 2) if size <= chunk and -longest % size <= longest * MOST_PADDING]
    return max(sizes, default=LANES)


def _run(
    pattern: Pattern, block: int, shape: tuple[int, int], interpret: bool, q_BTNH, k_BSKH, v_BSKH, valid_BS
) -> jax.Array:
    """The kernel on what one device holds."""
    B, T, N, _ = q_BTNH.shape
    segments = kernels.SegmentIds(jnp.ones((B, T), jnp.int32), valid_BS.astype(jnp.int32))
    heads_first = (jnp.swapaxes(x, 1, 2) for x in (q_BTNH, k_BSKH, v_BSKH))
    out_BNTH = jax.vmap(_kernel(pattern, block, shape, N, interpret))(*heads_first, segments)
    return jnp.swapaxes(out_BNTH, 1, 2)


def _kernel(pattern: Pattern, block: int, shape: tuple[int, int], heads: int, interpret: bool):
    mask = masks.MultiHeadMask([_Padded(pattern, shape)] * heads)
    sizes = kernels.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block, block_q_dkv=block, block_kv_dkv=block,
        block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block,
    )  # fmt: skip
    return kernels.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret)
