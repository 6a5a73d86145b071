"""Compiled programs are kept between calls of `pic-jax`, where nobody has said otherwise."""

import hashlib
import os
from pathlib import Path

VARIABLE, LIMIT = 'JAX_COMPILATION_CACHE_DIR', 'JAX_COMPILATION_CACHE_MAX_SIZE'
_LIMIT_BYTES = 10 * 2**30


def set_default() -> None:
    """Names JAX's cache of compiled programs, if its variable is not set; call it before jax is imported.

    It is pic_jax/compiled in the user's cache folder, of at most 10 GiB for each kind of processor, the longest unused
    going first. An empty JAX_COMPILATION_CACHE_DIR turns it off. Where no such folder can be made, there is none.
    """
    if VARIABLE in os.environ:
        return
    try:
        cache = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
        folder = cache / 'pic_jax' / 'compiled' / processor()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no place, or no home
        return
    if os.access(folder, os.W_OK):
        os.environ[VARIABLE] = str(folder)
        os.environ.setdefault(LIMIT, str(_LIMIT_BYTES))


def processor() -> str:
    """Short hash of what the processor can do.

    JAX's own keys do not name it for programs on the CPU, and a home folder may be shared by machines that differ.
    """
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        named = {line for line in lines if line.startswith(('flags', 'Features', 'model name', 'CPU part'))}
    except OSError:
        named = set(os.uname())
    return hashlib.sha256('\n'.join(sorted(named)).encode()).hexdigest()[:12]
