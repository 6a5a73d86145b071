"""A trained compressor as a folder to publish: adapter for PEFT, the other tensors, and what they must compute."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from safetensors.numpy import save_file

import pic_jax
from pic_jax.api import TrainedCompressor
from pic_jax.config import RunConfig, from_mapping, to_mapping
from pic_jax.data.tokenise import fingerprint
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.files import new_folder, read_json, write_text
from pic_jax.interop.card import model_card
from pic_jax.interop.checks import require
from pic_jax.interop.peft import read_adapter, write_adapter
from pic_jax.memory import Memory
from pic_jax.models import hf, hub
from pic_jax.models.hf_files import copy_beside, inside
from pic_jax.models.lora import scaled
from pic_jax.run import open_run
from pic_jax.tensors import read_like, read_tensors
from pic_jax.training.identity import identity
from pic_jax.training.weights import named

MODEL_TYPE, VERSION = 'pic_compressor', '1'
ADAPTER, TENSORS, GOLDEN, MERGED = 'adapter', 'pic.safetensors', 'golden.safetensors', 'merged'
# The PyTorch runtime, a file that stands alone.
RUNTIME = Path(pic_jax.__file__).parent / 'torch_runtime' / 'modeling_pic_compressor.py'
GOLDEN_TOKENS = 512  # at the most
# How far memory may lie from the golden one, as a share of its norm, by compute dtype.
LIMITS = {'float32': 1e-5, 'bfloat16': 2e-2}


def export(
    trained: TrainedCompressor, folder: Path, target: str = '', merged: bool = False, remote_code: bool = False
) -> None:
    """Writes the artefact (docs/FORMATS.md); the folder appears when it is whole.

    Args:
      target: what the artefact shall call the frozen model, e.g. its name on the Hub; the run's own name by default.
      merged: also write the encoder, target and adapter in one, as a checkpoint of its own with the tokenizer.
      remote_code: also write the PyTorch runtime, so that transformers' `AutoModel` loads the folder by itself.

    Raises:
      ConfigError: the folder exists, or `merged` is asked of a method whose encoder is not the target.
      PicJaxError: it cannot be written.
    """
    if folder.exists():
        raise ConfigError(f'{folder} exists: expected a new folder')
    run, lora = trained.run, trained.trainable.get('lora')
    if merged and not lora:
        raise ConfigError(f'there is nothing to merge: {run.config.compressor.method} has no adapter')
    name, revision = hub.published(hub.PREFIX + target.removeprefix(hub.PREFIX) if target else run.config.base)
    config = {
        'model_type': MODEL_TYPE,
        'format_version': VERSION,
        'pic_jax': pic_jax.__version__,
        'target': {
            'id': name,
            'revision': revision,
            'identity': identity(run.base, run.decoder.config),
            'tokenizer_sha256': fingerprint(run.tokenizer),
            'hidden_size': run.decoder.config.hidden_size,
        },
        **_for_readers(trained),
        'run': to_mapping(run.config),
    }
    if remote_code:
        config['auto_map'] = {
            'AutoConfig': f'{RUNTIME.stem}.PicCompressorConfig',
            'AutoModel': f'{RUNTIME.stem}.Compressor',
        }
    with new_folder(folder) as part:
        write_text(part / 'config.json', json.dumps(config, indent=2) + '\n')
        if lora:
            write_adapter(part / ADAPTER, lora, run.config.compressor.lora, name, revision)
        _save(part / TENSORS, named(_without_adapter(trained.trainable)))
        _save(part / GOLDEN, golden(trained))
        if merged:
            (part / MERGED).mkdir()
            copy_beside(Path(run.tokenizer.name_or_path), part / MERGED)  # write_model has another config.json
            hf.write_model(part / MERGED, _merged(trained), run.decoder.config, run.config.dtype)
        if remote_code:
            shutil.copyfile(RUNTIME, part / RUNTIME.name)
        write_text(part / 'README.md', model_card(config, bool(target) or run.config.base.startswith(hub.PREFIX)))


def load(folder: str | Path, base: str = '', mesh: Mesh | None = None) -> TrainedCompressor:
    """The compressor of an artefact.

    Args:
      base: where the frozen model is here (folder, `hub:owner/name`); where it was when it was trained by default.
      mesh: as in `pic_jax.load`.

    Raises:
      PicJaxError: the folder is no artefact, a tensor does not fit, the frozen model or its tokenizer is another, or
        config.json says something else of the compressor than what it is.
    """
    folder = Path(folder)
    config = read_json(folder / 'config.json')
    for key, valid in ('model_type', MODEL_TYPE), ('format_version', VERSION):
        if config.get(key) != valid:
            raise PicJaxError(f'{folder / "config.json"}: {key} is {config.get(key)!r}, expected {valid!r}')
    target = config.get('target')
    expected = [target.get(key) if isinstance(target, dict) else None for key in ('identity', 'tokenizer_sha256')]
    wanted_model, wanted_tokenizer = expected
    if not isinstance(wanted_model, str) or not isinstance(wanted_tokenizer, str):
        raise PicJaxError(f'{folder / "config.json"}: target lacks identity or tokenizer_sha256, expected hex digits')
    try:
        if not isinstance(config.get('run'), dict):
            raise ConfigError(f"'run' is {config.get('run')!r}, expected the settings of a run")
        settings = from_mapping(RunConfig, config['run'])
    except ConfigError as error:
        raise PicJaxError(f'{folder / "config.json"}: {error}') from error
    run = open_run(dataclasses.replace(settings, base=base or settings.base), mesh)
    found = identity(run.base, run.decoder.config)
    if found != wanted_model:
        raise PicJaxError(
            f'{folder} belongs to another frozen model than {run.config.base}: its configuration and tensors have '
            f'the identity {wanted_model[:12]}, this one {found[:12]}'
        )
    if fingerprint(run.tokenizer) != wanted_tokenizer:
        raise PicJaxError(
            f'{folder} was trained with another tokenizer than that of {run.config.base}: expected tokenizer_sha256 '
            f'{wanted_tokenizer[:12]}, found {fingerprint(run.tokenizer)[:12]}'
        )
    like = jax.eval_shape(run.init_trainable)
    others = _without_adapter(like)
    tensors = read_tensors(inside(folder, folder / TENSORS), {name: leaf.shape for name, leaf in named(others).items()})
    leaves = [jnp.asarray(tensors[name], jnp.float32) for name in named(others)]
    trainable = jax.tree.unflatten(jax.tree.structure(others), leaves)
    if 'lora' in like:
        lora = like['lora']
        trainable['lora'] = read_adapter(folder / ADAPTER, lora, run.config.compressor.lora) if lora else {}
    trained = TrainedCompressor(run, {name: trainable[name] for name in like})
    for key, value in _for_readers(trained).items():
        require(config.get(key) == value, f'{folder / "config.json"}: {key}', config.get(key), repr(value))
    return trained


class Check(NamedTuple):
    """A field of the memory: norm of its difference from the golden one, as a share of the golden one's norm (of whole
    numbers: how many differ), and how large it may be."""

    field: str
    difference: float
    limit: float


def check(trained: TrainedCompressor, folder: Path) -> list[Check]:
    """Computes the artefact's golden memory again.

    Raises:
      PicJaxError: the golden file is missing, or of other names, shapes or dtypes.
    """
    found, checks = golden(trained), []
    wanted = read_like(inside(folder, folder / GOLDEN), found)
    for name, value in wanted.items():
        if value.dtype == np.int32:
            checks.append(Check(name, float(np.sum(found[name] != value)), 0.0))
        else:
            difference = float(np.linalg.norm(found[name] - value)) / max(float(np.linalg.norm(value)), 1e-30)
            checks.append(Check(name, difference, LIMITS[trained.run.config.dtype]))
    return checks


def golden(trained: TrainedCompressor) -> dict[str, np.ndarray]:
    """Token ids and their memory: `tokens` [2, S], `lengths` [2], and the fields of `Memory`, zero where not valid.

    `memory_lengths` [2] are numbers of valid vectors; vectors are float32.
    """
    run = trained.run
    S = min(run.config.compressor.context_length, GOLDEN_TOKENS)
    tokens_BS = np.random.default_rng(0).integers(0, run.decoder.config.vocab_size, (2, S)).astype(np.int32)
    lengths_B = np.array([S, max(1, 2 * S // 3)], np.int32)
    tokens_BS[np.arange(S) >= lengths_B[:, None]] = 0
    memory: Memory = trained.compress(tokens_BS, lengths_B)
    valid_BM = np.asarray(memory.valid)

    def clean(x: jax.Array) -> np.ndarray:
        return np.where(valid_BM.reshape(*valid_BM.shape, *(1,) * (x.ndim - 2)), np.asarray(x), 0)

    arrays = {name: clean(array.astype(jnp.float32)) for name, array in memory.vectors.items()}
    arrays |= {'positions': clean(memory.positions), 'text_start': np.asarray(memory.text_start)}
    return {'tokens': tokens_BS, 'lengths': lengths_B, 'memory_lengths': np.asarray(memory.lengths)} | arrays


def _for_readers(trained: TrainedCompressor) -> dict[str, Any]:
    """What follows from run and weights, in config.json for readers that do not work it out: the PyTorch runtime."""
    return {
        'prefix': list(trained.run.prefix),
        'template': dataclasses.asdict(trained.run.template),
        'special': trained.special_name,
        'compressor_sha256': trained.fingerprint,
    }


def _without_adapter(trainable: dict[str, Any]) -> dict[str, Any]:
    return {name: tree for name, tree in trainable.items() if name != 'lora'}


def _save(path: Path, tensors: dict[str, Any]) -> None:
    arrays = {name: np.ascontiguousarray(np.asarray(value)) for name, value in tensors.items()}
    save_file(arrays, path, {'format': MODEL_TYPE, 'format_version': VERSION})


def _merged(trained: TrainedCompressor) -> dict[str, Any]:
    """The target's parameters with the adapter added, in the target's dtype."""
    params = jax.tree.map(lambda x: x, trained.run.base)
    for group, names in scaled(trained.trainable['lora'], trained.run.config.compressor.lora)['layers'].items():
        for name, parts in names.items():
            layer = params['layers'][group][name]
            delta = jnp.einsum('lir,lro->lio', parts['lora_A'], parts['lora_B'], precision='highest')
            layer['kernel'] = (layer['kernel'].astype(jnp.float32) + delta).astype(layer['kernel'].dtype)
    return params
