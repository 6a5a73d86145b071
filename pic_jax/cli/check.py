"""`pic-jax check`: whether an exported compressor computes here what it computed where it was exported."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

HELP = "compute an exported compressor's golden memory again, in JAX and, where it is installed, in PyTorch"
EXAMPLE = """examples:
  pic-jax check pic-4x
  pic-jax check pic-4x --base=models/Llama-3.2-1B --json

Exit codes: 0 it agrees, 1 it does not, 2 bad usage.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folder and where its target is."""
    parser.add_argument('folder', metavar='DIR', help='what `pic-jax export` wrote')
    parser.add_argument('--base', metavar='BASE', default='', help='the frozen model here (default: as in training)')
    parser.add_argument('--json', action='store_true', help='print rows as JSON')


def run(args: argparse.Namespace) -> int:
    """Prints a line per runtime and field of the memory."""
    from pic_jax.interop import artefact

    folder = Path(args.folder)
    trained = artefact.load(folder, args.base)
    checks: list[dict[str, Any]] = [{'runtime': 'jax'} | each._asdict() for each in artefact.check(trained, folder)]
    if all(importlib.util.find_spec(name) for name in ('torch', 'peft')):
        checks += _check_in_torch(folder, trained.run.config.base, {each['field']: each['limit'] for each in checks})
    if args.json:
        print(json.dumps(checks, indent=1))
    else:
        for each in checks:
            found = f'{each["difference"]:.3g} (at most {each["limit"]:g})'
            print(f'{each["runtime"]:<6} {each["field"]:<16} {found}  {"ok" if _agrees(each) else "DIFFERS"}')
    return 0 if all(_agrees(each) for each in checks) else 1


def _check_in_torch(folder: Path, base: str, limits: dict[str, float]) -> list[dict]:
    from pic_jax.errors import PicJaxError, first_line
    from pic_jax.models import orbax_base
    from pic_jax.run import named_folder
    from pic_jax.torch_runtime import Compressor

    if orbax_base.is_orbax(named_folder(base)):
        print(
            f'not checked in PyTorch, which cannot read {base!r}: name a folder in HF format by --base', file=sys.stderr
        )
        return []
    try:
        differences = Compressor.from_pretrained(folder, base=named_folder(base), verify=False).check()
    except (OSError, RuntimeError, ValueError) as error:  # of torch, transformers and PEFT
        raise PicJaxError(f'{folder}: PyTorch cannot compute it: {first_line(error)}') from error
    return [
        {'runtime': 'torch', 'field': field, 'difference': difference, 'limit': limits[field]}
        for field, difference in sorted(differences.items())
    ]


def _agrees(check: dict) -> bool:
    return check['difference'] <= check['limit']
