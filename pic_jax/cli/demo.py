"""`pic-jax demo`: trains two compressors on the model that ships with the package and compares them."""

import argparse
import json
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np

HELP = 'train two small compressors, compare them with controls, and go on writing from a stored context'
EXAMPLE = """example:
  pic-jax demo --workdir=demo_run
"""
METHODS = ('icae', 'pic')
TEST_EXAMPLES = 200
NEW_TOKENS = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the workdir."""
    parser.add_argument('--workdir', metavar='DIR', default='demo_run', help='where everything is kept')
    parser.add_argument('--json', action='store_true', help='print rows as JSON instead of the table')


def demo_config() -> Any:
    """The demo's settings as a ConfigDict: 128 tokens of a notebook in 16 vectors, the next 40 predicted (pic)."""
    from pic_jax.config import default_config

    config = default_config()
    config.base = 'tiny_base'
    config.data.source = 'generated'
    config.data.seed = 1
    config.data.size = 6000
    config.data.context_length = 128
    config.data.target_length = 40
    config.data.min_context = 96
    config.data.test = 200
    config.compressor.method = 'pic'
    config.compressor.ratio = 8
    config.compressor.chunk_size = 32
    config.compressor.context_length = 128
    config.compressor.lora.rank = 32
    config.objective.lm = 0.2
    config.objective.distill = 1.0
    config.optimizer.learning_rate = 3e-3
    config.train.steps = 200
    config.train.batch_size = 16
    config.train.log_every = 10
    config.train.eval_every = 40
    config.train.eval_examples = 64
    config.train.checkpoint_every = 40
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
        overrides = [] if method == 'pic' else [f'--config.compressor.method={method}']
        train(open_run(resolve(demo_config().to_dict(), overrides)), folder)

    say(f'scoring on {TEST_EXAMPLES} held-out documents')
    trained = {method: load(folder) for method, folder in folders.items()}
    test = harness.held_out(trained['pic'].run, 'test')
    rows = []
    for method, compressor in trained.items():
        made, _ = harness.evaluate(compressor.run, compressor.trainable, test, TEST_EXAMPLES)
        # Controls are listed once, next to pic, whose k they share.
        rows += [row for row in made if row.method == method or method == 'pic']
    rows.sort(key=lambda row: row.method not in METHODS)
    results = json.dumps(tables.to_dicts(rows), indent=1)
    write_text(workdir / 'results.json', results + '\n')

    say('drawing')
    runs = {method: plots.read_metrics(folder / 'metrics.jsonl') for method, folder in folders.items()}
    plots.plot_curves(workdir / 'loss.png', runs, ('lm_nats',))
    draw_mask(workdir / 'mask.png', trained['pic'].run.config)
    bars = [dict(method=r.method, value=r.value, low=r.low, high=r.high) for r in rows if r.metric == 'gap_share']
    title = 'How much of what the full text tells is kept'
    plots.plot_bars(workdir / 'gap_share.png', bars, 'share of the gap between no context and full context', title)

    say('storing a context and going on from it')
    pic, config = trained['pic'], trained['pic'].run.config
    tokens = test[0].context[: config.data.context_length + NEW_TOKENS]
    text, goes_on = (pic.run.tokenizer.decode(part) for part in np.split(tokens, [config.data.context_length]))
    stored = pic.store([text], ['notebook'])
    contexts.write(workdir / 'context.safetensors', stored)
    memory = pic.memory_of(contexts.read(workdir / 'context.safetensors'))
    example = {
        'text': text,
        'how it goes on': goes_on.strip(),
        'from 16 vectors': pic.generate(memory, [''], NEW_TOKENS)[0],
        'from the full text': pic.generate_from_text([text], [''], NEW_TOKENS)[0],
    }
    write_text(workdir / 'answer.json', json.dumps(example, indent=1) + '\n')

    if args.json:
        print(results)
        return 0
    print(tables.to_text(rows))
    print(f'\nA stored context ({stored.lengths[0]} vectors in place of {stored.metadata.source_tokens[0]} tokens):')
    for name, value in example.items():
        print(textwrap.fill(f'{name}: {value}', 110, initial_indent='  ', subsequent_indent='    '))
    print('\nFiles:')
    for name, what in (
        ('results.json', 'the table'),
        ('loss.png', 'loss curves'),
        ('gap_share.png', 'the table as a picture'),
        ('mask.png', 'who sees whom in the pic encoder'),
        ('context.safetensors', 'the stored context'),
        ('answer.json', 'the text and how it goes on'),
        *((method, 'a run: config.json, metrics.jsonl, checkpoints') for method in METHODS),
    ):
        print(f'  {workdir / name}  {what}')
    print(f'\n{time.perf_counter() - started:.0f} s. Try:')
    print(f'  pic-jax ask --workdir={folders["pic"]} {workdir / "context.safetensors"} "The favourite"')
    return 0


def say(text: str) -> None:
    """A heading on stderr."""
    print(f'== {text}', file=sys.stderr, flush=True)
