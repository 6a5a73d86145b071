"""How a setting is refused: the key, the value and what would be valid."""

from typing import Any

from pic_jax.errors import ConfigError


def require(condition: bool, key: str, value: Any, valid: str) -> None:
    """Refuses a setting.

    Args:
      key: its dotted name. valid: what would have been accepted, in words.

    Raises:
      ConfigError: the condition does not hold.
    """
    if not condition:
        raise ConfigError(f'{key}={value!r} is not valid: expected {valid}')


def is_whole_number(text: str) -> bool:
    """Whether these are digits that int() takes: it refuses more than 4,300, and 18 are enough for any number here."""
    return text.isascii() and text.isdigit() and len(text) <= 18


def one_of(key: str, value: str, valid: tuple[str, ...]) -> None:
    """Refuses a setting that is none of these words."""
    require(value in valid, key, value, 'one of ' + ', '.join(valid))
