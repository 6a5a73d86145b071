"""Plans as text for the terminal and as rows for JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from pic_jax.evaluation.tables import align
from pic_jax.planning.collectives import totals
from pic_jax.planning.measure import Measured

GIB = 2**30
ESTIMATE = (
    'estimate: the largest of three times at full speed of the hardware (matrix products, main memory, links); real '
    'steps take longer'
)


def verdict(measured: Measured) -> str:
    """`fits: ...` or `does not fit: ...`, with the room left or missing on each device."""
    hbm, needed = gib(measured.hbm), measured.needed
    if needed is None:
        return f'does not fit: needs more than the {hbm} GiB of each device'
    if measured.fits:
        return f'fits: {gib(needed)} of {hbm} GiB on each device, {gib(measured.hbm - needed)} GiB free'
    over = needed - measured.hbm
    return f'does not fit: needs {gib(needed)} GiB on each device, {gib(over)} GiB more than its {hbm} GiB'


def gib(size: float) -> str:
    """Bytes in GiB: two decimals, more below 0.01."""
    return f'{size / GIB:.2f}' if size >= 0.01 * GIB or size == 0 else f'{size / GIB:.2g}'


def to_dict(measured: Measured) -> dict[str, Any]:
    """A row for JSON; bytes, seconds and operations, all of one device but `tokens`."""
    memory, estimate = measured.memory, measured.roofline
    row = {
        'program': measured.program.name, 'devices': measured.devices, 'fits': measured.fits,
        'hbm_bytes': measured.hbm, 'peak_bytes': measured.needed, 'flops': measured.flops,
        'tokens': measured.program.tokens, 'compile_s': measured.compile_s,
    }  # fmt: skip
    if memory is None or estimate is None:
        return row
    return row | {
        'argument_bytes': memory.arguments,
        'output_bytes': memory.outputs,
        'temporary_bytes': memory.temporaries,
        'hbm_traffic_bytes': measured.hbm_bytes,
        'collectives': {
            kind: {'count': count, 'bytes': size, 'of_unknown_count': unknown}
            for kind, (count, size, unknown) in totals(measured.collectives or ()).items()
        },
        'estimate': {
            **{f'{name}_s': value for name, value in estimate._asdict().items()},
            'bound': estimate.bound,
            'step_s': estimate.seconds,
            'tokens_per_s': measured.program.tokens / estimate.seconds,
        },
    }


def to_text(found: Sequence[Measured], heading: Mapping[str, Any]) -> str:
    """A heading line, then for every program what it needs, whether it fits, and the estimate."""
    parts = ['  '.join(f'{name}={value}' for name, value in heading.items()), memory_table(found)]
    parts += [f'{each.program.name}: {verdict(each)}' for each in found]
    compiled = [each for each in found if each.memory is not None]
    if any(each.collectives for each in compiled):
        parts.append(collectives_table(compiled))
    if compiled:
        parts += [estimate_table(compiled), ESTIMATE]
    return '\n\n'.join(parts)


def memory_table(found: Sequence[Measured]) -> str:
    """One line per program, per device."""
    lines = [['GiB per device', 'arguments', 'temporaries', 'outputs', 'peak', 'HBM', 'fits', 'compile s']]
    for each in found:
        memory = each.memory
        sizes = [gib(size) for size in (memory.arguments, memory.temporaries, memory.outputs)] if memory else ['-'] * 3
        peak = '?' if each.needed is None else gib(each.needed)
        fits = 'yes' if each.fits else 'NO'
        lines.append([each.program.name, *sizes, peak, gib(each.hbm), fits, f'{each.compile_s:.0f}'])
    return align(lines)


def collectives_table(found: Sequence[Measured]) -> str:
    """Executions and bytes of every kind in one call, loops multiplied out."""
    lines = [['collectives per device', 'kind', 'executions', 'GiB']]
    for each in found:
        for kind, (count, size, unknown) in totals(each.collectives or ()).items():
            shown = f'{count:,}' + (f' (and {unknown} of unknown count)' if unknown else '')
            lines.append([each.program.name, kind, shown, gib(size)])
    return align(lines)


def estimate_table(found: Sequence[Measured]) -> str:
    """Operations (by walking the program before compilation) and the estimate."""
    lines = [['estimate', 'TFLOP per device', 'compute ms', 'HBM ms', 'links ms', 'at least ms', 'tokens/s at best']]
    for each in found:
        if each.roofline is None:  # did not fit
            continue
        terms = ['?' if term is None else f'{1e3 * term:.3g}' for term in each.roofline]
        seconds = each.roofline.seconds
        cells = [f'{each.flops / 1e12:.4g}', *terms, f'{1e3 * seconds:.3g}', f'{each.program.tokens / seconds:,.0f}']
        lines.append([each.program.name, *cells])
    return align(lines)
