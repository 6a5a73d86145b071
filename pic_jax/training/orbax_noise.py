"""Keeps what Orbax prints of a failed save off the terminal: the failure itself is raised, and becomes one line."""

import functools
import logging
import sys
import traceback


@functools.cache
def silence() -> None:
    """From now on in this process; everything else is printed as before.

    Orbax logs the traceback of a failure in every thread that meets it. Writes of the same save that fail too are asked
    by nobody, which asyncio logs; those that end later find the event loop closed that waited for them, which Python
    prints as an exception that nobody can catch.
    """
    logging.getLogger('absl').addFilter(lambda record: not (record.exc_info and 'orbax' in record.pathname))
    logging.getLogger('asyncio').addFilter(lambda record: not _is_of_orbax(record))
    before = sys.unraisablehook

    def hook(unraisable) -> None:
        if str(unraisable.exc_value) != 'Event loop is closed':
            before(unraisable)

    sys.unraisablehook = hook


def _is_of_orbax(record: logging.LogRecord) -> bool:
    trace = record.exc_info[2] if record.exc_info else None
    return any('orbax' in frame.filename for frame in traceback.extract_tb(trace))
