"""What a compiled program communicates: every collective, with its bytes, its groups and how often it runs."""

import dataclasses
from collections.abc import Sequence

from pic_jax.planning import hlo, loops
from pic_jax.planning.groups import Groups, parse_groups

KINDS = (
    'all-gather',
    'all-reduce',
    'reduce-scatter',
    'all-to-all',
    'ragged-all-to-all',
    'collective-permute',
    'collective-broadcast',
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction of a program.

    Attributes:
      kind: one of KINDS.
      bytes: per device and execution, of the larger of what goes in and what comes out.
      count: executions, loops multiplied out; None where a loop around it has no known length.
      groups: the devices that communicate, as positions in `mesh.devices.flat`; (source, target) of a permute.
    """

    kind: str
    bytes: int
    count: int | None
    groups: Groups


def collectives(module: hlo.Module, rounds: int | None = None) -> list[Collective]:
    """All collectives of a compiled program.

    Started and finished asynchronously counts once, also where the compiler spreads one over several fusions. Both
    branches of a conditional count. Groups of one device, which communicate nothing, are left out.

    Args:
      rounds: how often loops of unknown length are taken to run; their collectives have no count otherwise.
    """
    found = []
    for step in loops.walk(module, rounds):
        kind = step.instruction.opcode.removesuffix('-start')
        if kind in KINDS and not _continues(module.computations[step.computation], step.instruction):
            found.append(_collective(module, step, kind))
    return [each for each in found if any(len(set(group)) > 1 for group in each.groups)]


def group_size(collective: Collective) -> int:
    """Devices of its largest group."""
    return max(len(group) for group in collective.groups)


def totals(found: Sequence[Collective]) -> dict[str, tuple[int, int, int]]:
    """{kind: (executions, bytes per device, instructions whose executions are unknown and are counted once)}."""
    rows: dict[str, tuple[int, int, int]] = {}
    for each in found:
        count, size, unknown = rows.get(each.kind, (0, 0, 0))
        times = 1 if each.count is None else each.count
        rows[each.kind] = (count + times, size + times * each.bytes, unknown + (each.count is None))
    return rows


def _continues(computation: hlo.Computation, instruction: hlo.Instruction) -> bool:
    """Whether it only goes on with a collective that another fusion has started.

    Compiled for TPU, one collective is written once where it starts, once in every fusion that computes meanwhile, and
    once where it is done, and all are alike but for what stands around them.
    """
    if 'async_collective_fusion_config' not in instruction.attributes:
        return False
    return not any('"AsyncCollectiveStart"' in other.attributes for other in computation.instructions.values())


def _collective(module: hlo.Module, step: loops.Step, kind: str) -> Collective:
    instruction = step.instruction
    groups = parse_groups(instruction.attributes, module.devices)
    size = hlo.operand_bytes(module.computations[step.computation], instruction)
    if kind == 'all-gather':
        size *= max(len(group) for group in groups)
    if kind == 'all-reduce' and step.computation.startswith('all-reduce-scatter'):
        kind = 'reduce-scatter'  # so compiled for TPU: a fusion of this name, a sum and a slice of it
    return Collective(kind, size, step.times, groups)
