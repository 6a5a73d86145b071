"""Bytes that a compiled program moves through a device's main memory, read off its instructions."""

from pic_jax.planning import hlo, loops

# Instructions that only name, pass on or wait for something.
_FREE = ('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional', 'call', 'after-all',
         'partition-id', 'replica-id', 'opt-barrier', 'optimization-barrier', 'add-dependency')  # fmt: skip
_SLICES = ('dynamic-slice', 'slice', 'gather')


def hbm_traffic(module: hlo.Module, rounds: int | None = None) -> int | None:
    """Bytes read and written by every instruction that is not fused into another one, loops multiplied out.

    What the compiler keeps in a faster memory is free, of an array that is sliced or updated in place only the part
    counts. None: a loop has no known length.

    Args:
      rounds: of loops whose length is not known.
    """
    total = 0
    for step in loops.walk(module, rounds):
        opcode = step.instruction.opcode
        if step.fused or opcode in _FREE or opcode.endswith('-done') or opcode.endswith('-update'):
            continue
        moved = _moved(module, module.computations[step.computation], step.instruction)
        if step.times is None and moved:
            return None
        total += (step.times or 0) * moved
    return total


def _moved(module: hlo.Module, computation: hlo.Computation, instruction: hlo.Instruction) -> int:
    kinds = [computation.instructions[name].type for name in instruction.operands]
    sizes = [hlo.type_bytes(kind, hbm_only=True) for kind in kinds]
    result = hlo.type_bytes(instruction.type, hbm_only=True)
    if instruction.opcode == 'custom-call' and 'AllocateBuffer' in instruction.attributes:
        return 0
    if instruction.opcode == 'fusion':
        callee = module.computations[instruction.called('calls')[0]]
        inputs = {callee.parameter(each): each.name for each in callee.instructions.values()}
        read = sum(min(size, _read(module, callee, inputs[i])) for i, size in enumerate(sizes) if size)
        return read + min(result, _written(callee, callee.root))
    if instruction.opcode in _SLICES:
        return 2 * result
    if instruction.opcode == 'dynamic-update-slice':
        return 2 * sizes[1]
    if instruction.opcode.endswith('-start'):  # its result names what it reads as well
        return max(result, sum(sizes))
    return sum(sizes) + result


def _read(module: hlo.Module, computation: hlo.Computation, name: str) -> int:
    """Bytes that a fused computation reads of a value: all of it, unless every use takes a part."""
    total = 0
    for user in computation.instructions.values():
        if name not in user.operands:
            continue
        first = user.operands[0] == name and name not in user.operands[1:]
        if user.opcode in _SLICES and first:
            total += hlo.type_bytes(user.type)
        elif user.opcode == 'bitcast':
            total += _read(module, computation, user.name)
        elif not (user.opcode == 'dynamic-update-slice' and first):
            return hlo.type_bytes(computation.instructions[name].type)
    return total


def _written(computation: hlo.Computation, root: hlo.Instruction) -> int:
    """Bytes that a fused computation writes for its result: of an update in place, the update."""
    if root.opcode == 'tuple':
        return sum(_written(computation, computation.instructions[name]) for name in root.operands)
    if root.opcode == 'bitcast':
        return _written(computation, computation.instructions[root.operands[0]])
    if root.opcode == 'dynamic-update-slice':
        return hlo.type_bytes(computation.instructions[root.operands[1]].type)
    return hlo.type_bytes(root.type)
