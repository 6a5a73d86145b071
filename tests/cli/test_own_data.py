"""README's first command on data of one's own: configs/own_data.py as it stands, shortened, with the bundled model."""

import json
from pathlib import Path

import pytest

from pic_jax.cli.main import main
from pic_jax.config import CorpusConfig
from pic_jax.data import generator

CONFIG = Path(__file__).parents[2] / 'configs' / 'own_data.py'
SHORT = [
    '--config.compressor.ratio=16', '--config.compressor.context_length=128', '--config.data.context_length=128',
    '--config.data.target_length=32', '--config.data.min_context=32', '--config.data.validation=2',
    '--config.data.test=2', '--config.train.steps=2', '--config.train.batch_size=2',
]  # fmt: skip


@pytest.mark.slow
def test_a_jsonl_file_is_trained_on_and_scored(tmp_path, capsys):
    records = generator.generate(CorpusConfig(words=120), 'train', 12, seed=0)
    (tmp_path / 'notes.jsonl').write_text(''.join(json.dumps({'text': each.context}) + '\n' for each in records))
    source, workdir = f'--config.data.source={tmp_path / "notes.jsonl"}', f'--workdir={tmp_path / "run"}'
    assert main(['train', f'--config={CONFIG}', workdir, '--config.base=tiny_base', source, *SHORT]) == 0
    lines = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines if line['split'] == 'validation'] == [0, 2]
    capsys.readouterr()
    assert main(['eval', workdir, '--examples=2']) == 0
    out = capsys.readouterr().out
    assert 'full_context' in out
    assert 'nan' not in out
