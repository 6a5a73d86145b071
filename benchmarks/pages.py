"""What the reports share: Markdown tables, sections of a page, and blocks of a page that a script writes anew."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).with_name('results')


class Section(NamedTuple):
    """A part of a page: what it is about, the script that made it, where its rows come from, and the text."""

    title: str
    script: str
    origin: str
    text: str

    def shown(self) -> str:
        """Markdown."""
        return '\n\n'.join([f'## {self.title}', f'`benchmarks/{self.script}.py`, {self.origin}.', self.text])


def stored(folder: Path | str) -> dict[str, Any]:
    """Rows by name of their file; `folder` may be a name in benchmarks/results."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((RESULTS / folder).glob('*.json'))}


def origin(rows: Iterable[Mapping[str, Any]]) -> str:
    """Where rows come from: commits and machines."""
    places = sorted({f'commit {row["commit"]} on {row["machine"]}' for row in rows})
    changed = any('+' in place for place in places)
    return '; '.join(places) + (' (+: with changes that were not committed)' if changed else '')


def table(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in [heading, ['---'] * len(heading), *lines])


def write_between_marks(path: Path, name: str, block: str) -> None:
    """Replaces what stands between the two marks of that name."""
    begin, end = f'<!-- {name}: begin -->\n', f'\n<!-- {name}: end -->'
    text = path.read_text()
    head, rest = text.split(begin)
    path.write_text(head + begin + block + end + rest.split(end)[1])
