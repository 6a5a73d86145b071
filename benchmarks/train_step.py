"""One training step of PIC here and in PyTorch: seconds and peak memory, on the same cores in the same run.

    pic-jax bench train_step [--json] [--cores 1 2] [--batch 1] [--repetitions 7]
    pic-jax bench train_step --table          from the stored results

A Llama of random weights (D 512, 8 layers, 32,000 words, float32) reads 2,048 tokens at 16 tokens per vector, chunks of
256 that nothing crosses; LoRA of rank 16 on q, k, v, o and the memory vectors are trained to continue with 128 text
tokens. `forward` is the loss alone, `gradient` also its derivatives for all that is trained.

The peers (torch_peers.py) are transformers with PEFT: `dense` attends under one 4-D mask, `flex` is FlexAttention with
a block mask, `folding` makes chunks rows of the batch as this package does; `compiled` ones are that in torch.compile.
Before anything is timed, all must agree on the loss and on every gradient. The two libraries have a process each, on
the same cores, and take turns. A ratio is the median over rounds of peer / ours, with the least and the greatest. The
headline is against the fastest peer; dense / ours = (dense / folding) x (folding / ours) says what of the difference is
the algorithm and what the framework. Memory is what a call takes, in a process of its own, beyond what that has between
calls. GFLOP/s are of all matrix products, masked or not (of FlexAttention: as folding has them).
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pages import table as markdown
from provenance import provenance
from timing import OpenSide, peak_of, pinned, ratio, result_of, seconds_of, worker
from train_case import PEERS, SEED, Case, flops, make_case, our_side, write_inputs

from pic_jax.files import write_text

RESULTS = Path(__file__).with_name('results') / 'train_step'
OURS, PASSES = 'pic_jax', ('forward', 'gradient')
LOSS_LIMIT, GRADIENT_LIMIT = 1e-4, 1e-3  # relative
LIBRARIES = ('jax', 'jaxlib', 'torch', 'transformers', 'peft')
Gradients = Mapping[str, np.ndarray]
Seconds = Mapping[str, Sequence[float]]  # side -> of every round
# (function of timing.py, side, what to compute) -> what the function returns in the side's process.
Runs = Callable[[Callable[[OpenSide, str], Any], str, str], Any]


def disagreement(ours: tuple[float, Gradients], theirs: tuple[float, Gradients]) -> dict[str, float]:
    """How far two sides are apart: `loss`, relative, and `gradient`, the norm of the difference as a share of ours, of
    the trained tensor where that is largest.

    Raises:
      ValueError: by more than rounding, or they do not train the same tensors: they are not the same computation.
    """
    if ours[1].keys() != theirs[1].keys():
        raise ValueError(f'gradients of other tensors: {sorted(ours[1].keys() ^ theirs[1].keys())}')
    shares = [np.linalg.norm(theirs[1][name] - grad) / np.linalg.norm(grad) for name, grad in ours[1].items()]
    found = {'loss': abs(theirs[0] - ours[0]) / abs(ours[0]), 'gradient': float(np.max(shares, initial=0.0))}
    if not (found['loss'] <= LOSS_LIMIT and found['gradient'] <= GRADIENT_LIMIT):
        raise ValueError(f'another computation: {found}, expected at most {LOSS_LIMIT} and {GRADIENT_LIMIT}')
    return found


def agreement(runs: Runs, peers: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs every peer once and compares it with ours.

    Returns:
      {what: {peer: its disagreement}}, and {what: {peer: why it does not run}}.

    Raises:
      ValueError: a peer computes something else.
    """
    apart, reasons = ({what: {} for what in PASSES} for _ in range(2))
    for what in PASSES:
        ours = runs(result_of, OURS, what)
        for peer in peers:
            try:
                theirs = runs(result_of, peer, what)
            except NotImplementedError as error:  # FlexAttention has no backward pass on CPUs
                reasons[what][peer] = str(error)
                continue
            pair = (ours, theirs) if what == 'gradient' else ((ours, {}), (theirs, {}))
            apart[what][peer] = disagreement(*pair)
            print(f'{peer}, {what}: {apart[what][peer]}', file=sys.stderr, flush=True)
    return apart, reasons


def measure(case: Case, cores: int, repetitions: int, peers: Sequence[str]) -> dict[str, Any]:
    """All that is stored about the case on that many cores.

    Raises:
      ValueError: a peer computes something else.
    """
    from torch_peers import torch_side  # here, so that stored results can be shown without torch

    load_before = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        stack.enter_context(pinned(cores))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        our_process, torch_process = (stack.enter_context(worker()) for _ in range(2))
        origin = our_process.submit(provenance, SEED).result()
        counts = our_process.submit(flops, case).result()
        our_process.submit(write_inputs, case, folder).result()
        opened: dict[str, OpenSide] = {OURS: functools.partial(our_side, case)}
        opened |= {peer: functools.partial(torch_side, case, folder, peer) for peer in peers}

        def runs(function: Callable[[OpenSide, str], Any], side: str, what: str) -> Any:
            process = our_process if side == OURS else torch_process
            return process.submit(function, opened[side], what).result()

        apart, reasons = agreement(runs, peers)
        # A plain product has no form: one peer stands for PyTorch.
        sides = {'matmul': (OURS, peers[0])} | {what: (OURS, *apart[what]) for what in PASSES}
        seconds = {what: time_in_turn(runs, what, sides[what], repetitions) for what in sides}
        peaks = {what: {} for what in PASSES}
        for side, open_side in opened.items():
            with worker() as process:
                for what in PASSES:
                    if side in sides[what]:
                        peaks[what][side] = process.submit(peak_of, open_side, what).result()
    return {
        'cores': cores, 'repetitions': repetitions, 'case': dataclasses.asdict(case),
        'disagreement': apart, 'does_not_run': reasons, 'seconds': seconds, 'peak_bytes': peaks, 'flops': counts,
        'gflops_per_s': {what: rates(seconds[what], counts, what) for what in seconds},
        'ratios': {what: ratios(seconds[what]) for what in PASSES},
        'versions': {name: importlib.metadata.version(name) for name in LIBRARIES}, 'load_before': load_before,
        **origin,
    }  # fmt: skip


