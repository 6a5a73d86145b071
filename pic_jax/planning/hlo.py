"""Optimised HLO, as `compiled.as_text()` prints it: computations, their instructions, and the sizes of types."""

import dataclasses
import re
from typing import NamedTuple

_NAME = re.compile(r'%([\w.\-]+)')
_ARRAY = re.compile(r'([a-z]+)(\d*)[a-z0-9]*\[([\d,]*)\](\{[^}]*\})?')
_COMMENT = re.compile(r'/\*.*?\*/')


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
      type: of the result, e.g. `f32[4,8]{1,0}`. arguments: the text in parentheses. attributes: the text behind them.
    """

    name: str
    type: str
    opcode: str
    arguments: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        """Names of the instructions it reads."""
        return _NAME.findall(self.arguments)

    def called(self, attribute: str) -> list[str]:
        """Names of the computations in `attribute=%name` or `attribute={%name, ...}`."""
        found = re.search(rf'\b{attribute}=(%[\w.\-]+|\{{[^}}]*\}})', self.attributes)
        return _NAME.findall(found[1]) if found else []


@dataclasses.dataclass
class Computation:
    """Instructions by name, in order; `returned` names the one whose result the computation returns."""

    instructions: dict[str, Instruction] = dataclasses.field(default_factory=dict)
    returned: str = ''

    @property
    def root(self) -> Instruction:
        """The instruction that `returned` names."""
        return self.instructions[self.returned]

    def parameter(self, instruction: Instruction) -> int | None:
        """Which parameter an instruction is, if it is one."""
        return int(instruction.arguments) if instruction.opcode == 'parameter' else None


class Module(NamedTuple):
    """A program for one device of `devices`: computations by name, and the one it starts with."""

    computations: dict[str, Computation]
    entry: str
    devices: int


def parse(text: str) -> Module:
    """Reads a module.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = '', None
    for line in _COMMENT.sub('', text).splitlines():
        if line.endswith('{') and (head := re.match(r'(ENTRY )?%([\w.\-]+) \(', line)):
            current = computations[head[2]] = Computation()
            entry = head[2] if head[1] else entry
        elif line == '}':  # attributes of Pallas kernels take several lines, of which some begin so
            current = None
        elif current is not None and (start := re.match(r'\s+(ROOT )?%([\w.\-]+) = ', line)):
            instruction = _instruction(start[2], line[start.end() :])
            current.instructions[instruction.name] = instruction
            current.returned = instruction.name if start[1] else current.returned
    if not entry:
        raise ValueError('no ENTRY computation: expected the text of a compiled HLO module')
    devices = re.search(r'num_partitions=(\d+)', text.split('\n', 1)[0])
    return Module(computations, entry, int(devices[1]) if devices else 1)


def _instruction(name: str, text: str) -> Instruction:
    kind, rest = _until_closed(text) if text.startswith('(') else text.split(' ', 1)
    opcode, rest = rest.strip().split('(', 1)
    arguments, attributes = _until_closed('(' + rest)
    return Instruction(name, kind, opcode, arguments[1:-1], attributes)


def _until_closed(text: str) -> tuple[str, str]:
    """Splits behind the parenthesis that closes the first one."""
    depth = 0
    for bracket in re.finditer(r'[()]', text):
        depth += 1 if bracket[0] == '(' else -1
        if depth == 0:
            return text[: bracket.end()], text[bracket.end() :]
    raise ValueError(f'parentheses do not close: {text[:80]}')


def type_bytes(kind: str, hbm_only: bool = False) -> int:
    """Bytes of an array type, or of all arrays in a tuple type; tokens take none. Padding by the layout is not seen.

    Args:
      hbm_only: leave out what the layout puts into another memory than the device's main one.
    """
    bits = 0
    for name, width, shape, layout in _ARRAY.findall(kind):
        if hbm_only and 'S(' in layout:
            continue
        size = 8 if name == 'pred' else int(width or 0)
        for dimension in filter(None, shape.split(',')):
            size *= int(dimension)
        bits += size
    return -(-bits // 8)


def operand_bytes(computation: Computation, instruction: Instruction) -> int:
    """Bytes of everything that an instruction reads."""
    return sum(type_bytes(computation.instructions[name].type) for name in instruction.operands)
