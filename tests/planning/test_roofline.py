"""The estimate against sums done by hand, and memory traffic against programs whose traffic is known."""

import jax
import jax.numpy as jnp
import pytest

from pic_jax.hardware import Chip
from pic_jax.planning import hlo
from pic_jax.planning.collectives import Collective
from pic_jax.planning.roofline import Roofline, link_seconds, roofline
from pic_jax.planning.traffic import hbm_traffic

# Links of 10 B/s in each direction, two of them along each of two axes.
CHIP = Chip(1000, flops=100.0, hbm_bandwidth=50.0, ici_bandwidth=80.0, ici_ports=4, config='', largest='', examples=())


def collective(kind: str, size: int, devices: int, count: int | None = 1) -> Collective:
    return Collective(kind, size, count, (tuple(range(devices)),))


@pytest.mark.parametrize(
    ('kind', 'seconds'),
    [
        ('all-gather', 400 * 3 / 4 / 20),
        ('reduce-scatter', 400 * 3 / 4 / 20),
        ('all-reduce', 2 * 400 * 3 / 4 / 20),
        ('all-to-all', 400 * 4 / 4 / 20),
        ('collective-permute', 400 / 10),
    ],
)
def test_collectives_take_the_time_of_their_ring(kind, seconds):
    assert link_seconds(CHIP, collective(kind, 400, 4)) == pytest.approx(seconds)


def test_the_slowest_unit_decides():
    found = [collective('all-gather', 400, 4, count=2), collective('collective-permute', 10, 2)]
    estimate = roofline(CHIP, flops=1000.0, hbm_bytes=600, found=found)
    assert estimate == Roofline(compute=10.0, hbm=12.0, ici=pytest.approx(2 * 15.0 + 1.0))
    assert (estimate.seconds, estimate.bound) == (pytest.approx(31.0), 'ici')
    assert roofline(CHIP, 5000.0, 600, found).bound == 'compute'


def test_what_is_not_known_is_left_out_of_the_estimate_and_said():
    estimate = roofline(CHIP, 1000.0, None, [collective('all-gather', 400, 4, count=None)])
    assert estimate == Roofline(10.0, None, None)
    assert (estimate.seconds, estimate.bound) == (10.0, 'compute')


def traffic(function, *args) -> int | None:
    return hbm_traffic(hlo.parse(jax.jit(function).lower(*args).compile().as_text()))


def test_traffic_counts_what_is_read_and_written():
    x_II = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    assert traffic(lambda x: x + 1, x_II) == 2 * 64 * 64 * 4


def test_a_scan_over_stacked_weights_reads_every_slice_once():
    layers, size = 50, 64 * 64 * 4
    w_LII, x_II = jax.ShapeDtypeStruct((layers, 64, 64), jnp.float32), jax.ShapeDtypeStruct((64, 64), jnp.float32)
    found = traffic(lambda w, x: jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0], w_LII, x_II)
    # Each round needs the slice and x, and writes x; the compiler may copy slice and result once more. If a round read
    # the whole stack, it would be 50 slices.
    assert 3 * layers * size <= found <= 8 * layers * size


def test_traffic_of_a_loop_of_unknown_length_is_not_known():
    x_II = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    assert traffic(lambda x: jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x @ x, x), x_II) is None


# As compiled for a TPU: S(1) is the fast memory on the chip.
ON_CHIP = """HloModule jit_f, num_partitions=1

ENTRY %main (x: f32[1000]) -> f32[1000] {
  %x = f32[1000]{0:T(128)} parameter(0)
  %there = (f32[1000]{0:T(128)S(1)}, f32[1000]{0:T(128)}, u32[]{:S(2)}) copy-start(%x)
  %near = f32[1000]{0:T(128)S(1)} copy-done(%there)
  %more = f32[1000]{0:T(128)S(1)} add(%near, %near)
  ROOT %out = f32[1000]{0:T(128)} multiply(%more, %near)
}
"""


def test_memory_on_the_chip_is_free():
    assert hbm_traffic(hlo.parse(ON_CHIP)) == 4000 + 4000
