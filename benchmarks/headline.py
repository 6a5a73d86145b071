"""The papers' headline claims as one experiment on the shipped tiny base: PIC, EPL and ICAE at 4x, 16x and 64x.

A compressor is pretrained at 4x (autoencoding in embedding space, then in tokens with continuation), fine-tuned on
questions there, and trained on at doubled ratios. Each method has two learning rates for questions: one for 4x, and
one for 8x that falls with the square root of the ratio from there. Every measured point leaves one small JSON file in
benchmarks/results/headline; points that exist are skipped and interrupted runs resume, so the same command goes on
where it stopped.

    python benchmarks/headline.py ceilings    what k vectors can hold for this base, and what constant vectors give
    python benchmarks/headline.py screen      PIC's options at 4x, by successive halving on validation
    python benchmarks/headline.py rates       learning rates at 4x, then at 8x from the best at 4x, on validation
    python benchmarks/headline.py main        every method, ratio and seed, on test; PEERS at 4x only

Several processes with one --workdir share the work: each takes the next training that no other is at. `--cores=0/2`
and `--cores=1/2` give each of two processes its half of the machine.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import itertools
import json
import math
import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from provenance import provenance

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'benchmarks' / 'results' / 'headline'
CONFIG = ROOT / 'configs' / 'experiments' / 'headline.py'
RATIOS, MEASURED, SEEDS = (4, 8, 16, 32, 64), (4, 16, 64), (0, 1, 2)
CONSTANT = 'constant_memory'
RATES = {4: (2.5e-4, 5e-4, 1e-3), 8: (5e-4, 1e-3, 2e-3)}  # to begin with, at the two ratios that search
CONSTANT_RATES = (3e-3, 1e-2, 3e-2)  # free vectors, from a random start
DEFAULT_RATE = 5e-4
FINALISTS = 2
WORD_LISTS = 'data.corpus.word_lists=1.0'
CEILING_CONTEXTS = 8
# Each option of PIC, one at a time, against the preset (chunk-local, per_chunk, spread).
SCREEN = {
    'preset': [],
    'context_causal': ['context_sees=causal'],
    'context_memory': ['context_sees=chunk+memory'],
    'recurrent': ['context_sees=chunk+memory', 'memory_sees_memory=previous'],
    'per_window': ['memory_embeddings=per_window'],
    'end': ['positions=end'],
    'interleaved': ['positions=interleaved'],
    'decoder_spread': ['decoder_positions=spread'],
    'two_chunks': ['chunk_size={two_chunks}'],
}
KEPT_FIELDS = ('step', 'loss', 'words_distance', 'ae_nats', 'lm_nats', 'ft_nats', 'ft_gap_share', 'ft_exact')


@dataclasses.dataclass(frozen=True)
class Training:
    """One compressor on its way through the ratios.

    `options` are overrides of compressor.*, where {chunk} and {two_chunks} stand for tokens at the ratio of a stage;
    `rate` is the learning rate of the questions at 4x, `rate_8x` the one at 8x; `scale` multiplies the steps.
    """

    phase: str
    label: str
    options: tuple[str, ...]
    seed: int
    rate: float
    rate_8x: float | None = None
    scale: float = 1.0
    last: int = RATIOS[0]

    def path(self, ratio: int) -> Path:
        """The row of a ratio."""
        rates = [f'{rate:g}' for rate in (self.rate, self.rate_8x) if rate and self.phase == 'rate']
        return RESULTS / ('-'.join([self.phase, self.label, *rates, f'{ratio}x', f's{self.seed}']) + '.json')

    def is_done(self, ratio: int) -> bool:
        """Whether the row of a ratio is there.

        Raises:
          SystemExit: it is, but was trained with other rates or options.
        """
        path = self.path(ratio)
        if not path.exists():
            return False
        row, keys = json.loads(path.read_text()), ['rate', 'options'] + (['rate_8x'] if ratio > 4 else [])
        for key in keys:
            ours = getattr(self, key)
            if row[key] != (list(ours) if key == 'options' else ours):
                raise SystemExit(f'{path} has {key}={row[key]}, this training {ours}: delete what is out of date')
        return True

    def measured(self) -> list[int]:
        """The ratios that get a row."""
        return [ratio for ratio in (MEASURED if self.phase == 'main' else (self.last,)) if ratio <= self.last]

    def rate_at(self, ratio: int) -> float:
        """The learning rate of the questions."""
        return self.rate if ratio == 4 else self.rate_8x * math.sqrt(8 / ratio)

    def folder(self, stage: str, ratio: int) -> Path:
        """The workdir of a stage, the same for trainings that do not differ until then."""
        rates = [self.rate] if ratio == 4 else [self.rate, self.rate_8x]
        owner = 'pretrained' if stage != 'qa' else '-'.join([self.phase, *(f'{rate:g}' for rate in rates)])
        return Path(f'{owner}-{self.label}-s{self.seed}-{self.scale:g}') / f'{stage}{ratio}'

    def stages(self) -> list[tuple[str, int]]:
        """(stage, ratio) in order; constant vectors have nothing to reconstruct, keys and values are not near words."""
        pretraining = {CONSTANT: [], 'kv500x': ['pretrain']}.get(without_window(self.label), ['words', 'pretrain'])
        return [(stage, RATIOS[0]) for stage in pretraining] + [('qa', ratio) for ratio in RATIOS if ratio <= self.last]


def run_training(training: Training, workdir: Path) -> None:
    """All stages of a training; writes the row of every measured ratio."""
    from pic_jax.evaluation.plots import read_metrics
    from pic_jax.training.train import train

    history, start, origin = [], '', provenance(training.seed)  # of the code that runs, whatever HEAD is later
    for stage, ratio in training.stages():
        folder = workdir / training.folder(stage, ratio)
        run = open_stage(training, stage, ratio, start)
        trainable = train(run, folder)
        history.append(summary(stage, ratio, run, trainable, read_metrics(folder / 'metrics.jsonl')))
        start = str(folder)
        if stage == 'pretrain' and training.phase == 'main':
            history[-1] |= score(run, trainable, 'test', 48)
        if stage == 'qa' and ratio in training.measured() and not training.is_done(ratio):
            row = dataclasses.asdict(training) | {'ratio': ratio}
            row |= origin | {'stages': history}
            row |= {'split': 'test' if training.phase == 'main' else 'validation'}
            row |= score(run, trainable, row['split'], 10**6)
            if training.phase == 'main':
                row['word_lists'] = score_word_lists(training, ratio, start, trainable)
            write_row(training.path(ratio), row)


def open_stage(training: Training, stage: str, ratio: int, start: str, *more: str):
    """The run of a stage."""
    from pic_jax.cli.settings import load_file, resolve
    from pic_jax.run import open_run

    values = load_file(f'{CONFIG}:{stage},{ratio}')
    steps = max(1, round(values['train']['steps'] * training.scale))
    chunk = values['compressor']['chunk_size']
    options = [option.format(chunk=chunk, two_chunks=2 * chunk) for option in training.options]
    overrides = [f'compressor.{option}' for option in options]
    overrides += [f'seed={training.seed}', f'start={start}', f'train.steps={steps}']
    quarter = max(1, -(-steps // 4))
    overrides += [f'train.log_every={quarter}', f'train.checkpoint_every={quarter}']
    overrides.append(f'train.eval_every={quarter if stage == "qa" and ratio in (*MEASURED, training.last) else steps}')
    if stage == 'qa':
        overrides.append(f'optimizer.learning_rate={training.rate_at(ratio):.4g}')
    return open_run(resolve(values, [f'--config.{word}' for word in (*overrides, *more)]))


def summary(stage: str, ratio: int, run, trainable, records: list[dict[str, Any]]) -> dict[str, Any]:
    """A stage's cost and validation curve."""
    train = run.config.train
    return {
        'stage': stage,
        'ratio': ratio,
        'steps': train.steps,
        'seconds': seconds(records),
        'context_tokens': train.steps * train.batch_size * run.config.data.context_length,
        'flops_per_step': flops_per_step(run, trainable),
        'curve': [
            {key: round(record[key], 4) for key in KEPT_FIELDS if key in record}
            for record in records
            if record['split'] == 'validation'
        ],
    }


