"""Which devices of a collective talk to one another: the notations of `replica_groups` in HLO."""

import itertools
import math
import re

import numpy as np

Groups = tuple[tuple[int, ...], ...]

_IOTA = re.compile(r'\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?')
_MESH = re.compile(r'mesh\[([^\]]*)\](?:, device_ids=\(((?:\[[\d,]+\](?:T\([\d,]+\))?)|[\d,]+)\))? \{([^}]*)\}')
_AXIS = re.compile(r"'?([^',=:]+)'?=(\d+)")
_PART = re.compile(r"'?([^',:]+)'?(?::\((\d+)\)(\d+))?")


def parse_groups(attributes: str, devices: int) -> Groups:
    """Groups of the attributes of a collective; positions in the program's device order, which is a mesh's.

    HLO writes them in full, `{{0,1},{2,3}}`; as a permuted range, `[2,4]<=[4,2]T(1,0)`; by axes of a mesh,
    `mesh['a'=2,'b'=4] {'b'}`, possibly a part `'b':(2)2` of an axis; or as pairs of source and target. No groups at all
    means one of all devices.

    Raises:
      ValueError: the notation is none of these.
    """
    if pairs := re.search(r'source_target_pairs=\{(.*?\})\}', attributes):
        return _listed(pairs[1])
    found = re.search(r'replica_groups=(.*)', attributes)
    text = found[1] if found else '{}'
    if text.startswith('{{'):
        return _listed(text[1 : text.index('}}') + 1])
    if text.startswith('{}'):
        return (tuple(range(devices)),)
    if iota := _IOTA.match(text):
        return _rows(_permuted(iota[2], iota[3]).reshape(_numbers(iota[1])))
    if mesh := _MESH.match(text):
        return _mesh_groups(*mesh.groups())
    raise ValueError(f'replica_groups of an unknown form: {text[:80]}')


def _mesh_groups(axes: str, order: str | None, parts: str) -> Groups:
    """axes: 'a'=2,'b'=4. order: of the devices in the mesh. parts: the axes, or pieces of them, that form a group."""
    sizes = {name: int(size) for name, size in _AXIS.findall(axes)}
    wanted = _PART.findall(parts)
    # Every axis is cut where a part of it begins or ends, from its major side.
    edges = {name: {1, size} for name, size in sizes.items()}
    for name, before, size in wanted:
        if before:
            edges[name] |= {int(before), int(before) * int(size)}
    pieces = [(name, low, high) for name in sizes for low, high in _steps(sizes[name], edges[name])]
    chosen = []
    for name, before, size in wanted:
        low = int(before or 1)
        high = low * int(size) if before else sizes[name]
        chosen += [i for i, piece in enumerate(pieces) if piece[0] == name and low <= piece[1] and piece[2] <= high]
    ids = np.arange(math.prod(sizes.values()))
    if order:
        iota = re.match(r'\[([\d,]+)\](?:T\(([\d,]+)\))?', order)
        ids = _permuted(iota[1], iota[2]).reshape(-1) if iota else np.array(_numbers(order))
    shape = [high // low for _, low, high in pieces]
    kept = [i for i in range(len(pieces)) if i not in chosen]
    members = math.prod(shape[i] for i in chosen)
    return _rows(ids.reshape(shape).transpose(kept + chosen).reshape(-1, members))


def _steps(size: int, edges: set[int]) -> list[tuple[int, int]]:
    """Neighbouring pairs of edges; an axis of size 1 has one piece."""
    ordered = sorted(edges)
    return list(itertools.pairwise(ordered)) or [(1, 1)]


def _permuted(shape: str, order: str | None) -> np.ndarray:
    """0, 1, 2, ... in that shape, transposed."""
    ids = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return ids.transpose(_numbers(order)) if order else ids


def _listed(text: str) -> Groups:
    return tuple(tuple(_numbers(group)) for group in re.findall(r'\{([\d,]*)\}', text))


def _rows(ids: np.ndarray) -> Groups:
    return tuple(tuple(int(device) for device in row) for row in ids)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(',') if number]
