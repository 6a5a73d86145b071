"""What every bad input owes its user: an exit code, one line that names it, and nothing else."""

from collections.abc import Sequence
from pathlib import Path

from limits import memory_limit, time_limit

from pic_jax.cli.main import main

SECONDS, BYTES = 60, 2**30  # generous: machines that run tests are busy


def exit_code(argv: Sequence[str]) -> int:
    """That of `pic-jax ARGV`, within the limits; argparse leaves by SystemExit."""
    try:
        with memory_limit(BYTES), time_limit(SECONDS):
            return main(list(argv))
    except SystemExit as stopped:
        return stopped.code


def refused(capsys, argv: Sequence[str], code: int, *said: str) -> None:
    """Checks that `pic-jax ARGV` leaves with `code` and one error line, the last on stderr, with all of `said`."""
    capsys.readouterr()
    assert exit_code(argv) == code, capsys.readouterr().err
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if 'error: ' in line]
    assert len(errors) == 1, captured.err
    assert captured.err.splitlines()[-1] == errors[0]
    assert 'Traceback' not in captured.err
    assert errors[0].isprintable()
    assert captured.out == ''
    for words in said:
        assert words in errors[0]


def snapshot(folder: Path) -> dict[Path, bytes | None]:
    """Every file below a folder with its bytes, to see that nothing was written."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob('*'))}
