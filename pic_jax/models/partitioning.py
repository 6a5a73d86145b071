"""Which mesh axes split which dimension: one table of rules for parameters and activations alike."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from pic_jax.errors import ConfigError

AXES = ('data', 'fsdp', 'tensor', 'context')

# Name of a dimension -> the mesh axes that split it; (): every device holds all of it.
RULES: dict[str, tuple[str, ...]] = {
    'batch': ('data', 'fsdp', 'context'),  # rows; windows and independent chunks are rows too
    'vocab': ('tensor',),
    'embed': ('fsdp',),  # D of matrices
    'heads': ('tensor',),
    'kv_heads': ('tensor',),
    'mlp': ('tensor',),
    # In the other order the losses are wrong on a mesh of 2 x 2 x 2 CPU devices (jaxlib 0.10.2).
    'adapter': ('fsdp', 'tensor'),  # of LoRA's A and B the side that is not the rank, which is too short to split
    'layers': (),
    'microbatches': (),
    'rank': (),
    'slots': (),
    'vector': (),  # D of vectors, and of activations
    'length': (),
    'head_dim': (),
}


def spec(dims: tuple[str, ...]) -> PartitionSpec:
    """The partition of an array whose dimensions have these names.

    Raises:
      ConfigError: a name has no rule, or two of the dimensions would be split by one mesh axis.
    """
    taken: dict[str, str] = {}
    for dim in dims:
        if dim not in RULES:
            raise ConfigError(f'dimension {dim} of {dims} has no sharding rule (there are: {", ".join(RULES)})')
        for axis in RULES[dim]:
            if axis in taken:
                raise ConfigError(f'mesh axis {axis} would split both {taken[axis]} and {dim} of {dims}')
            taken[axis] = dim
    return PartitionSpec(*(RULES[dim] or None for dim in dims))


def constrain(x: jax.Array, *dims: str) -> jax.Array:
    """Tells the compiler how an activation is split over the mesh that is set (jax.set_mesh); without one, nothing.

    A dimension that its axes do not divide is left whole: a batch of one row can be compressed on any mesh.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    axes = [names if size % ways(mesh, names) == 0 else None for names, size in zip(spec(dims), x.shape, strict=True)]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))


def merge_parts(x: jax.Array) -> jax.Array:
    """[B, P, ...] -> [B P, ...]: the P parts of every row as rows, in the order that `split_parts` undoes.

    Where there are fewer rows than the mesh has places for them, the axis `context` splits the parts of a row. Parts
    of one device then stand together, so that no device needs what another one holds.
    """
    F, X = _blocks(*x.shape[:2])
    (B, P), rest = x.shape[:2], x.shape[2:]
    blocks = x.reshape(F, B // F, X, P // X, *rest)
    return constrain(jnp.swapaxes(blocks, 1, 2).reshape(B * P, *rest), 'batch', *('length',) * len(rest))


def split_parts(x: jax.Array, B: int) -> jax.Array:
    """The inverse of `merge_parts`: [B P, ...] -> [B, P, ...]."""
    P, rest = len(x) // B, x.shape[1:]
    F, X = _blocks(B, P)
    return jnp.swapaxes(x.reshape(F, X, B // F, P // X, *rest), 1, 2).reshape(B, P, *rest)


def _blocks(B: int, P: int) -> tuple[int, int]:
    """Into how many blocks a mesh splits B rows, and the P parts of each."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or B % ways(mesh, RULES['batch']) == 0:
        return 1, 1
    rows = ways(mesh, tuple(axis for axis in RULES['batch'] if axis != 'context'))
    return (rows, mesh.shape['context']) if B % rows == 0 and P % mesh.shape['context'] == 0 else (1, 1)


def replicated(tree: Any) -> Any:
    """The tree with every leaf whole on every device, so that any process can read it."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, jax.tree.map(lambda x: PartitionSpec(), tree))


def ways(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh, names: str | tuple[str, ...] | None) -> int:
    """How many parts the named axes make."""
    size = 1
    for name in (names,) if isinstance(names, str) else names or ():
        size *= mesh.shape[name]
    return size
