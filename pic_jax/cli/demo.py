"""`pic-jax demo`: trains two compressors on the model that ships with the package and compares them."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

NAME = 'demo'
HELP = 'train two small compressors, compare them with controls, and answer a question from a stored context'
EXAMPLE = """example:
  pic-jax demo --workdir=demo_run
"""
METHODS = ('icae', 'pic')
TEST_QUESTIONS = 150


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the workdir."""
    parser.add_argument('--workdir', metavar='DIR', default='demo_run', help='where everything is kept')


def demo_config() -> Any:
    """The demo's settings as a ConfigDict: question answering from 4x compressed notebooks (method pic)."""
    from pic_jax.config import default_config

    config = default_config()
    config.base = 'tiny_base'
    config.data.source = 'generated'
    config.data.seed = 1
    config.data.size = 6000
    config.data.context_length = 208
    config.data.answer_length = 40
    config.compressor.method = 'pic'
    config.compressor.ratio = 4
    config.compressor.context_length = 208
    config.compressor.lora.rank = 32
    config.objective.lm = 0.0
    config.objective.ft = 1.0
    config.optimizer.learning_rate = 3e-3
    config.train.steps = 150
    config.train.batch_size = 16
    config.train.log_every = 10
    config.train.eval_every = 50
    config.train.eval_examples = 64
    config.train.checkpoint_every = 50
    return config


def run(args: argparse.Namespace) -> int:
    """Runs the demo; a second run in the same workdir reuses what is already trained."""
    from pic_jax.api import load
    from pic_jax.cli.plot import draw_mask
    from pic_jax.cli.settings import resolve
    from pic_jax.evaluation import harness, plots, tables
    from pic_jax.files import write_text
    from pic_jax.interop import contexts
    from pic_jax.run import open_run
    from pic_jax.training.loop import train

    started, workdir = time.perf_counter(), Path(args.workdir)
    folders = {method: workdir / method for method in METHODS}
    for method, folder in folders.items():
        say(f'training {method}')
        train(open_run(resolve(demo_config().to_dict(), [f'--config.compressor.method={method}'])), folder)

    say(f'scoring on {TEST_QUESTIONS} held-out questions')
    trained = {method: load(folder) for method, folder in folders.items()}
    rows, answers = [], {}
    for method, compressor in trained.items():
        records = harness.held_out(compressor.run, 'test')
        made, answers[method] = harness.evaluate(compressor.run, compressor.trainable, records, TEST_QUESTIONS)
        # Controls are listed once: those of the last method, whose k they share.
        rows += [row for row in made if row.method == method or method == METHODS[-1]]
    rows.sort(key=lambda row: row.method not in METHODS)
    write_text(workdir / 'results.json', tables.to_json(rows) + '\n')

    say('drawing')
    runs = {method: plots.read_metrics(folder / 'metrics.jsonl') for method, folder in folders.items()}
    plots.plot_curves(workdir / 'loss.png', runs, ('loss',))
    draw_mask(workdir / 'mask.png', trained['pic'].run.config)
    bars = [{'method': r.method, 'value': r.value, 'low': r.low, 'high': r.high} for r in rows if r.metric == 'em']
    plots.plot_bars(
        workdir / 'exact_match.png', bars, 'exact match on held-out questions', 'Reading 4x compressed text'
    )

    say('storing a context and asking it')
    pic = trained['pic']
    record = harness.held_out(pic.run, 'test')[0]
    text = pic.run.tokenizer.decode(record.context)
    stored = pic.store([text], ['notebook'])
    contexts.write(workdir / 'context.safetensors', stored)
    reply = pic.generate(pic.memory_of(contexts.read(workdir / 'context.safetensors')), [record.prompt], 16)[0]
    example = {'context': text, 'question': record.prompt, 'answer': reply, 'gold': record.golds[0],
               'full_context': answers['pic']['full_context'][0]}  # fmt: skip
    write_text(workdir / 'answer.json', json.dumps(example, indent=1) + '\n')

    print(tables.to_text(rows))
    print(f'\nA stored context ({stored.lengths[0]} vectors in place of {len(record.context)} tokens), asked:')
    print(f'  question            {example["question"]}')
    print(f'  pic answers         {example["answer"]}')
    print(f'  from the full text  {example["full_context"]}')
    print(f'  correct             {example["gold"]}')
    print('\nFiles:')
    for name, what in (
        ('results.json', 'the table'),
        ('loss.png', 'loss curves'),
        ('exact_match.png', 'the table as a picture'),
        ('mask.png', 'who sees whom in the pic encoder'),
        ('context.safetensors', 'the stored context'),
        ('answer.json', 'the question with its text and answers'),
        *((method, 'a run: config.json, metrics.jsonl, checkpoints') for method in METHODS),
    ):
        print(f'  {workdir / name}  {what}')
    print(f'\n{time.perf_counter() - started:.0f} s. Try: pic-jax ask --workdir={folders["pic"]} '
          f'{workdir / "context.safetensors"} "{record.prompt}"')  # fmt: skip
    return 0


def say(text: str) -> None:
    """A heading on stderr."""
    print(f'== {text}', file=sys.stderr, flush=True)