def seconds(records: list[dict[str, Any]]) -> float:
    """Time of all steps at the median speed of the quarters after the first, which waits for the compiler."""
    laps = [(record['step'], record['elapsed_s']) for record in records if 'elapsed_s' in record]
    per_step = [time / (step - before) for (before, _), (step, time) in itertools.pairwise(laps)]
    return round(statistics.median(per_step) * laps[-1][0], 1)


def flops_per_step(run, trainable) -> float:
    """Matrix products of one training step."""
    from pic_jax.data.loader import Batches
    from pic_jax.evaluation.flops import count_flops
    from pic_jax.evaluation.harness import held_out
    from pic_jax.training.objectives import compressor_loss
    from pic_jax.training.step import init_state, make_train_step

    config = run.config
    records = held_out(run, 'validation')
    batch = Batches(records, config.data, config.objective.names, run.eos_id, config.train.batch_size, 0)[0]
    step = make_train_step(compressor_loss(run), config.optimizer, config.train)
    state = jax.eval_shape(lambda: init_state(trainable, config.optimizer, config.train.steps))
    return count_flops(step, state, run.base, batch)


def score(run, trainable, split: str, limit: int) -> dict[str, Any]:
    """The table of the method itself (the controls are scored once, with the ceilings), and for questions `marks`:
    1 or 0 for each by exact match, questions on one context in a row."""
    from pic_jax.evaluation import harness, tables
    from pic_jax.evaluation.metrics import exact_match

    records, method = harness.held_out(run, split), run.config.compressor.method
    rows, answers = harness.evaluate(run, trainable, records, limit, (method,))
    texts = zip(answers.get(method, ()), records, strict=False)
    marks = ''.join(str(int(exact_match(text, record.golds))) for text, record in texts)
    return {'rows': tables.to_dicts(rows)} | ({'marks': marks} if marks else {})


