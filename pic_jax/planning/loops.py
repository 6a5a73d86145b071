"""Which instructions of a program run, and how often: loops, calls and branches followed from its entry."""

import dataclasses
import re
from collections.abc import Iterator
from typing import NamedTuple

from pic_jax.planning import hlo

_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# Instructions that pass a scalar on unchanged.
_SAME = ('copy', 'bitcast', 'convert', 'reshape', 'copy-start', 'copy-done', 'opt-barrier', 'optimization-barrier')
_FLIPPED = {'LT': 'GT', 'LE': 'GE', 'GT': 'LT', 'GE': 'LE', 'NE': 'NE'}


@dataclasses.dataclass(frozen=True)
class Linear:
    """offset + element `index` of the parameter tuple; just the offset where index is None."""

    index: int | None
    offset: int


class Step(NamedTuple):
    """An instruction, the name of its computation, how often it runs (None: not known), and whether it is fused."""

    instruction: hlo.Instruction
    computation: str
    times: int | None
    fused: bool


def walk(module: hlo.Module, rounds: int | None = None) -> Iterator[Step]:
    """All instructions that run; both branches of a conditional do.

    Args:
      rounds: of loops whose length is not known.
    """
    return _walk(module, module.entry, 1, rounds, fused=False)


def _walk(module: hlo.Module, name: str, times: int | None, rounds: int | None, fused: bool) -> Iterator[Step]:
    computation = module.computations[name]
    for instruction in computation.instructions.values():
        yield Step(instruction, name, times, fused)
        inner, within = times, fused
        if instruction.opcode == 'while':
            trips = trip_count(module, computation, instruction)
            trips = rounds if trips is None else trips
            inner = None if times is None or trips is None else times * trips
            called = instruction.called('body') + instruction.called('condition')
        elif instruction.opcode in ('fusion', 'async-start'):
            called, within = instruction.called('calls'), True
        elif instruction.opcode in ('call', 'conditional'):
            branches = ('to_apply', 'branch_computations', 'true_computation', 'false_computation')
            called = [callee for branch in branches for callee in instruction.called(branch)]
        else:
            called = []
        for callee in called:
            yield from _walk(module, callee, inner, rounds, within)


def trip_count(module: hlo.Module, computation: hlo.Computation, loop: hlo.Instruction) -> int | None:
    """How often the body of a `while` runs, by the compiler's own note or from a counter; None: not known.

    A counter is an element of the loop's tuple that starts at a constant, changes by a constant in every round, and is
    compared with a constant, as scans of JAX have it.

    Args:
      computation: the one that holds the loop.
    """
    if noted := _TRIPS.search(loop.attributes):
        return int(noted[1])
    condition, body = (module.computations[loop.called(part)[0]] for part in ('condition', 'body'))
    compared = _comparison(module, condition)
    if compared is None:
        return None
    direction, left, right = compared
    if left.index is None:
        direction, left, right = _FLIPPED[direction], right, left
    step = _element(module, body, body.root, left.index)
    start = _element(module, computation, computation.instructions[loop.operands[0]], left.index)
    if step is None or start is None or start.index is not None or right.index is not None:
        return None
    if step.index != left.index or step.offset == 0:
        return None
    if direction in ('LT', 'LE') if step.offset < 0 else direction in ('GT', 'GE'):
        return None  # counts away from its bound
    bound = right.offset - left.offset
    if direction in ('LE', 'GE'):
        bound += 1 if step.offset > 0 else -1
    return len(range(start.offset, bound, step.offset))


def _comparison(module: hlo.Module, condition: hlo.Computation) -> tuple[str, Linear, Linear] | None:
    root, inputs = condition.root, None
    if root.opcode == 'fusion':
        inputs = [_scalar(module, condition, name) for name in root.operands]
        condition = module.computations[root.called('calls')[0]]
        root = condition.root
    direction = re.search(r'direction=(\w\w)', root.attributes)
    if root.opcode != 'compare' or direction is None or direction[1] not in _FLIPPED:
        return None
    left, right = (_scalar(module, condition, name, inputs) for name in root.operands)
    return None if left is None or right is None else (direction[1], left, right)


def _element(
    module: hlo.Module, computation: hlo.Computation, value: hlo.Instruction, index: int | None
) -> Linear | None:
    """Element `index` of a tuple, if it is a scalar that can be followed."""
    if index is None or value.opcode != 'tuple':
        return None
    return _scalar(module, computation, value.operands[index])


def _scalar(
    module: hlo.Module, computation: hlo.Computation, name: str, inputs: list[Linear | None] | None = None
) -> Linear | None:
    """Follows an integer back to a constant or to an element of the computation's only parameter, a tuple.

    inputs: what the parameters are, where the computation is fused into another.
    """
    instruction = computation.instructions[name]
    opcode, operands = instruction.opcode, instruction.operands
    if opcode == 'constant':
        return Linear(None, int(instruction.arguments)) if re.fullmatch(r'-?\d+', instruction.arguments) else None
    if opcode == 'parameter':
        return inputs[int(instruction.arguments)] if inputs else None
    if opcode == 'get-tuple-element':
        source = computation.instructions[operands[0]]
        found = re.search(r'index=(\d+)', instruction.attributes)
        if found is None:
            return None
        index = int(found[1])
        if source.opcode == 'parameter' and inputs is None:
            return Linear(index, 0)
        return _scalar(module, computation, source.operands[index], inputs) if source.opcode == 'tuple' else None
    if opcode in _SAME:
        return _scalar(module, computation, operands[0], inputs)
    if opcode in ('add', 'subtract'):
        left, right = (_scalar(module, computation, operand, inputs) for operand in operands)
        return _sum(left, right, 1 if opcode == 'add' else -1)
    if opcode == 'fusion':
        callee = module.computations[instruction.called('calls')[0]]
        fed = [_scalar(module, computation, operand, inputs) for operand in operands]
        return _scalar(module, callee, callee.root.name, fed)
    return None


def _sum(left: Linear | None, right: Linear | None, sign: int) -> Linear | None:
    if left is None or right is None or (right.index is not None and (left.index is not None or sign < 0)):
        return None
    return Linear(right.index if left.index is None else left.index, left.offset + sign * right.offset)
