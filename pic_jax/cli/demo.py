"""`pic-jax demo`: fine-tunes the two compressors that ship on questions and compares them with controls."""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import shlex
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TextIO

HELP = 'fine-tune two small compressors on questions, compare them with controls, and ask a stored context'
EXAMPLE = """example:
  pic-jax demo --workdir=demo_run
"""
METHODS = ('icae', 'pic')
CONSTANT = 'constant_memory'
OVERRIDES = {
    'icae': ['compressor.method=icae', 'start=tiny_base/icae'],
    'pic': [],
    CONSTANT: [f'compressor.method={CONSTANT}', 'start=', 'optimizer.learning_rate=1e-2', 'train.steps=40'],
}
STRIDE = 3  # every third of the 12 questions about a test document is asked
SHOWN = 4
CONTEXT = 'context.safetensors'
PRINTED = ('nats_per_token', 'gap_share', 'em')  # answers of one word score the same by every other metric


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the workdir."""
    parser.add_argument('--workdir', metavar='DIR', default='demo_run', help='where everything is kept')
    parser.add_argument('--json', action='store_true', help='print rows as JSON instead of the table')


def demo_config() -> Any:
    """The demo's settings as a ConfigDict: 12 facts in about 250 tokens, read from a quarter as many vectors (pic)."""
    from pic_jax.recipes import ask_all, on_tiny_base

    config = on_tiny_base(context_length=320)
    config.start = 'tiny_base/pic'
    config.data.seed = 1
    config.data.size = 1000
    config.data.validation = 20
    config.data.test = 36
    config.data.corpus.words = 170
    ask_all(config, facts=12, answer_length=224)
    config.compressor.method = 'pic'
    config.compressor.ratio = 4
    config.compressor.chunk_size = 16
    config.objective.ft = 1.0
    config.optimizer.learning_rate = 5e-4
    config.train.steps = 100
    config.train.batch_size = 8
    config.train.log_every = 10
    config.train.eval_every = 25
    config.train.eval_examples = 48
    config.train.checkpoint_every = 50
    return config


def run(args: argparse.Namespace) -> int:
    """Runs the demo; a second run in the same workdir reuses what is already trained."""
    from pic_jax.api import load
    from pic_jax.evaluation import tables
    from pic_jax.files import write_text
    from pic_jax.training.workdir import refuse_run

    started, workdir = time.perf_counter(), Path(args.workdir)
    refuse_run(workdir)
    folders = {method: workdir / method for method in OVERRIDES}
    workdir.mkdir(parents=True, exist_ok=True)  # fails before the work rather than behind it
    say(f'fine-tuning {" and ".join(METHODS)} on questions, then asking them and the controls about held-out documents')
    rows: list[Any] = []
    answers: dict[str, Any] = {}
    for made, given in each(train_and_score, [(method, folders[method]) for method in OVERRIDES]):
        rows, answers = rows + made, answers | given
    pic = load(folders['pic'])
    test = asked_of(pic.run)
    rows = [row for row in rows if row.task == 'qa']
    rows.sort(key=lambda row: not row.method.startswith(METHODS))
    others = CONSTANT, 'truncate_last_k', 'icae', 'full_context'
    gains = {other: gain(answers['pic'], answers[other], test) for other in others}
    results = json.dumps({'rows': tables.to_dicts(rows), 'pic_minus': gains}, indent=1)
    write_text(workdir / 'results.json', results + '\n')
    say('drawing')
    draw(folders, pic.run.config, rows)
    say('storing a context and asking it')
    example = store_and_ask(workdir, pic, test[:SHOWN], answers)
    if args.json:
        print(results)
        return 0
    print(tables.to_text([row for row in rows if row.metric in PRINTED]))
    for other, (value, low, high) in gains.items():
        print(f'exact match of pic minus {other}: {100 * value:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]')
    print_example(workdir, example)
    print_files(workdir)
    print(f'\n{time.perf_counter() - started:.0f} s. Try:')
    print('  ' + shlex.join(['pic-jax', 'ask', f'--workdir={folders["pic"]}', str(workdir / CONTEXT), test[0].prompt]))
    return 0


def draw(folders: dict[str, Path], config: Any, rows: list[Any]) -> None:
    """Curves of all methods, the mask of pic's encoder, and exact match as bars, beside the methods' folders."""
    from pic_jax.evaluation import plots

    workdir = folders['pic'].parent
    curves = {method: plots.read_metrics(folder / 'metrics.jsonl') for method, folder in folders.items()}
    plots.plot_curves(workdir / 'loss.png', curves, ('ft_nats',))
    plots.draw_mask(workdir / 'mask.png', config)
    bars = [dict(method=r.method, value=r.value, low=r.low, high=r.high) for r in rows if r.metric == 'em']
    plots.plot_bars(workdir / 'exact_match.png', bars, 'questions answered exactly', 'What is left after compression')


