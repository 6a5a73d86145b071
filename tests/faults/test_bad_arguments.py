"""Arguments of every verb that mean nothing: exit code 2 (1 where a file is at fault), and one line that says why."""

import shutil
from pathlib import Path

import pytest
from refusals import refused

from pic_jax.cli.main import VERBS

ROOT = Path(__file__).parents[2]
GOLDEN = str(ROOT / 'tests' / 'interop' / 'golden_contexts.safetensors')
OWN, SWEEP = f'--config={ROOT}/configs/own_data.py', f'--config={ROOT}/configs/sweeps/chunk_size.py'
PIC = '--workdir=tiny_base/pic'

# What every verb asks for, so that nothing else is wrong with its arguments.
REQUIRED = {
    'demo': '', 'pretrain': '--config=a.py --workdir=run', 'train': '--config=a.py --workdir=run',
    'eval': '--workdir=run', 'ablate': '--config=a.py --workdir=run', 'compress': '--workdir=run note.txt --out=out',
    'ask': '--workdir=run note.txt Why?', 'contexts': 'show note.txt', 'convert': '--base=base --out=out',
    'export': '--workdir=run --out=out', 'check': 'out', 'tokenize': 'note.txt --base=base --out=out',
    'plan': '--config=a.py --topology=v5e:4x4', 'plot': 'run',
}  # fmt: skip

