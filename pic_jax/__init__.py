"""Soft-prompt context compression in JAX: `load` a trained compressor, `compress` text, `generate` answers.

Importing the package imports no jax; the names below are loaded on first use.
"""

from typing import Any

__version__ = '0.1.0'
__all__ = ['Memory', 'load']


def __getattr__(name: str) -> Any:
    if name == 'load':
        from pic_jax.api import load

        return load
    if name == 'Memory':
        from pic_jax.memory import Memory

        return Memory
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
