"""Damaged files: hypothesis strategies that take a valid file apart where its format says something."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

# What a field is replaced by: other types, ends of ranges, text that steers terminals and paths, deep nesting.
ODD = (
    None, True, False, 0, 1, -1, 2, 7, 2**31 - 1, 2**31, 2**62, 2**64, 10**400, 0.5, -0.0, 1e-300, 1e300,
    float('inf'), float('nan'), '', ' ', 'x', 'F8_E4M3', 'I64', 'BF16', 'F64', '\ud800', 'a\nb\x1b[31m', '../../x',
    '/etc/passwd', 'x' * 5000, [], {}, [1], [[]], {'a': 1}, [None], ['x'], [True], [-1], [2**62],
)  # fmt: skip
DTYPES = ('F64', 'F16', 'BF16', 'F32', 'I64', 'I32', 'U8', 'BOOL', 'F8_E5M2', 'F8_E8M0', 'F4', 'C64', 'nonsense')


@st.composite
def damaged(draw, whole: bytes, kind: str) -> bytes:
    """A file like `whole`, which is of kind `json`, `jsonl`, `safetensors` or `bytes`, with something wrong or odd."""
    structured = {'json': _json, 'jsonl': _jsonl, 'safetensors': _safetensors, 'bytes': _bytes}[kind]
    return draw(st.one_of(structured(whole), structured(whole), _bytes(whole), st.binary(max_size=200)))


@st.composite
def _bytes(draw, whole: bytes) -> bytes:
    """Other bytes in a few places; pieces cut out, cut off or put in twice."""
    data, ends = bytearray(whole), st.integers(0, max(len(whole) - 1, 0))
    for _ in range(draw(st.integers(1, 3))):
        start, stop = sorted((draw(ends), draw(ends)))
        action = draw(st.sampled_from(('byte', 'cut', 'end', 'twice', 'random')))
        if action == 'byte' and start < len(data):
            data[start] = draw(st.integers(0, 255))
        elif action == 'cut':
            del data[start : min(stop, start + 64)]
        elif action == 'end':
            del data[stop:]
        elif action == 'twice':
            data[start:start] = data[start : min(stop, start + 64)]
        else:
            data[start:start] = draw(st.binary(max_size=16))
    return bytes(data)


@st.composite
def _json(draw, whole: bytes) -> bytes:
    values = json.loads(whole)
    for _ in range(draw(st.integers(1, 2))):
        values = draw(changed(values))
    return json.dumps(values).encode()


@st.composite
def _jsonl(draw, whole: bytes) -> bytes:
    lines = whole.decode().splitlines()
    place = draw(st.integers(0, len(lines) - 1))
    lines[place] = draw(_json(lines[place].encode())).decode()
    return '\n'.join(lines).encode()


@st.composite
def _safetensors(draw, whole: bytes) -> bytes:
    """A field of the header is changed, of its metadata also in the JSON that strings hold; or a tensor's number."""
    size = int.from_bytes(whole[:8], 'little')
    header, data = json.loads(whole[8 : 8 + size]), bytearray(whole[8 + size :])
    what = draw(st.sampled_from(('header', 'metadata', 'dtype', 'offsets', 'number', 'number', 'length')))
    names = [name for name in header if name != '__metadata__']
    name = draw(st.sampled_from(names))
    if what == 'metadata' and header.get('__metadata__'):
        header['__metadata__'] = draw(_metadata(header['__metadata__']))
    elif what == 'dtype':
        header[name]['dtype'] = draw(st.sampled_from(DTYPES))
    elif what == 'offsets':
        place = draw(st.integers(0, 1))
        header[name]['data_offsets'][place] += draw(st.sampled_from((-8, -4, 4, 8, 2**40, 2**62)))
    elif what == 'number' and data:
        place = draw(st.integers(0, len(data) // 2 - 1)) * 2
        data[place : place + 2] = draw(st.sampled_from((b'\xc0\x7f', b'\x80\xff', b'\xff\xff', b'\0\0', b'\1\x80')))
    else:
        header = draw(changed(header))
    text = json.dumps(header).encode()
    length = draw(st.sampled_from((-1, 1, 2**40, 2**63))) if what == 'length' else 0
    return (max(len(text) + length, 0) % 2**64).to_bytes(8, 'little') + text + bytes(data)


@st.composite
def _metadata(draw, values: dict[str, str]) -> dict[str, str]:
    key = draw(st.sampled_from(sorted(values)))
    try:
        text = json.dumps(draw(changed(json.loads(values[key]))))
    except ValueError:
        text = draw(st.sampled_from([str(value) for value in ODD]))
    return values | {key: text}


@st.composite
def changed(draw, values: Any) -> Any:
    """The parsed JSON with one value replaced, left out, doubled, or under another key."""
    values = copy.deepcopy(values)
    if not isinstance(values, dict | list) or not values or draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(ODD))
    key = draw(st.sampled_from(sorted(values))) if isinstance(values, dict) else draw(st.integers(0, len(values) - 1))
    action = draw(st.sampled_from(('inside', 'inside', 'replace', 'replace', 'drop', 'more')))
    if action == 'inside':
        values[key] = draw(changed(values[key]))
    elif action == 'replace':
        values[key] = draw(st.sampled_from(ODD))
    elif action == 'drop':
        del values[key]
    elif isinstance(values, dict):
        values[draw(st.sampled_from(('extra', '', 'a\nb', str(key) + 's', '../x')))] = values[key]
    else:
        values.append(values[key])
    return values