def store_and_ask(workdir: Path, pic: Any, shown: Sequence[Any], answers: dict[str, list[str]]) -> dict[str, Any]:
    """Stores the context of the shown questions; writes and returns its text and the answers of the methods."""
    from pic_jax.files import write_text
    from pic_jax.interop import context_files

    text = pic.run.tokenizer.decode(shown[0].context)
    context_files.write(workdir / CONTEXT, pic.store([text], ['notebook']))
    asked = [
        {'question': record.prompt, 'answer': record.golds[0],
         **{method: answers[method][number] for method in ('pic', 'icae', 'full_context', CONSTANT)}}
        for number, record in enumerate(shown)
    ]  # fmt: skip
    example = {'text': text, 'asked': asked}
    write_text(workdir / 'answers.json', json.dumps(example, indent=1) + '\n')
    return example


def print_example(workdir: Path, example: dict[str, Any]) -> None:
    """The stored context with its questions and answers."""
    from pic_jax.interop import context_files

    stored = context_files.read(workdir / CONTEXT)
    print(f'\nA stored context ({stored.lengths[0]} vectors in place of {stored.metadata.source_tokens[0]} tokens):')
    print(textwrap.fill(example['text'], 110, initial_indent='  ', subsequent_indent='  '))
    for record in example['asked']:
        print('  ' + '  '.join(f'{name}: {value}' for name, value in record.items()))


def print_files(workdir: Path) -> None:
    """What the demo leaves, a line each."""
    print('\nFiles:')
    for name, what in (
        ('results.json', 'the table'),
        ('loss.png', 'curves of the loss on questions'),
        ('exact_match.png', 'the table as a picture'),
        ('mask.png', 'who sees whom in the pic encoder'),
        (CONTEXT, 'the stored context'),
        ('answers.json', 'its text, questions and answers'),
        *((method, 'a run: config.json, metrics.jsonl, checkpoints') for method in OVERRIDES),
    ):
        print(f'  {workdir / name}  {what}')


def each(function: Callable[..., Any], arguments: list[tuple]) -> Iterator[Any]:
    """The function's results in order: side by side on a CPU, one after the other where processes share a device."""
    import jax

    if jax.default_backend() != 'cpu':
        yield from (function(*words) for words in arguments)
        return
    context = get_context('spawn')  # forking is not safe once JAX has threads
    halves = context.SimpleQueue()
    for half in (0, 1):
        halves.put(half)
    with ProcessPoolExecutor(2, context, on_half, (halves,)) as pool:
        futures = [pool.submit(function, *words) for words in arguments]
        yield from (future.result() for future in futures)


def on_half(halves: Any) -> None:
    """Keeps a process on every other core: two small trainings on all cores would wait for each other."""
    if hasattr(os, 'sched_setaffinity'):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[halves.get() :: 2] or cores)


def train_and_score(method: str, folder: Path) -> tuple[list[Any], dict[str, list[str]]]:
    """Trains a method; its rows before and after (pic brings those of the other controls), and answers after."""
    from pic_jax.cli.settings import resolve
    from pic_jax.evaluation import harness
    from pic_jax.run import open_run
    from pic_jax.training.start import initial_trainable
    from pic_jax.training.train import train

    run = open_run(resolve(demo_config().to_dict(), [f'--config.{word}' for word in OVERRIDES[method]]))
    with contextlib.redirect_stderr(Named(sys.stderr, method)):
        trainable = train(run, folder)
    test = asked_of(run)
    # The controls are scored once, next to pic, whose k all share.
    rows, answers = harness.evaluate(run, trainable, test, len(test), None if method == 'pic' else (method,))
    if method in METHODS:
        made, _ = harness.evaluate(run, initial_trainable(run), test, len(test), (method,))
        rows += [dataclasses.replace(row, method=f'{method}, before') for row in made]
    return rows, answers


def asked_of(run: Any) -> Sequence[Any]:
    """Every third question about the test documents."""
    from pic_jax.evaluation import harness

    return harness.held_out(run, 'test')[::STRIDE]


class Named(io.TextIOBase):
    """A text stream that puts a name before every line."""

    def __init__(self, stream: TextIO, name: str):
        self._stream, self._name = stream, name

    def write(self, text: str) -> int:
        """Writes with the name before every line that begins in `text`."""
        self._stream.write(''.join(f'{self._name}: {line}' if line.strip() else line for line in text.splitlines(True)))
        return len(text)

    def flush(self) -> None:
        """Flushes the stream."""
        self._stream.flush()


def gain(answers: list[str], others: list[str], records: Sequence[Any]) -> tuple[float, float, float]:
    """Difference of the exact match of two methods on the same questions, with its paired 95% bootstrap interval."""
    from pic_jax.evaluation.harness import groups_of
    from pic_jax.evaluation.metrics import bootstrap_interval, exact_match

    differences = [
        exact_match(ours, record.golds) - exact_match(theirs, record.golds)
        for ours, theirs, record in zip(answers, others, records, strict=True)
    ]
    return sum(differences) / len(differences), *bootstrap_interval(differences, 0, groups_of(records))


def say(text: str) -> None:
    """A heading on stderr."""
    print(f'== {text}', file=sys.stderr, flush=True)