ARGUMENTS = [
    ('', 2, 'the following arguments are required: VERB'),
    ('nonsense', 2, 'invalid choice'),
    ('--version', 2, 'error'),
    *((f'{verb} {REQUIRED[verb]} --no_such_option', 2, f'unknown argument --no_such_option (pic-jax {verb} --help')
      for verb in VERBS if verb != 'bench'),
    (f'train {OWN}', 2, 'required: --workdir'),
    (f'train {OWN} --workdir=run --distributed=maybe', 2, '--distributed=maybe is not valid: expected one of auto'),
    (f'train {OWN} --workdir=run --profile_steps=9:1', 2, "'9:1' is not valid: expected two steps"),
    (f'train {OWN} --workdir=run --profile_steps=0:1', 2, 'expected two steps'),
    (f'train {OWN} --workdir=run --profile_steps=1:{"7" * 5000}', 2, 'expected two steps'),
    (f'train {OWN} --workdir=run --profile_steps=a', 2, 'expected two steps'),
    (f'train {OWN} --workdir=run --config.base=tiny_base', 1, 'notes.jsonl: cannot be read'),
    (f'train --config={ROOT}/configs/own_data.py:x --workdir=run', 2, 'TypeError'),
    ('train --config=missing.py --workdir=run', 2, '--config=missing.py: no such file'),
    (f'pretrain --config={ROOT}/configs/tiny_base.py:nope --workdir=run', 2, 'stage nope is not valid'),
    (f'ablate {OWN} --workdir=run', 2, 'get_sweep'),
    (f'ablate {SWEEP} --workdir=run --examples=0', 2, '--examples=0 is not valid'),
    (f'ablate {SWEEP} --workdir=run --examples=many', 2, "invalid int value: 'many'"),
    (f'ablate {SWEEP} --workdir=run --split=train', 2, 'invalid choice'),
    (f'eval {PIC} --examples=-1', 2, '--examples=-1 is not valid'),
    (f'eval {PIC} --split=all', 2, 'invalid choice'),
    (f'eval {PIC} --step=best', 1, 'step=best is not valid'),
    (f'eval {PIC} --step=', 1, 'step= is not valid'),
    ('eval --workdir=missing', 1, 'missing is not a workdir'),
    (f'compress {PIC} note.txt', 2, 'required: --out'),
    (f'compress {PIC} --out=out', 2, 'required: FILE'),
    (f'compress {PIC} note.txt --out=note.txt', 2, '--out=note.txt exists'),
    (f'compress {PIC} note.txt --out=no/folder/out', 2, 'the folder no/folder does not exist'),
    (f'compress {PIC} note.txt --out={"x" * 300}', 1, 'File name too long'),
    (f'compress {PIC} note.txt --out=out --ratio=0', 2, '--ratio=0 is not valid'),
    (f'compress {PIC} note.txt --out=out --ratio=-4', 2, '--ratio=-4 is not valid'),
    (f'compress {PIC} note.txt --out=out --ratio=5', 2, 'ratio=5 is not valid: the compressor serves 4'),
    (f'compress {PIC} note.txt --out=out --ratio=four', 2, "invalid int value: 'four'"),
    (f'compress {PIC} note.txt --out=out --mesh=fsdp', 2, '--mesh=fsdp: fsdp is not valid: expected AXIS=SIZE'),
    (f'compress {PIC} note.txt --out=out --mesh=rows=2', 2, 'AXIS of data, fsdp, tensor, context'),
    (f'compress {PIC} note.txt --out=out --mesh=fsdp=0', 2, 'mesh.fsdp=0 is not valid'),
    (f'compress {PIC} note.txt --out=out --mesh=fsdp=x', 2, 'expected AXIS=SIZE'),
    (f'compress {PIC} note.txt --out=out --mesh=fsdp=7', 2, 'mesh.fsdp=7'),
    (f'compress {PIC} note.txt --out=out --mesh=fsdp=-1,data=-1', 2, 'mesh.fsdp=-1 is not valid'),
    (f'compress {PIC} note.txt --out=out --step=7', 1, 'step=7 is not valid'),
    (f'compress {PIC} note.txt --out=out --step={"7" * 5000}', 1, 'error: step=777'),
    (f'compress {PIC} {"x" * 300} --out=out', 1, 'cannot be read (File name too long)'),
    (f'compress --workdir={"x" * 300} note.txt --out=out', 1, 'File name too long'),
    ('compress --workdir=hub:nope note.txt --out=out', 2, "'hub:nope' is not valid"),
    ('compress --workdir=hub:a/b@../../x note.txt --out=out', 2, 'expected hub:owner/name or'),
    ('compress --workdir=tiny_base/../pic note.txt --out=out', 1, 'is not a workdir'),
    (f'ask {PIC} {GOLDEN}', 2, 'required: QUESTION'),
    (f'ask {PIC} {GOLDEN} Why? --row=2', 2, '--row=2 is not valid'),
    (f'ask {PIC} {GOLDEN} Why? --max_new_tokens=0', 2, 'max_new_tokens=0 is not valid: expected a positive number'),
    (f'ask {PIC} {GOLDEN} Why? --temperature=nan', 2, 'temperature=nan, top_k=0, top_p=1.0) is not valid: expected'),
    (f'ask {PIC} {GOLDEN} Why? --temperature=inf', 2, 'temperature=inf, top_k=0, top_p=1.0) is not valid: expected'),
    (f'ask {PIC} {GOLDEN} Why? --temperature=-1', 2, 'expected finite temperature >= 0'),
    (f'ask {PIC} {GOLDEN} Why? --top_k=-1', 2, 'top_k >= 0'),
    (f'ask {PIC} {GOLDEN} Why? --top_p=nan', 2, '0 < top_p <= 1'),
    (f'ask {PIC} {GOLDEN} Why? --top_p=2', 2, '0 < top_p <= 1'),
    (f'ask {PIC} {GOLDEN} Why? --seed=-1', 2, '--seed=-1 is not valid: expected 0 to 4294967295'),
    (f'ask {PIC} {GOLDEN} Why? --seed={2**70}', 2, 'expected 0 to 4294967295'),
    (f'ask {PIC} {GOLDEN} Why?', 1, 'made for hidden_size=4, this model has 128'),
    ('contexts', 2, 'required'),
    (f'contexts show {GOLDEN} --rows=0', 2, '--rows=0'),
    ('contexts show missing', 1, 'missing: cannot be read'),
    ('contexts show .', 1, '.: cannot be read'),
    *((f'contexts slice {GOLDEN} --rows={rows} --out=out', 2, f'--rows={rows}')
      for rows in ('2', '0,,1', '1:0', '0:3', '0:99999999999999999999', 'a', '0-1', '\u0663', ':,')),
    (f'contexts slice {GOLDEN} --rows=0 --out=note.txt', 2, 'OUT=note.txt exists'),
    (f'contexts slice {GOLDEN} --rows=0 --out=no/out', 1, 'no/out: cannot be written'),
    (f'contexts slice {GOLDEN} --rows=0 --out={"x" * 300}', 1, 'File name too long'),
    ('contexts merge note.txt --out=out', 1, 'note.txt: not a safetensors file'),
    (f'contexts shrink {GOLDEN} out --ratio=0', 1, 'made by a compressor of one ratio'),
    (f'contexts shrink {GOLDEN} out --ratio=x', 2, 'invalid int value'),
    (f'contexts to onnx {GOLDEN} --base=tiny_base --out=out', 2, 'invalid choice'),
    (f'contexts to hf {GOLDEN} --base=missing --out=out', 1, 'missing/model.safetensors: no such file'),
    (f'contexts to hf {GOLDEN} --base=tiny_base --row=9 --out=out', 2, '--row=9 is not valid'),
    (f'contexts to peft {GOLDEN} --base=tiny_base --question=Why? --out=out', 2, '--question is not valid for peft'),
    (f'contexts to vllm {GOLDEN} --base=tiny_base --max_new_tokens=0 --out=out', 2, '--max_new_tokens=0 is not valid'),
    ('convert --base=missing --out=out', 1, 'missing/config.json: no such file'),
    ('convert --base=tiny_base --out=note.txt', 2, '--out=note.txt exists'),
    ('convert --base=tiny_base --out=note.txt/out', 1, 'note.txt/out'),
    ('convert --base=tiny_base --out=out --ratio=4', 2, '--ratio is not valid here'),
    ('convert --base=tiny_base --out=out --icae=note.txt --icformer=.', 2, 'not allowed with argument'),
    ('convert --base=tiny_base --out=out --icae=note.txt --lora_alpha=nan', 2, '--lora_alpha=nan is not valid'),
    ('convert --base=tiny_base --out=out --icae=note.txt --lora_alpha=-1', 2, '--lora_alpha=-1.0 is not valid'),
    ('convert --base=tiny_base --out=out --icae=note.txt', 1, 'note.txt: cannot be read'),
    ('convert --base=tiny_base --out=out --icformer=missing', 1, 'missing/config.json: no such file'),
    (f'export {PIC} --out=note.txt', 2, 'note.txt exists: expected a new folder'),
    (f'export {PIC} --out=note.txt/out', 1, 'note.txt/out'),
    ('export --workdir=missing --out=out', 1, 'missing is not a workdir'),
    ('check missing', 1, 'missing/config.json: no such file'),
    ('check note.txt', 1, 'note.txt/config.json'),
    ('tokenize --out=out', 2, 'expected SOURCE and --base, or --finish'),
    ('tokenize note.txt --base=tiny_base --out=out --shard=1/1', 2, '--shard=1/1 is not valid'),
    ('tokenize note.txt --base=tiny_base --out=out --shard=0/0', 2, '--shard=0/0 is not valid'),
    ('tokenize note.txt --base=tiny_base --out=out --shard=-1/2', 2, '--shard=-1/2 is not valid'),
    ('tokenize note.txt --base=tiny_base --out=out --shard=all', 2, '--shard=all is not valid'),
    ('tokenize note.txt --base=tiny_base --out=out --limit=0', 2, '--limit=0 is not valid'),
    ('tokenize note.txt --base=tiny_base --out=out --passage_tokens=-1', 2, '--passage_tokens=-1 is not valid'),
    ('tokenize note.txt --base=tiny_base --out=out --documents_per_shard=0', 2, '--documents_per_shard=0 is not'),
    ('tokenize note.txt --base=tiny_base --out=out --revision=x', 2, '--revision=x is not valid for note.txt'),
    ('tokenize note.csv --base=tiny_base --out=out', 2, "source 'note.csv' is not valid"),
    ('tokenize missing.txt --base=tiny_base --out=out', 1, 'missing.txt: cannot be read'),
    ('tokenize note.txt --base=missing --out=out', 1, 'missing is not a folder'),
    ('tokenize note.txt --base=tiny_base --out=note.txt', 1, 'note.txt: cannot be written'),
    ('tokenize note.txt --finish --out=out', 2, '--finish reads no source'),
    ('tokenize --finish --out=out', 1, 'no host has reached the end of the source yet'),
    (f'plan {OWN}', 2, 'required: --topology'),
    (f'plan {OWN} --topology=v5e:4x4 --programs=x', 2, '--programs=x is not valid'),
    (f'plan {OWN} --topology=v5e:4x4 --programs=', 2, '--programs= is not valid'),
    (f'plan {OWN} --topology=v5e:4x4 --budget_s=nan', 2, '--budget_s=nan is not valid'),
    (f'plan {OWN} --topology=v5e:4x4 --budget_s=0', 2, '--budget_s=0.0 is not valid'),
    ('plot', 2, 'required: WORKDIR'),
    ('plot missing', 1, 'missing/metrics.jsonl: cannot be read'),
    ('plot note.txt', 1, 'note.txt/metrics.jsonl: cannot be read'),
    ('plot . .', 2, 'expected each folder once'),
    ('bench nonsense', 2, 'invalid choice'),
    ('demo --workdir=note.txt', 1, 'note.txt: File exists'),
    ('demo --workdir=note.txt/run', 1, 'note.txt/run: Not a directory'),
]  # fmt: skip


@pytest.mark.parametrize(('words', 'code', 'said'), ARGUMENTS, ids=[ascii(row[0][:70]) for row in ARGUMENTS])
def test_arguments_that_mean_nothing_are_refused(tmp_path, monkeypatch, capsys, words, code, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    Path('note.txt').write_text('Mara lives in Stonehaven.')
    refused(capsys, words.split(), code, said)
    shutil.rmtree('out', ignore_errors=True)  # what a shard writer may have begun
    assert [path.name for path in tmp_path.iterdir()] == ['note.txt']
