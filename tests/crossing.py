"""Whether a collective communicates along an axis of the mesh that its program was compiled for."""

import numpy as np
from jax.sharding import Mesh

from pic_jax.planning.collectives import Collective


def crosses(collective: Collective, mesh: Mesh, axis: str) -> bool:
    """Whether some group has devices at different places along the axis."""
    coordinates = np.indices(mesh.devices.shape)[mesh.axis_names.index(axis)].reshape(-1)
    return any(len({int(coordinates[device]) for device in group}) > 1 for group in collective.groups)
