"""HTML from text that nobody has checked: whatever is not made here is escaped, and nothing is loaded from outside."""

import base64
import html
import re
import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pic_jax.evaluation.plots import DPI

# Characters that HTML forbids or UTF-8 cannot write.
_UNSAFE = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]')
_VOID = ('img', 'meta')
# Even if something slipped through: the page may show its own pictures and styles, and run or load nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class Html(str):
    """Finished markup; any other string is text."""

    __slots__ = ()


def escaped(text: Any) -> Html:
    """Text as markup that shows it."""
    return text if isinstance(text, Html) else Html(html.escape(_UNSAFE.sub('\ufffd', str(text)), quote=True))


def element(name: str, /, *children: Any, **attributes: Any) -> Html:
    """`<name attributes>children</name>`.

    Args:
      children: markup, or text of any kind. Lists are not flattened.
      attributes: None leaves one out, True writes its name alone; `class_` is `class`, `aria_label` is `aria-label`.
    """
    words = [name]
    for key, value in attributes.items():
        key = key.rstrip('_').replace('_', '-')
        if value is not None:
            words.append(key if value is True else f'{key}="{html.escape(_UNSAFE.sub("", str(value)), quote=True)}"')
    inside = ''.join(map(escaped, children))
    return Html(f'<{" ".join(words)}>' + ('' if name in _VOID else f'{inside}</{name}>'))


def joined(parts: Sequence[Any], between: str = '\n') -> Html:
    """Parts one after the other."""
    return Html(escaped(between).join(map(escaped, parts)))


def table(caption: str, lines: Sequence[Sequence[Any]], heads: int = 1) -> Html:
    """A table that scrolls by itself where it is too wide.

    Args:
      caption: says what the table shows.
      lines: cells; the first line is the heading.
      heads: how many cells at the start of a line name it.
    """
    heading = element('tr', *(element('th', cell, scope='col') for cell in lines[0]))
    body = [
        element('tr', *(element('th', cell, scope='row') for cell in line[:heads]),
                *(element('td', cell) for cell in line[heads:]))
        for line in lines[1:]
    ]  # fmt: skip
    parts = element('caption', caption), element('thead', heading), element('tbody', joined(body))
    # Focusable, so that it scrolls from the keyboard.
    return element('div', element('table', *parts), class_='scroll', role='region', aria_label=caption, tabindex=0)


def folded(title: Any, *children: Any) -> Html:
    """Closed until the reader opens it; open in print."""
    return element('details', element('summary', title), *children)


def picture(draw: Callable[[Path], None], alt: str, caption: Any) -> Html:
    """A figure with its PNG inside the page.

    Args:
      draw: writes the PNG to a path.
      alt: says what is to be seen, for those who do not see it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'picture.png'
        draw(path)
        data = path.read_bytes()
    width, height = struct.unpack('>II', data[16:24])
    size = {'width': width * 96 // DPI, 'height': height * 96 // DPI}  # in CSS pixels, 96 to the inch
    source = f'data:image/png;base64,{base64.b64encode(data).decode()}'
    return element('figure', element('img', src=source, alt=alt, **size), element('figcaption', caption))


def page(title: str, body: Sequence[Html]) -> str:
    """A whole document with its style inside."""
    style = Path(__file__).with_name('report.css').read_text('utf-8')
    head = [
        element('meta', charset='utf-8'),
        element('meta', name='viewport', content='width=device-width, initial-scale=1'),
        element('meta', name='color-scheme', content='light dark'),
        element('meta', http_equiv='Content-Security-Policy', content=_POLICY),
        element('title', f'{title} - pic_jax'),
        element('style', Html(style)),
    ]
    parts = element('head', joined(head)), element('body', element('main', joined(body)))
    return f'<!doctype html>\n{element("html", *parts, lang="en")}\n'