def score_word_lists(training: Training, ratio: int, start: str, trainable) -> list[dict[str, Any]]:
    """In-context learning: the same compressor on labelled word lists, which no stage trained on."""
    run = open_stage(training, 'qa', ratio, start, WORD_LISTS)
    return score(run, trainable, 'test', 10**6)['rows']


def write_row(path: Path, row: dict[str, Any]) -> None:
    """A row counts as done once it is there, so it comes whole."""
    from pic_jax.files import write_text

    RESULTS.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(row, indent=1) + '\n')


def ceilings() -> None:
    """Per measured ratio: vectors fitted to all questions on a context, and the controls that no training changes."""
    from pic_jax.data.examples import packed
    from pic_jax.evaluation import harness
    from pic_jax.evaluation.optimised import optimised_memory

    training = Training('ceiling', 'icae', METHODS['icae'], 0, DEFAULT_RATE)
    for ratio in MEASURED:
        path = RESULTS / f'ceiling-{ratio}x.json'
        if not path.exists():
            run = open_stage(training, 'qa', ratio, '')
            fresh, records = run.init_trainable(), harness.held_out(run, 'test')
            contexts = packed(records, run.config.data, run.eos_id)[:CEILING_CONTEXTS]
            best = optimised_memory(run, fresh, contexts, 'ft', CEILING_CONTEXTS)
            row = {'ratio': ratio, 'k': float(best.k.mean()), 'answers': len(best.k), 'contexts': len(contexts)}
            row |= {'optimised_exact': best.exact('ft'), **provenance(0), 'rows': controls(run, fresh, records)}
            write_row(path, row)
        path = RESULTS / f'word_lists-{ratio}x.json'
        if not path.exists():
            run = open_stage(training, 'qa', ratio, '', WORD_LISTS)
            rows = controls(run, run.init_trainable(), harness.held_out(run, 'test'))
            write_row(path, {'ratio': ratio, **provenance(0), 'rows': rows})