def time_in_turn(runs: Runs, what: str, sides: Sequence[str], repetitions: int) -> dict[str, list[float]]:
    """Seconds of every side in every round; a round before the first warms up."""
    rounds = [[runs(seconds_of, side, what) for side in sides] for _ in range(1 + repetitions)]
    return {side: list(column) for side, column in zip(sides, zip(*rounds[1:], strict=True), strict=True)}


def rates(seconds: Seconds, counts: Mapping[str, Mapping[str, float]], what: str) -> dict[str, float]:
    """GFLOP/s of every side, of its median."""
    form = {side: 'dense' if side in PEERS and side.startswith('dense') else 'folding' for side in seconds}
    return {side: counts[form[side]][what] / statistics.median(times) / 1e9 for side, times in seconds.items()}


def ratios(seconds: Seconds) -> dict[str, Any]:
    """Peer / ours of every peer, the name of the fastest, and dense / ours in its two factors."""
    peers = {side: times for side, times in seconds.items() if side != OURS}
    return {
        'fastest': min(peers, key=lambda side: statistics.median(peers[side])),
        'peers': {side: ratio(times, seconds[OURS])._asdict() for side, times in peers.items()},
        'algorithm': ratio(seconds['dense'], seconds['folding'])._asdict(),
        'framework': ratio(seconds['folding'], seconds[OURS])._asdict(),
    }


def table(row: Mapping[str, Any]) -> str:
    """Markdown: a line per side, and the headlines."""
    lines = []
    for side in (OURS, *row['disagreement']['forward']):
        cells = [side]
        for what in PASSES:
            if side not in row['seconds'][what]:
                cells += ['does not run', '', '', '']
                continue
            to_ours = row['ratios'][what]['peers'].get(side)
            cells += [
                f'{statistics.median(row["seconds"][what][side]):.3g}', f'{row["gflops_per_s"][what][side]:.0f}',
                f'{row["peak_bytes"][what][side] / 2**20:.0f}', _shown(to_ours) if to_ours else '',
            ]  # fmt: skip
        lines.append(cells)
    heading = ['side', *(f'{what}{cell}' for what in PASSES for cell in (', s', ', GFLOP/s', ', MiB', ' / ours'))]
    place = f'{row["cores"]} pinned, of {row["machine"]}; batch {row["case"]["batch"]}'
    text = [place, '', markdown(heading, lines), '']
    for what in PASSES:
        found = row['ratios'][what]
        text.append(
            f'- {what}: the fastest peer is {found["fastest"]}, {_shown(found["peers"][found["fastest"]])} of ours; '
            f'dense / ours is algorithm {_shown(found["algorithm"])} x framework {_shown(found["framework"])}'
        )
        text += [f'- {peer} has no {what}: {reason}' for peer, reason in row['does_not_run'][what].items()]
    ours, torch = row['gflops_per_s']['matmul'].values()
    text.append(f'- a plain matrix product: {ours:.0f} GFLOP/s in jax, {torch:.0f} in torch')
    return '\n'.join(text)


def _shown(ratio_fields: Mapping[str, float]) -> str:
    return '{median:.2f}x [{low:.2f}, {high:.2f}]'.format(**ratio_fields)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog='pic-jax bench train_step', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--cores', type=int, nargs='+', default=[1, 2], help='how many to pin to; default: 1 2')
    parser.add_argument('--batch', type=int, default=1, help='contexts of a step; default: 1')
    parser.add_argument('--repetitions', type=int, default=7, help='rounds that are timed; default: 7')
    parser.add_argument('--peers', nargs='+', choices=PEERS, default=list(PEERS), help='default: all')
    parser.add_argument('--small', action='store_true', help='tiny shapes, to see that everything runs')
    parser.add_argument('--json', action='store_true', help='print one JSON object per line')
    parser.add_argument('--table', action='store_true', help='measure nothing, show the stored results')
    args = parser.parse_args()
    show = json.dumps if args.json else table
    if args.table:
        for path in sorted(RESULTS.glob('*.json')):
            print(show(json.loads(path.read_text())), end='\n\n')
        return
    available = len(os.sched_getaffinity(0))
    if not 1 <= min(args.cores) <= max(args.cores) <= available:
        parser.error(f'--cores={args.cores} is not valid: expected 1 to {available}')
    if not {'dense', 'folding'} <= set(args.peers):
        parser.error(f'--peers={args.peers} is not valid: expected dense and folding among them')
    os.environ['JAX_PLATFORMS'] = 'cpu'  # of the workers
    case = make_case(args.batch, args.small)
    whole = not args.small and args.peers == list(PEERS)  # what is stored
    for cores in args.cores:
        row = measure(case, cores, args.repetitions, args.peers)
        if whole:
            name = f'cores{cores}' + f'_batch{args.batch}' * (args.batch > 1)
            write_text(RESULTS / f'{name}.json', json.dumps(row, indent=1) + '\n')
        print(show(row), end='\n\n' if show is table else '\n', flush=True)


if __name__ == '__main__':
    main()
