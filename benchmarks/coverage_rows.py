"""Which lines of pic_jax the tests run: all of `make test-all`, with the programs that tests start.

    make coverage       runs the tests under coverage and this script on what they leave

benchmarks/results/coverage/rows.json keeps the share of every module and the lines that no test ran.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path

from pages import RESULTS, table
from provenance import provenance

from pic_jax.files import write_text

SEED, GOAL = 0, 90.0  # percent


def rows_of(report: dict) -> dict:
    """The total and a row per module, from what `coverage json` writes."""
    modules = {}
    for name, found in sorted(report['files'].items()):
        summary = found['summary']
        modules[name] = {
            'percent': round(summary['percent_covered'], 1), 'lines': summary['num_statements'],
            'not_run': ranges(found['missing_lines']),
        }  # fmt: skip
    return {'percent': round(report['totals']['percent_covered'], 1), 'modules': modules}


def ranges(lines: list[int]) -> list[str]:
    """'7' and '9-12' for ascending line numbers."""
    if not lines:
        return []
    ends = [last for last, following in pairwise(lines) if following > last + 1] + [lines[-1]]
    starts = [lines[0]] + [following for last, following in pairwise(lines) if following > last + 1]
    return [str(first) if first == last else f'{first}-{last}' for first, last in zip(starts, ends, strict=True)]


def shown(rows: dict) -> str:
    """Markdown: modules of which fewer than GOAL percent of lines run."""
    below = {name: row for name, row in rows['modules'].items() if row['percent'] < GOAL}
    lines = [
        [f'`{name}`', f'{row["percent"]:.0f}', str(row['lines']), ', '.join(row['not_run'])]
        for name, row in sorted(below.items(), key=lambda item: item[1]['percent'])
    ]
    heading = ['module', 'percent', 'statements', 'lines that no test ran']
    total = f'{rows["percent"]:.1f}% of {sum(row["lines"] for row in rows["modules"].values()):,} statements run.'
    return '\n\n'.join([total, table(heading, lines)]) if lines else total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('report', type=Path, help='what `coverage json` wrote')
    rows = rows_of(json.loads(parser.parse_args().report.read_text()))
    write_text(RESULTS / 'coverage' / 'rows.json', json.dumps({**provenance(SEED), **rows}, indent=1) + '\n')
    print(shown(rows))


if __name__ == '__main__':
    main()
