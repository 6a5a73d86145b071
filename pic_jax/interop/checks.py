"""What readers of files say of a value that breaks a rule."""

from typing import Any

from pic_jax.errors import PicJaxError


def is_int(value: Any, least: int) -> bool:
    """Whether a parsed value is a whole number of at least `least` (JSON's true is none)."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def require(condition: bool, name: str, value: Any, valid: str) -> None:
    """Raises PicJaxError with name, value (cut short) and what is valid, unless the condition holds."""
    if not condition:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else shown[:77] + '...'
        raise PicJaxError(f'{name}={shown} is not valid: expected {valid}')
