"""What accelerators can do: peak rates and memory, by their makers' documents."""

from typing import NamedTuple

import jax


class Chip(NamedTuple):
    """One device.

    Attributes:
      hbm_bytes: what programs may use, as libtpu 0.0.42 says where it refuses one that is too large; a little less than
        is built in.
      flops: peak bfloat16 operations per second. hbm_bandwidth: bytes per second.
      ici_bandwidth: bytes per second of all links to other chips, both directions. ici_ports: how many links.
      config: libtpu's name for one device per chip.
      largest: the largest slice sold, by the documentation. examples: names of slices.
    """

    hbm_bytes: int
    flops: float
    hbm_bandwidth: float
    ici_bandwidth: float
    ici_ports: int
    config: str
    largest: str
    examples: tuple[str, ...]


_GIB = 2**30
# Peaks and bandwidths: the pages v4, v5e, v5p and v6e of docs.cloud.google.com/tpu/docs (GB is 1e9 bytes there). v4's
# has no figure for its links; 540 GB/s is twice its all-reduce bandwidth (1.1 PB/s over 4,096 chips), which is how
# v5e's and v6e's figures relate (51.2 TB/s and 102.4 TB/s over 256 chips, 400 and 800 GB/s).
CHIPS = {
    'v4': Chip(int(30.75 * _GIB), 275e12, 1200e9, 540e9, 6, 'megacore', '12x16x16', ('2x2x1', '2x2x4', '4x4x4')),
    'v5e': Chip(int(15.75 * _GIB), 197e12, 819e9, 400e9, 4, 'default', '16x16', ('2x2', '4x4', '8x8', '16x16')),
    'v5p': Chip(int(95.74 * _GIB), 459e12, 2765e9, 1200e9, 6, 'default', '16x16x24', ('2x2x1', '4x4x4', '8x8x8')),
    'v6e': Chip(int(31.25 * _GIB), 918e12, 1638e9, 800e9, 4, 'default', '16x16', ('2x2', '2x4', '4x4', '16x16')),
}

# What jax calls the devices, and their peak of dense bfloat16 products. GPUs: NVIDIA's data sheets (the figures for
# sparse matrices there are twice as large). A kind that is not listed may be slower than its name (PCIe, NVL, MIG).
_KINDS = {
    'TPU v4': CHIPS['v4'].flops,
    'TPU v5 lite': CHIPS['v5e'].flops,
    'TPU v5e': CHIPS['v5e'].flops,
    'TPU v5': CHIPS['v5p'].flops,
    'TPU v5p': CHIPS['v5p'].flops,
    'TPU v6 lite': CHIPS['v6e'].flops,
    'TPU v6e': CHIPS['v6e'].flops,
    'NVIDIA L4': 121e12,
    'NVIDIA A100-SXM4-40GB': 312e12,
    'NVIDIA A100-SXM4-80GB': 312e12,
    'NVIDIA A100-PCIE-40GB': 312e12,
    'NVIDIA A100 80GB PCIe': 312e12,
    'NVIDIA H100 80GB HBM3': 989e12,
    'NVIDIA H200': 989e12,
    'NVIDIA B200': 2250e12,
}


def peak_flops(device: jax.Device) -> float | None:
    """Peak bfloat16 operations per second of a device, or None where the table does not have its kind."""
    return _KINDS.get(device.device_kind)
