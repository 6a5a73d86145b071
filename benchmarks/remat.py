"""What remat policies cost and save in a training step: seconds and memory of the gradient, by policy.

    pic-jax bench remat [--json] [--table]

The step of benchmarks/train_step.py on all cores: a Llama of random weights (D 512, 8 layers, float32), 2,048 tokens in
chunks of 256, batch 2. The programs run interleaved in one process; seconds are medians of 7 rounds after a warm-up,
shares are medians of the ratios of the rounds, and bytes are what the compiler takes beside inputs and outputs.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from backends import difference
from pages import table
from provenance import provenance
from timing import interleaved
from train_case import SEED, functions, make_case, make_inputs

from pic_jax.config import REMATS
from pic_jax.files import write_text

RESULTS = Path(__file__).with_name('results') / 'remat'
BATCH, ROUNDS = 2, 7


def measure() -> dict:
    """Seconds, their share of those without remat, and temporary bytes by policy."""
    import jax

    from pic_jax.evaluation.flops import count_flops
    from pic_jax.models.decoder import Decoder

    case = make_case(BATCH)
    inputs, programs, row = make_inputs(case), {}, {}
    for policy in REMATS:
        _, gradient = functions(case, Decoder(case.decoder, remat=policy))
        programs[policy] = jax.jit(gradient).lower(*inputs).compile()
        bytes_taken = programs[policy].memory_analysis().temp_size_in_bytes
        row[policy] = {'temporary_bytes': bytes_taken, 'flops': count_flops(gradient, *inputs)}
    wanted = programs['none'](*inputs)
    for program in programs.values():
        found = program(*inputs)
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6)
        difference(wanted, found)  # of the gradients
    del wanted, found
    for policy, times in (seconds := interleaved(programs, inputs, ROUNDS)).items():
        row[policy] |= {
            'seconds': float(np.median(times)),
            'share': [float(x) for x in np.percentile(np.array(times) / np.array(seconds['none']), (25, 50, 75))],
        }
    return row


def shown(row: dict) -> str:
    """Markdown, a line per policy."""
    lines = [
        [
            policy, f'{found["seconds"]:.2f}', '{1:.2f} ({0:.2f} to {2:.2f})'.format(*found['share']),
            f'{found["temporary_bytes"] / 2**20:,.0f}', f'{found["flops"] / row["none"]["flops"]:.2f}',
        ]
        for policy, found in ((policy, row[policy]) for policy in REMATS)
    ]  # fmt: skip
    return table(['`remat`', 's', 'of `none` (quartiles)', 'MiB', 'FLOPs, of `none`'], lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog='pic-jax bench remat', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--json', action='store_true', help='print the row as JSON')
    parser.add_argument('--table', action='store_true', help='only print what is stored')
    args = parser.parse_args()
    path = RESULTS / 'train_step.json'
    if not args.table:
        origin = provenance(SEED)  # of the code that runs, whatever HEAD is later
        write_text(path, json.dumps(measure() | origin, indent=1) + '\n')
    row = json.loads(path.read_text())
    print(json.dumps(row) if args.json else shown(row))


if __name__ == '__main__':
    main()
