"""No file is a program: what could run code or a pickle is found in the package's own source, by name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pic_jax

PACKAGE = Path(pic_jax.__file__).parent
MODULES = {
    'pickle', 'cPickle', 'cloudpickle', 'dill', 'joblib', 'marshal', 'shelve', 'yaml', 'runpy', 'subprocess', 'code',
}  # fmt: skip
# By their last name wherever they are, and by their whole name where others are harmless (re.compile).
METHODS = {
    'exec', 'execfile', '__import__', 'import_module', 'exec_module', 'load_module', 'spec_from_file_location',
    'run_path', 'run_module', 'system', 'popen', 'literal_eval', 'from_pretrained', 'read_pickle', 'instantiate',
}  # fmt: skip
FUNCTIONS = {'eval', 'compile', 'torch.load', 'torch.save', 'np.load', 'numpy.load', 'jnp.load', 'jax.numpy.load'}
KEYWORDS = {'shell': True, 'trust_remote_code': True, 'allow_pickle': True, 'weights_only': False}
# (module, what) -> why it is there.
ALLOWED = {
    ('cli/bench.py', 'import runpy'): 'starts a script of benchmarks/, whose name is one of a fixed list',
    ('cli/bench.py', 'runpy.run_path'): 'as above',
    ('cli/main.py', 'importlib.import_module'): 'the module of a verb; verbs are a fixed list',
    ('cli/settings.py', 'ast.literal_eval'): 'a word of the command line as a literal: parses, runs nothing',
    ('cli/settings.py', 'importlib.util.spec_from_file_location'): 'the file that --config names is a program',
    ('cli/settings.py', 'spec.loader.exec_module'): 'as above',
    ('cli/check.py', 'Compressor.from_pretrained'): 'the PyTorch runtime of this package, on a folder the user names',
    ('data/tokenise.py', 'AutoTokenizer.from_pretrained'): 'with trust_remote_code=False, of a tokenizer class',
    ('evaluation/environment.py', 'import subprocess'): 'asks git for the commit, by a list of words',
    ('interop/serving.py', 'torch.save'): 'writes what vLLM wants on its wire; nothing here reads it',
    ('torch_runtime/modeling_pic_compressor.py', 'AutoModelForCausalLM.from_pretrained'): 'safetensors only, no code',
    ('torch_runtime/modeling_pic_compressor.py', 'AutoTokenizer.from_pretrained'): 'as in data/tokenise.py',
    ('torch_runtime/modeling_pic_compressor.py', 'PeftModel.from_pretrained'): 'where there is safetensors',
}


def name_of(node: ast.expr) -> str:
    """'a.b.c' of a chain of attributes."""
    if isinstance(node, ast.Attribute):
        return f'{name_of(node.value)}.{node.attr}'
    return node.id if isinstance(node, ast.Name) else ''


def dangers(source: str) -> Iterator[str]:
    """What in a module could run code that is not its own."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (f'import {a.name}' for a in node.names if a.name.partition('.')[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or '').partition('.')[0] in MODULES:
            yield f'import {node.module}'
        elif isinstance(node, ast.Call):
            name = name_of(node.func)
            if name in FUNCTIONS or name.rpartition('.')[2] in METHODS:
                yield name
            for keyword in node.keywords:
                if keyword.arg in KEYWORDS and not _is(keyword.value, not KEYWORDS[keyword.arg]):
                    yield f'{name or "call"}({keyword.arg}={ast.unparse(keyword.value)})'


def _is(node: ast.expr, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def found() -> set[tuple[str, str]]:
    return {
        (path.relative_to(PACKAGE).as_posix(), danger)
        for path in sorted(PACKAGE.rglob('*.py'))
        for danger in dangers(path.read_text())
    }


def test_nothing_runs_code_or_pickles_but_what_is_listed():
    assert found() - ALLOWED.keys() == set()


def test_the_list_has_nothing_that_is_gone():
    assert ALLOWED.keys() - found() == set()


@pytest.mark.parametrize(
    ('source', 'danger'),
    [
        ('import pickle', 'import pickle'),
        ('from marshal import loads', 'import marshal'),
        ('import torch\ntorch.load("x")', 'torch.load'),
        ('eval("1")', 'eval'),
        ('exec("x = 1")', 'exec'),
        ('compile("x = 1", "x", "exec")', 'compile'),
        ('importlib.import_module(name)', 'importlib.import_module'),
        ('run(words, shell=True)', 'run(shell=True)'),
        ('run(words, shell=flag)', 'run(shell=flag)'),
        ('load(path, allow_pickle=True)', 'load(allow_pickle=True)'),
        ('load(path, weights_only=False)', 'load(weights_only=False)'),
        ('make(path, trust_remote_code=True)', 'make(trust_remote_code=True)'),
        ('import yaml', 'import yaml'),
        ('os.system("true")', 'os.system'),
    ],
)
def test_the_walk_finds_what_it_looks_for(source, danger):
    assert danger in set(dangers(source))


def test_the_walk_passes_over_what_is_harmless():
    source = 're.compile("x")\nmodel.eval()\nrun(words, shell=False)\nmake(path, trust_remote_code=False)'
    assert list(dangers(source)) == []
