"""What the reports share: Markdown tables, and blocks of a page that a script writes anew."""

from collections.abc import Sequence
from pathlib import Path


def table(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in [heading, ['---'] * len(heading), *lines])


def write_between_marks(path: Path, name: str, block: str) -> None:
    """Replaces what stands between the two marks of that name."""
    begin, end = f'<!-- {name}: begin -->\n', f'\n<!-- {name}: end -->'
    text = path.read_text()
    head, rest = text.split(begin)
    path.write_text(head + begin + block + end + rest.split(end)[1])
