"""Programs whose communication is known by construction, compiled for 8 simulated devices; prints {name: HLO text}.

Run as a program by test_collectives.py, because the number of devices is fixed when jax starts.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = {'a': 2, 'b': 4}
X_BD = jax.ShapeDtypeStruct((8, 16), jnp.float32)


def main():
    mesh = Mesh(np.array(jax.devices()).reshape(tuple(AXES.values())), tuple(AXES), axis_types=(AxisType.Auto,) * 2)
    sharded = NamedSharding(mesh, P('a', 'b'))

    def mapped(function, out=('a', 'b')):
        return jax.shard_map(function, mesh=mesh, in_specs=P('a', 'b'), out_specs=P(*out), check_vma=False)

    def summed_along(axis):
        return mapped(lambda x: x + lax.psum(x, axis))

    def repeated(function, length):
        return lambda x: lax.scan(lambda x, _: (function(x), None), x, length=length)[0]

    def until_small(function):
        return lambda x: lax.while_loop(lambda x: jnp.sum(x) > 1, function, x)

    programs = {
        'once': summed_along('b'),
        'scan': repeated(summed_along('b'), 5),
        'reverse': lambda x: lax.scan(lambda c, y: (summed_along('b')(c), y), x, jnp.arange(6), reverse=True)[0],
        'nested': repeated(repeated(summed_along('b'), 5), 3),
        'from_three': lambda x: lax.fori_loop(3, 10, lambda _, x: summed_along('a')(x), x),
        'unknown': until_small(summed_along('b')),
        'scan_in_unknown': until_small(repeated(summed_along('b'), 5)),
        'branches': lambda x: lax.cond(x[0, 0] > 0, summed_along('a'), summed_along('b'), x),
        'everyone': mapped(lambda x: x + lax.psum(x, ('a', 'b'))),
        'all_gather': mapped(lambda x: lax.all_gather(x, 'b', axis=1, tiled=True), out=('a', None)),
        'reduce_scatter': mapped(lambda x: lax.psum_scatter(x, 'a', scatter_dimension=0, tiled=True)),
        'all_to_all': mapped(lambda x: lax.all_to_all(x, 'b', 1, 0, tiled=True)),
        'permute': mapped(lambda x: lax.ppermute(x, 'b', [(i, (i + 1) % 4) for i in range(4)])),
        'replicate': lambda x: lax.with_sharding_constraint(x, NamedSharding(mesh, P())),
        'nothing': lambda x: x * 2,
    }
    x_BD = jax.ShapeDtypeStruct(X_BD.shape, X_BD.dtype, sharding=sharded)
    print(json.dumps({name: jax.jit(program).lower(x_BD).compile().as_text() for name, program in programs.items()}))


if __name__ == '__main__':
    main()