def controls(run, fresh, records) -> list[dict[str, Any]]:
    """The table of the controls that need no trained compressor."""
    from pic_jax.evaluation import harness, tables
    from pic_jax.evaluation.controls import CONTROLS

    names = [name for name in CONTROLS if name != 'shuffled_memory']
    return tables.to_dicts(harness.evaluate(run, fresh, records, 10**6, names)[0])


def value(row: dict[str, Any], metric: str, task: str = 'qa') -> float:
    """A cell of the method's own table."""
    cells = [cell['value'] for cell in row['rows'] if (cell['task'], cell['metric']) == (task, metric)]
    return cells[0] if cells else math.nan


def stored(phase: str) -> list[dict[str, Any]]:
    """The rows of a phase."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f'{phase}-*.json'))]


@contextlib.contextmanager
def claimed(workdir: Path, name: str) -> Iterator[bool]:
    """Whether `name` is this process's to work on: no other gets it until the end of the block, or of this process."""
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / f'{name}.lock').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def run_missing(training: Training, workdir: Path) -> None:
    """Runs a training unless all of its rows are there or another process is at it."""
    with claimed(workdir, f'{training.label}-s{training.seed}') as ours:
        if ours and not all(training.is_done(ratio) for ratio in training.measured()):
            run_training(training, workdir)


def screen(workdir: Path) -> None:
    """Successive halving: all options at half of the steps, the best two at all of them."""
    first = [Training('screen1', label, tuple(options), 0, DEFAULT_RATE, 0.5) for label, options in SCREEN.items()]
    for training in first:
        run_missing(training, workdir)
    if not all(training.is_done(RATIOS[0]) for training in first):
        raise SystemExit('screen: another process is still at the first round: run this again when it is done')
    rows = {training: json.loads(training.path(RATIOS[0]).read_text()) for training in first}
    ranked = sorted(first, key=lambda training: value(rows[training], 'nats_per_token'))
    for training in ranked[:FINALISTS]:
        run_missing(dataclasses.replace(training, phase='screen2', scale=1.0), workdir)


def best_options() -> tuple[str, ...]:
    """PIC's options with the lowest validation nats in the last round of the screening."""
    rows = stored('screen2')
    if len(rows) < FINALISTS:
        raise SystemExit('headline: finish the screening first (python benchmarks/headline.py screen)')
    return tuple(min(rows, key=lambda row: value(row, 'nats_per_token'))['options'])


RATE_KEYS = {4: 'rate', 8: 'rate_8x'}
NO_CHUNKS = 'chunk_size=None'
# A window of one chunk: what PIC's chunks are without anything else of PIC.
SUFFIX, WINDOW = '_windowed', 'window={chunk}'
WINDOWED = 'icae' + SUFFIX
METHODS = {
    'icae': (NO_CHUNKS, 'method=icae'),
    WINDOWED: (NO_CHUNKS, 'method=icae', WINDOW),
    'epl': (NO_CHUNKS, 'method=epl'),
    CONSTANT: (NO_CHUNKS, f'method={CONSTANT}'),
}


# Compared at 4x: the headline's claims are not about them.
PEERS = {
    'icformer': (NO_CHUNKS, 'method=icformer'),
    'icformer' + SUFFIX: (NO_CHUNKS, 'method=icformer', WINDOW),
    'mean_pool': (NO_CHUNKS, 'method=mean_pool'),
    'kv500x': (NO_CHUNKS, 'method=kv500x'),
    'kv500x' + SUFFIX: (NO_CHUNKS, 'method=kv500x', WINDOW),
}


