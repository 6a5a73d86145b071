"""The device mesh, and where parameters, optimizer state and batches live on it."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pic_jax.config import DecoderConfig, MeshConfig, RunConfig
from pic_jax.errors import ConfigError
from pic_jax.models.partitioning import AXES, RULES, spec, ways

# Layer -> the dimensions of its kernel [in, out].
KERNELS = {
    'q_proj': ('embed', 'heads'),
    'k_proj': ('embed', 'kv_heads'),
    'v_proj': ('embed', 'kv_heads'),
    'o_proj': ('heads', 'embed'),
    'gate_proj': ('embed', 'mlp'),
    'up_proj': ('embed', 'mlp'),
    'down_proj': ('mlp', 'embed'),
    'lm_head': ('embed', 'vocab'),
    'projector': ('embed', 'vector'),
}
# Every other leaf, by its own name.
LEAVES = {
    'embedding': ('vocab', 'embed'),
    'weight': ('vector',),
    'memory_embeddings': ('slots', 'embed'),
    'ae': ('vector',),
    'lm': ('vector',),
    'ft': ('vector',),
    'skip': ('embed', 'vector'),
    'up': ('embed', 'mlp'),
    'down': ('mlp', 'embed'),
    'ns_coeffs': (),  # of optax.contrib.muon
}


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over all devices (or `devices`), with Auto axes, in an order that suits their interconnect.

    Raises:
      ConfigError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_shape(config, len(devices))
    array = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(array, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def single_device_mesh() -> Mesh:
    """This process's first device."""
    return make_mesh(MeshConfig(1, 1, 1, 1), jax.local_devices()[:1])


def mesh_shape(config: MeshConfig, count: int) -> tuple[int, ...]:
    """Sizes of AXES for that many devices; -1 is what the other axes leave.

    Raises:
      ConfigError: they do not multiply to `count`.
    """
    sizes = [getattr(config, axis) for axis in AXES]
    known = math.prod(size for size in sizes if size > 0)
    shown = ', '.join(f'mesh.{axis}={size}' for axis, size in zip(AXES, sizes, strict=True))
    if -1 in sizes and count % known == 0:
        sizes[sizes.index(-1)] = count // known
    elif -1 in sizes or known != count:
        raise ConfigError(f'{shown} is not valid for {count} devices: expected sizes that multiply to {count}')
    return tuple(sizes)


def dims_of(path: Sequence[Any], ndim: int) -> tuple[str, ...]:
    """Names of the dimensions of a parameter, or of what an optimizer keeps for it; a stacked layer axis comes first.

    Raises:
      ConfigError: no rule knows the parameter.
    """
    if ndim == 0:
        return ()
    names = [str(getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', key)))) for key in path]
    layer, leaf = names[-2] if len(names) > 1 else '', names[-1]
    into, out = KERNELS.get(layer, ('', ''))
    by_leaf: dict[str, tuple[str, ...]] = {
        'kernel': (into, out),
        'bias': (out,),
        'lora_A': ('adapter', 'rank'),
        'lora_B': ('rank', 'adapter'),
    }
    dims = by_leaf[leaf] if into and leaf in by_leaf else LEAVES.get(leaf)
    if dims is None:
        raise ConfigError(f'parameter {"/".join(names)} has no sharding rule (training/sharding.py)')
    return ('layers',) * (ndim - len(dims)) + dims


def shardings(tree: Any, mesh: Mesh) -> Any:
    """A NamedSharding for every leaf of parameters, trained parameters or a TrainState (arrays or abstract shapes).

    Raises:
      ConfigError: a leaf has no rule, or a mesh axis does not divide a dimension of it.
    """

    def of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        dims = dims_of(path, leaf.ndim)
        for dim, size in zip(dims, leaf.shape, strict=True):
            if size % ways(mesh, RULES[dim]):
                axes = ' x '.join(f'mesh.{axis}={mesh.shape[axis]}' for axis in RULES[dim])
                name = jax.tree_util.keystr(path, simple=True, separator='/')
                raise ConfigError(f'{axes} does not divide dimension {dim}={size} of {name}')
        return NamedSharding(mesh, spec(dims))

    return jax.tree_util.tree_map_with_path(of, tree)


def abstract(tree: Any, mesh: Mesh) -> Any:
    """Shapes and dtypes of a tree, with its shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings(tree, mesh),
    )


def born_sharded(make: Any, mesh: Mesh, *args: Any) -> Any:
    """`make(*args)`, compiled so that every device makes its own part of the result and nothing else."""
    return jax.jit(make, out_shardings=shardings(jax.eval_shape(make, *args), mesh))(*args)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of arrays whose first dimension is rows of a batch."""
    return NamedSharding(mesh, PartitionSpec(RULES['batch']))


def rows_of_process(mesh: Mesh, batch_size: int) -> range:
    """The rows of a batch that this process's devices hold."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    bounds = [index[0].indices(batch_size) for index in indices if index]
    return range(min(start for start, _, _ in bounds), max(stop for _, stop, _ in bounds))


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """Global arrays of a batch of which every process has its rows (`rows_of_process`), in order."""
    parts, sharding = ways(mesh, RULES['batch']), batch_sharding(mesh)
    own = rows_of_process(mesh, parts)

    def place(x: np.ndarray) -> jax.Array:
        rows = len(x) * parts // len(own)
        first = own.start * rows // parts

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            start, stop, _ = (index or (slice(None),))[0].indices(rows)
            return x[start - first : stop - first]

        return jax.make_array_from_callback((rows, *x.shape[1:]), sharding, part)

    return jax.tree.map(place, batch)


def check_mesh(config: RunConfig, decoder: DecoderConfig, mesh: Mesh) -> None:
    """Refuses a mesh that a run's heads, batches or layout cannot be split over.

    Raises:
      ConfigError: naming the setting, its value and what would be valid.
    """
    tensor, rows = mesh.shape['tensor'], ways(mesh, RULES['batch'])
    for name in ('num_attention_heads', 'num_key_value_heads'):
        heads = getattr(decoder, name)
        if heads % tensor:
            raise ConfigError(f'mesh.tensor={tensor} is not valid: expected a divisor of {name}={heads}')
    microbatch = config.train.batch_size // config.train.microbatches
    if microbatch % rows:
        raise ConfigError(
            f'train.batch_size={config.train.batch_size} in train.microbatches={config.train.microbatches} is not '
            f'valid: expected a multiple of mesh.data x mesh.fsdp x mesh.context = {rows} rows in each'
        )
    if mesh.shape['context'] > 1 and not splits_context(config):
        raise ConfigError(
            f'mesh.context={mesh.shape["context"]} is not valid: expected 1 unless the context falls into independent '
            'parts (compressor.window, or compressor.context_sees=chunk with compressor.memory_sees_memory=own)'
        )


def splits_context(config: RunConfig) -> bool:
    """Whether nothing crosses from one chunk or window of a context to another."""
    return config.compressor.chunk_local or config.compressor.window is not None
