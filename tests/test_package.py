"""What importing costs, and which way dependencies point."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pic_jax
from pic_jax.cli.main import VERBS

PACKAGE = Path(pic_jax.__file__).parent
SOURCES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob('*.py'))
HEAVY = ('jax', 'flax', 'transformers', 'orbax', 'torch', 'matplotlib', 'datasets')


def imports(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: a relative import'
            found |= {node.module} | {f'{node.module}.{alias.name}' for alias in node.names}
    return found


@pytest.mark.parametrize(
    'statement',
    ['import pic_jax', 'import pic_jax.config, pic_jax.masks, pic_jax.errors', 'import pic_jax.cli.main',
     'from pic_jax.cli.main import make_parser; make_parser()'],
)  # fmt: skip
def test_importing_is_light(statement):
    code = f'import sys\n{statement}\nprint([name for name in {HEAVY} if name in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout == '[]\n'


def test_the_walk_finds_the_package():
    assert len(SOURCES) > 40
    assert 'jax' in imports(Path('training/step.py'))
    assert 'pic_jax.training.train.train' in imports(Path('cli/train.py'))  # inside a function


@pytest.mark.parametrize('path', SOURCES, ids=str)
def test_only_torch_runtime_imports_torch(path):
    """And serving.py inside one function: what vLLM reads is what torch.save writes."""
    tops = {name.split('.')[0] for name in imports(path)}
    assert path.parts[0] == 'torch_runtime' or path == Path('interop/serving.py') or not tops & {'torch', 'peft'}


LAYERS = ('models', 'compressors', ('data', 'training', 'evaluation', 'interop'), 'cli')


@pytest.mark.parametrize('path', SOURCES, ids=str)
def test_dependencies_point_one_way(path):
    """models <- compressors <- data, training, evaluation, interop <- cli."""
    ranks = {name: rank for rank, names in enumerate(LAYERS) for name in ([names] if isinstance(names, str) else names)}
    rank = ranks.get(path.parts[0])
    if path.parts[0] in ('config', 'masks.py', 'memory.py', 'errors.py'):
        rank = -1
    if rank is None:
        return
    used = {name.split('.')[1] for name in imports(path) if name.startswith('pic_jax.')}
    assert not {name for name in used if ranks.get(name, -1) > rank}


def test_every_verb_is_a_module_and_every_module_a_verb():
    modules = {path.stem for path in (PACKAGE / 'cli').glob('*.py')} - {'__init__', 'main', 'settings', 'contexts_to'}
    assert set(VERBS) == modules
    assert len(VERBS) == len(set(VERBS))
