"""Records of a run in TensorBoard and W&B."""

import struct
import time

import pytest

from pic_jax.training.trackers import make_tracker

RECORDS = [
    {'step': 0, 'split': 'validation', 'loss': 4.0},
    {'step': 2, 'split': 'train', 'loss': 3.0, 'spike': True, 'elapsed_s': 0.5},
    {'step': 4, 'split': 'train', 'loss': 2.0, 'ratio': 4},
]


def events(folder):
    """Events of all files in a folder, framed as TFRecord: [(step, {tag: value}, starts a session)]."""
    event_pb2 = pytest.importorskip('tensorboardX.proto.event_pb2', reason='needs tensorboardX')
    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack('<Q', data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + size])
            scalars = {value.tag: value.simple_value for value in event.summary.value}
            found.append((event.step, scalars, event.session_log.status == event.session_log.START))
            data = data[16 + size :]
    return found


def test_tensorboard_gets_every_number_at_its_step_and_purges_what_a_resume_repeats(tmp_path):
    pytest.importorskip('tensorboardX', reason='needs tensorboardX')
    for start in 0, 2:  # a run, and its resume from step 2
        tracker = make_tracker('tensorboard', tmp_path, {}, start)
        for record in RECORDS:
            if record['step'] > start or not start:
                tracker.write(record)
        tracker.close()
    found = events(tmp_path / 'tensorboard')
    scalars = [(step, tag, value) for step, values, _ in found for tag, value in values.items()]
    assert scalars == [
        (0, 'validation/loss', 4), (2, 'train/loss', 3), (2, 'train/spike', 1), (2, 'train/elapsed_s', 0.5),
        (4, 'train/loss', 2), (4, 'train/ratio', 4),
        (4, 'train/loss', 2), (4, 'train/ratio', 4),
    ]  # fmt: skip
    # What has this step or a later one is purged; a run that starts over purges everything.
    assert [step for step, _, starts in found if starts] == [0, 3]


def test_tensorboard_does_not_keep_records_to_itself(tmp_path):
    pytest.importorskip('tensorboardX', reason='needs tensorboardX')
    tracker = make_tracker('tensorboard', tmp_path, {}, 0)
    for record in RECORDS:
        tracker.write(record)
    deadline = time.monotonic() + 60  # tensorboardX itself keeps them for two minutes
    while (steps := {step for step, scalars, _ in events(tmp_path / 'tensorboard') if scalars}) != {0, 2, 4}:
        assert time.monotonic() < deadline, steps
        time.sleep(0.05)
    tracker.close()


@pytest.mark.slow
def test_wandb_goes_on_with_the_run_of_the_workdir(tmp_path, monkeypatch):
    wandb = pytest.importorskip('wandb', reason='needs wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    ids, logged = [], []
    monkeypatch.setattr(wandb.Run, 'log', lambda run, values: (ids.append(run.id), logged.append(values)))
    for record in RECORDS[:2]:
        tracker = make_tracker('wandb', tmp_path, {'seed': 3}, 0)
        tracker.write(record)
        tracker.close()
    assert ids == [(tmp_path / 'wandb_id').read_text().strip()] * 2
    assert logged == [
        {'step': 0, 'validation/loss': 4.0},
        {'step': 2, 'train/loss': 3.0, 'train/spike': True, 'train/elapsed_s': 0.5},
    ]
