"""`pic-jax eval`: a trained compressor and its controls on held-out data."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from pic_jax.cli import settings

HELP = 'score a trained compressor and its controls on held-out data'
EXAMPLE = """examples:
  pic-jax eval --workdir=runs/pic
  pic-jax eval --workdir=runs/pic --step=best
  pic-jax eval --workdir=runs/pic --split=validation --examples=100 --json
  pic-jax eval --workdir=runs/pic --config.data.source=other.jsonl
  pic-jax eval --workdir=runs/nested --ratios=4,16
"""
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the workdir and what to score on."""
    parser.add_argument('--workdir', metavar='DIR', required=True, help='folder of the run')
    settings.add_reading(parser)
    parser.add_argument('--split', default='test', choices=('validation', 'test', 'train'))
    parser.add_argument('--examples', type=int, default=1000, metavar='N', help='how many at the most (default 1000)')
    parser.add_argument('--ratios', metavar='R,R', help='some of compressor.ratios (default: all of them)')
    parser.add_argument('--json', action='store_true', help='print rows as JSON instead of the table')


def run(args: argparse.Namespace) -> int:
    """Prints the table; writes results.json, results.csv, samples.json and report.html into the workdir.

    For questions also answers.json.
    """
    from pic_jax.config import to_mapping
    from pic_jax.errors import ConfigError
    from pic_jax.evaluation import harness, metrics, ratios, report, samples, tables
    from pic_jax.evaluation.environment import environment, record_environment
    from pic_jax.files import write_text
    from pic_jax.nested import trainable_at
    from pic_jax.run import check_fits

    if args.examples < 1:
        raise ConfigError(f'--examples={args.examples} is not valid: expected a positive number')
    workdir = Path(args.workdir)
    here, trained = environment(), settings.load(args)  # before the work: commit and checkpoint may move on
    config = settings.resolve(to_mapping(trained.run.config), args.overrides)
    changed = [f.name for f in dataclasses.fields(config)
               if f.name != 'data' and getattr(config, f.name) != getattr(trained.run.config, f.name)]  # fmt: skip
    if changed:
        raise ConfigError(f'--config.{changed[0]} is what the compressor was trained with: only data.* may change')
    if not config.objective.names:
        raise ConfigError(
            f'--workdir={workdir}: objective.words alone leaves no text to score: expected one trained further '
            f'(pic-jax train with --config.start={workdir} and a weight for ae, lm or ft)'
        )
    run = dataclasses.replace(trained.run, config=config)
    check_fits(run)
    chosen = ratios.chosen_ratios(run, args.ratios)
    records = harness.held_out(run, args.split)
    print(
        f'scoring {min(len(records), args.examples)} examples of {config.data.source} ({args.split})', file=sys.stderr
    )
    scored = ratios.tables_at(run, trained.trainable, records, args.examples, chosen)
    rows = [row for table in scored for row in table.rows]
    origin = {'split': args.split, 'source': config.data.source, 'seed': config.seed, 'step': trained.step}
    if any(row.metric == 'bleu4' for row in rows):
        origin['bleu_signature'] = metrics.bleu_signature()
    if any(row.metric in metrics.ROUGE for row in rows):
        origin['rouge_signature'] = metrics.rouge_signature()
    results = origin | {'rows': tables.to_dicts(rows)}
    write_text(workdir / 'results.json', json.dumps(results, indent=1) + '\n')
    spent = [ratios.costs_of(run, trained.trainable, records[: args.examples], table) for table in scored]
    named = ratios.named(scored, spent)
    results['costs'] = {method: dataclasses.asdict(cost) for method, cost in named.items()}
    write_text(workdir / 'results.json', json.dumps(results, indent=1) + '\n')
    write_text(workdir / 'results.csv', tables.to_csv([table.rows for table in scored], spent))
    answers = ratios.named(scored, [table.answers for table in scored])
    if answers:
        write_text(workdir / 'answers.json', json.dumps(answers, indent=1) + '\n')
    weights = trainable_at(config.compressor, trained.trainable, chosen[0])
    shown = samples.collect(run.at_ratio(chosen[0]), weights, records[: args.examples], answers)
    write_text(workdir / samples.NAME, json.dumps(shown, indent=1) + '\n')
    record_environment(workdir, 'eval', here)
    print(report.write_report(workdir), file=sys.stderr)
    print(json.dumps(tables.to_dicts(rows), indent=1) if args.json else tables.to_text(rows, named))
    return 0
