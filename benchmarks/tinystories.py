"""icae, epl and pic through a frozen 260K-parameter Llama on TinyStories; needs PIC_JAX_ASSETS.

Each row is trained with configs/tinystories.py, scored on the held-out test stories and kept as one small JSON file;
rows that exist are skipped, interrupted ones resume.

    python benchmarks/tinystories.py [ROW ...] --workdir=runs/tinystories     train what is missing, print the table
    python benchmarks/tinystories.py --ceiling=icae --workdir=runs/tinystories    what the decoder could read, at best
    python benchmarks/tinystories.py --table                                  only print the table
"""

import argparse
import json
from pathlib import Path

from provenance import provenance

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'benchmarks' / 'results' / 'tinystories'
CEILING = RESULTS.with_name('tinystories_ceiling.json')
# Overrides of configs/tinystories.py; every option that was tried has a row.
ROWS = {
    'icae': ['method=icae', 'chunk_size=None'],
    'epl': ['method=epl', 'chunk_size=None'],
    'pic': [],
    'pic_causal': ['context_sees=causal', 'memory_sees_memory=previous'],
}


def train_row(name: str, workdir: Path) -> None:
    """Trains and scores one row and writes its file."""
    from pic_jax.cli.settings import load_file, resolve
    from pic_jax.evaluation import harness, tables
    from pic_jax.evaluation.plots import read_metrics
    from pic_jax.run import open_run
    from pic_jax.training.train import train

    overrides = [f'--config.compressor.{option}' for option in ROWS[name]]
    run = open_run(resolve(load_file(str(ROOT / 'configs' / 'tinystories.py')), overrides))
    origin = provenance(run.config.seed)
    trainable = train(run, workdir / name)
    # Also of a run that was interrupted: the time is in its records.
    seconds = sum(record.get('elapsed_s', 0) for record in read_metrics(workdir / name / 'metrics.jsonl'))
    rows, _ = harness.evaluate(run, trainable, harness.held_out(run, 'test'), limit=10**6)
    result = {
        'row': name,
        'options': ROWS[name],
        'train_s': round(seconds, 1),
        **origin,
        'rows': tables.to_dicts(rows),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f'{name}.json').write_text(json.dumps(result, indent=1) + '\n')


def ceiling(name: str, workdir: Path, limit: int = 48) -> str:
    """What the decoder could make of k vectors: `optimised_memory` on the first test stories, from a trained row."""
    from pic_jax.api import load
    from pic_jax.evaluation import harness
    from pic_jax.evaluation.metrics import gap_share
    from pic_jax.evaluation.optimised import optimised_memory

    trained = load(workdir / name)
    run, test = trained.run, harness.held_out(trained.run, 'test')
    scores = harness.score(run, trained.trainable, test, harness.methods_of(run), limit)
    scores['optimised_memory'] = optimised_memory(run, trained.trainable, test, 'lm', limit)
    nats = {method: score.per_token('lm') for method, score in scores.items()}
    shares = {method: gap_share(nats['no_context'], nats['full_context'], value) for method, value in nats.items()}
    result = {
        'row': name,
        'examples': limit,
        **provenance(run.config.seed),
        'nats_per_token': nats,
        'gap_share': shares,
    }
    CEILING.write_text(json.dumps(result, indent=1) + '\n')
    return CEILING.read_text()


def table() -> str:
    """All stored rows as a Markdown table; the controls come once, best share first."""
    lines = {}
    for path in sorted(RESULTS.glob('*.json')):
        result = json.loads(path.read_text())
        cells = {(row['method'], row['metric']): row for row in result['rows']}
        for method in {row['method'] for row in result['rows']}:
            if method == 'shuffled_memory':
                continue
            own = method == result['rows'][0]['method']
            share, nats = cells[method, 'gap_share'], cells[method, 'nats_per_token']
            label = f'**{result["row"]}** {" ".join(result["options"])}' if own else method
            seconds = f'{result["train_s"] / 60:.0f}' if own else ''
            lines[label] = (share['value'], f'| {label} | {share["k"]:.0f} | {nats["value"]:.3f} | '
                            f'{100 * share["value"]:.1f}% [{100 * share["low"]:.1f}, {100 * share["high"]:.1f}] '
                            f'| {seconds} |')  # fmt: skip
    head = '| method | k | nats/token | share of the gap, 95% interval | training, minutes |\n|---|---|---|---|---|\n'
    return head + '\n'.join(line for _, line in sorted(lines.values(), reverse=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('rows', nargs='*', metavar='ROW', help=f'out of {", ".join(ROWS)}; default all')
    parser.add_argument('--workdir', type=Path, default=Path('runs/tinystories'))
    parser.add_argument('--table', action='store_true')
    parser.add_argument('--ceiling', metavar='ROW')
    args = parser.parse_args()
    if args.ceiling:
        print(ceiling(args.ceiling, args.workdir))
        return
    if not args.table:
        for name in args.rows or ROWS:
            if not (RESULTS / f'{name}.json').exists():
                train_row(name, args.workdir)
    print(table())


if __name__ == '__main__':
    main()
