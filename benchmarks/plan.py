"""Plans of large runs, compiled here for TPU slices that nobody has here; needs `pip install "pic_jax[aot]"`.

Every row is one `pic-jax plan --json` in a process of its own, kept with what it took as a small JSON file; rows that
exist are skipped. Nothing runs on a TPU: memory is the compiler's, times are estimates, labelled so.

    python benchmarks/plan.py [ROW ...]      compile what is missing, print the table
    python benchmarks/plan.py --table        only print the table
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pages
from provenance import provenance

from pic_jax.files import write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'benchmarks' / 'results' / 'plan'
SEED = 0
# `code`: the exit code that the row must have, 0 where all programs fit and 1 where one does not.
ROWS = {
    'llama2_7b_v5e_16': dict(config='llama2_7b_pic_16x.py', topology='v5e:4x4', words=[], code=0),
    **{
        f'llama2_7b_v5e_16_{backend}': dict(
            config='llama2_7b_pic_16x.py', topology='v5e:4x4', words=[f'attention={backend}'], programs='train', code=0
        )
        for backend in ('dense', 'structured', 'splash')
    },
    'llama2_7b_v5p_64_chips': dict(
        config='llama2_7b_pic_16x.py', topology='v5p:4x4x4', words=['mesh.fsdp=64', 'train.microbatches=1'], code=0
    ),
    'llama2_7b_v5e_16_too_large': dict(
        config='llama2_7b_pic_16x.py', topology='v5e:4x4', words=['train.batch_size=4096', 'train.microbatches=1'],
        programs='train', code=1,
    ),
    # The largest slice of v5p; 1,536 ways of rows, one example each.
    'llama2_70b_v5p_6144_chips': dict(
        config='llama2_70b_pic.py', topology='v5p:16x16x24',
        words=['mesh.data=24', 'mesh.fsdp=64', 'mesh.tensor=4', 'train.batch_size=1536', 'train.microbatches=1'],
        programs='train', code=0,
    ),
}  # fmt: skip


def command(config: str, topology: str, words: list[str], programs: str = 'train,compress,decode') -> list[str]:
    """The words behind `pic-jax`."""
    overrides = [f'--config.{word}' for word in words]
    return ['plan', f'--config=configs/{config}', f'--topology={topology}', f'--programs={programs}', *overrides]


def compile_row(name: str) -> None:
    """Plans one row and writes its file.

    Raises:
      SystemExit: it did not end as it must.
    """
    row = dict(ROWS[name])
    code, words, started = row.pop('code'), command(**row), time.perf_counter()
    origin = provenance(SEED)  # of the code that runs, whatever HEAD is later
    done = subprocess.run(
        [sys.executable, '-m', 'pic_jax.cli.main', *words, '--json'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    programs = [json.loads(line) for line in done.stdout.splitlines()]
    fits = all(each['fits'] for each in programs)
    if done.returncode != code or not programs or fits != (code == 0):  # a traceback is an exit code of 1, too
        said = f'exit code {done.returncode} and {len(programs)} programs that {"all" if fits else "do not all"} fit'
        raise SystemExit(f'{name}: {said}, expected exit code {code}\n{done.stderr[-2000:]}')
    stored = {
        'command': ' '.join(['pic-jax', *words]),
        'seconds': round(time.perf_counter() - started, 1),
        'programs': programs,
        **origin,
    }
    write_text(RESULTS / f'{name}.json', json.dumps(stored, indent=1) + '\n')


def stored() -> dict[str, dict]:
    """The rows that have a file, in the order of ROWS."""
    found = pages.stored(RESULTS)
    return {name: found[name] for name in ROWS if name in found}


def table(rows: dict[str, dict]) -> str:
    """Markdown, a line per program of every row."""
    lines = [
        '| plan | program | peak of HBM per device, GiB | fits | at least (estimate), ms | compiled in, s |',
        '|---|---|---|---|---|---|',
    ]
    for name, row in rows.items():
        for found in row['programs']:
            peak, hbm = (f'{found[key] / 2**30:.2f}' if found[key] else '?' for key in ('peak_bytes', 'hbm_bytes'))
            least = f'{1e3 * found["estimate"]["step_s"]:.3g}' if 'estimate' in found else '-'
            fits = 'yes' if found['fits'] else 'no'
            lines.append(f'| {name} | {found["program"]} | {peak} of {hbm} | {fits} | {least} | {found["compile_s"]} |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('rows', nargs='*', metavar='ROW', help=f'of {", ".join(ROWS)}; default: all')
    parser.add_argument('--table', action='store_true', help='only print the table')
    args = parser.parse_args()
    unknown = [name for name in args.rows if name not in ROWS]
    if unknown:
        parser.error(f'no row {unknown[0]}: expected some of {", ".join(ROWS)}')
    for name in [] if args.table else args.rows or ROWS:
        if not (RESULTS / f'{name}.json').exists():
            print(name, file=sys.stderr, flush=True)
            compile_row(name)
    print(table(stored()))


if __name__ == '__main__':
    main()
