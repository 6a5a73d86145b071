"""What train records say of rates, utilisation and spikes."""

import types

import jax
import numpy as np
import pytest

from pic_jax.hardware import peak_flops
from pic_jax.training import telemetry
from pic_jax.training.telemetry import Clock, Spikes


@pytest.mark.parametrize(
    ('kind', 'peak'),
    [
        ('TPU v5 lite', 197e12), ('TPU v5', 459e12), ('TPU v6 lite', 918e12), ('TPU v4', 275e12),
        ('NVIDIA H100 80GB HBM3', 989e12), ('NVIDIA A100-SXM4-80GB', 312e12), ('NVIDIA L4', 121e12),
        ('NVIDIA L40S', None), ('cpu', None), ('TPU v4 lite', None), ('NVIDIA H100 PCIe', None),
        ('NVIDIA H100 80GB HBM3 MIG 1g.10gb', None),
    ],
)  # fmt: skip
def test_peaks_are_those_of_the_very_device(kind, peak):
    assert peak_flops(types.SimpleNamespace(device_kind=kind)) == peak


def test_a_lap_by_hand(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(telemetry.time, 'perf_counter', lambda: now[0])
    devices = np.array([types.SimpleNamespace(device_kind='TPU v5 lite')] * 4)
    clock = Clock(devices)
    for _ in range(2):
        clock.fetched(0.25)
        clock.worked(tokens=300, flops=197e12)
    now[0] += 2.0
    lap = clock.lap()
    assert lap.pop('peak_bytes') > 0
    # 2 steps of 197e12 operations in 2 seconds, on 4 devices that could do 197e12 a second each.
    assert lap == {'elapsed_s': 2.0, 'tokens_per_s': 300.0, 'flops_per_s': 197e12, 'input_s': 0.5, 'mfu': 0.25}
    now[0] += 1.0
    assert clock.lap()['tokens_per_s'] == 0
    assert clock.formula(1e12).endswith('mfu = FLOPs / (seconds * 7.88e+14 FLOP/s, the bfloat16 peak of all devices)')


def test_unknown_devices_have_no_mfu():
    clock = Clock(np.array(jax.devices('cpu')[:1]))
    assert 'mfu' not in clock.lap()
    assert 'the peak of this device is not known' in clock.formula(1.0)


def of(*losses, ratio=None):
    """Train records with these losses."""
    where = {'split': 'train'} | ({} if ratio is None else {'ratio': ratio})
    return [where | {'loss': loss} for loss in losses]


NOISY = 2.0, 2.1, 1.9, 2.05, 1.95, 2.0, 2.1, 1.9  # median 2, median absolute deviation 0.075


@pytest.mark.parametrize(
    ('before', 'loss', 'high'),
    [
        (NOISY[:7], 100.0, False),  # too few to tell
        (NOISY, 2.67, False), (NOISY, 2.68, True),
        ((2.0,) * 8, 2.19, False), ((2.0,) * 8, 2.21, True),
        ((100.0,) * 20 + NOISY * 2, 3.0, True),  # the old ones are forgotten
        (NOISY * 2 + (3.0,) * 9, 3.0, False),  # a level that stays is none
    ],
)  # fmt: skip
def test_a_spike_is_far_above_the_losses_before_it(before, loss, high):
    assert Spikes(of(*before)).high(*of(loss)) == high


def test_losses_are_compared_at_their_own_ratio():
    """Half of the records have a loss that would be a spike among the other half."""
    spikes = Spikes([*of(*NOISY * 2, ratio=4), *of(*(x + 2 for x in NOISY), ratio=16)])
    assert not spikes.high(*of(4.0, ratio=16))
    assert spikes.high(*of(4.0, ratio=4))
    assert not Spikes([{'split': 'validation', 'loss': 2.0}] * 8).high(*of(4.0))