def without_window(label: str) -> str:
    """The label of the method itself: a window does not make another one, so its learning rates serve both."""
    return label.removesuffix(SUFFIX)


def methods() -> dict[str, tuple[str, ...]]:
    """Overrides of compressor.* per method."""
    return {'pic': best_options(), **METHODS, **PEERS}


def first_rates(label: str, ratio: int) -> tuple[float, ...]:
    """The learning rates that a search begins with."""
    return CONSTANT_RATES if label == CONSTANT else RATES[ratio]


def tried(label: str, ratio: int) -> dict[float, float]:
    """Rate -> validation nats of its trial, at 8x from the best rate at 4x."""
    rows = [row for row in stored('rate') if (row['label'], row['ratio']) == (without_window(label), ratio)]
    if ratio == 8:
        rows = [row for row in rows if row['rate'] == best_rate(label, 4)]
    return {row[RATE_KEYS[ratio]]: math.inf if 'error' in row else value(row, 'nats_per_token') for row in rows}


def next_rate(label: str, ratio: int) -> float | None:
    """The first rate that has no trial, or half or twice the best one where that is the end of what was tried.

    None once the best is not at an end, or after five trials.
    """
    nats = tried(label, ratio)
    for rate in first_rates(label, ratio):
        if rate not in nats:
            return rate
    best = min(nats, key=nats.get)
    if len(nats) >= 5 or min(nats) < best < max(nats):
        return None
    return best / 2 if best == min(nats) else best * 2


def best_rate(label: str, ratio: int) -> float:
    """The learning rate with the lowest validation nats."""
    if next_rate(label, ratio):
        raise SystemExit(f'headline: finish the rates of {label} first (python benchmarks/headline.py rates)')
    nats = tried(label, ratio)
    return min(nats, key=nats.get)


def search_rates(label: str, workdir: Path) -> None:
    """Tries rates at 4x, then at 8x from the compressor that the best rate at 4x gave."""
    training = Training('rate', label, methods()[label], 0, DEFAULT_RATE)
    while rate := next_rate(label, 4):
        try_rate(dataclasses.replace(training, rate=rate), workdir)
    while label not in PEERS and (rate := next_rate(label, 8)):
        try_rate(dataclasses.replace(training, rate=best_rate(label, 4), rate_8x=rate, last=8), workdir)


def try_rate(training: Training, workdir: Path) -> None:
    """Runs one trial; one that diverges leaves a row that says so."""
    from pic_jax.errors import PicJaxError

    try:
        run_training(training, workdir)
    except PicJaxError as error:
        row = dataclasses.asdict(training) | {'ratio': training.last, 'error': str(error), 'rows': []}
        write_row(training.path(training.last), row | provenance(training.seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('phase', choices=('ceilings', 'screen', 'rates', 'main'))
    parser.add_argument('--workdir', type=Path, default=Path('runs/headline'))
    parser.add_argument('--cores', default='0/1', metavar='I/N')
    args = parser.parse_args()
    part, parts = map(int, args.cores.split('/'))
    if parts > 1 and hasattr(os, 'sched_setaffinity'):  # two trainings on the same cores would wait for each other
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[part::parts] or cores)
    # Every seed and, but for the training steps, every learning rate runs the same programs.
    jax.config.update('jax_compilation_cache_dir', str(args.workdir.absolute() / 'compiled'))
    if args.phase == 'ceilings':
        ceilings()
    elif args.phase == 'screen':
        screen(args.workdir)
    elif args.phase == 'rates':
        for label in methods():
            with claimed(args.workdir, f'rates-{label}') as ours:
                if ours and label == without_window(label):
                    search_rates(label, args.workdir)
    else:
        for seed, label in itertools.product(SEEDS, methods()):
            training = Training('main', label, methods()[label], seed, best_rate(label, 4))
            if label not in PEERS:
                training = dataclasses.replace(training, rate_8x=best_rate(label, 8), last=RATIOS[-1])
            run_missing(training, args.workdir)


if __name__ == '__main__':
    main()
