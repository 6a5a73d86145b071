"""Compressors that the authors' own PyTorch code trained, as compressors of this package.

Both spend all their k vectors on every window; here a window of n tokens gets ceil(n / ratio) of them, which are the
first ones of theirs, bit for bit in exact arithmetic: in both, no slot sees a later one.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, which safetensors needs)
import numpy as np
from safetensors import SafetensorError, safe_open

from pic_jax.compressors.base import SPECIALS
from pic_jax.config import (
    CompressorConfig,
    DataConfig,
    DecoderConfig,
    IcformerConfig,
    LoraConfig,
    ObjectiveConfig,
    RunConfig,
)
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.files import read_json
from pic_jax.interop.checks import is_int
from pic_jax.models import hf
from pic_jax.models.hf_files import inside
from pic_jax.run import named_folder
from pic_jax.tensors import check_dtype, check_finite

# PEFT's names below the attribute `icae` of the authors' module.
_ADAPTER = re.compile(
    r'icae\.base_model\.model\.model\.layers\.(\d+)\.(self_attn|mlp)\.(\w+)\.lora_([AB])\.default\.weight'
)
# A whole state dict also has the frozen model, once or twice.
_FROZEN = re.compile(r'(icae\.base_model\.model|decoder)\.(?!.*lora_)')
_TABLE = 'memory_token_embed.weight'


def read_icae(file: Path, base: str, ratio: int, lora_alpha: float, dtype: str) -> tuple[RunConfig, dict[str, Any]]:
    """ICAE (arXiv 2307.06945), a state dict of the second version of its code (github.com/getao/icae), as safetensors.

    Args:
      base: the frozen model, as in a run's settings.
      ratio: the code's `mean_compression_rate`. lora_alpha: as in training; the file has neither.
      dtype: of the computation.

    Returns:
      settings, and the trained parameters in float32. Contexts are read without a BOS, as in the code's training; its
      inference script gives them one.

    Raises:
      PicJaxError: the file is not readable, or does not fit the frozen model.
    """
    config = hf.read_config(named_folder(base))
    tensors = _Tensors(file)
    adapters = {name: match for name in tensors.shapes if (match := _ADAPTER.fullmatch(name))}
    strange = [name for name in tensors.shapes if name not in adapters and name != _TABLE and not _FROZEN.match(name)]
    shapes = hf.build_params(config, lambda tensor, shape: shape)['layers']
    strange += [name for name, match in adapters.items() if match[3] not in shapes[match[2]]]
    flat = [name for name in (*adapters, *({_TABLE} & tensors.shapes.keys())) if len(tensors.shapes[name]) != 2]
    if flat:
        raise PicJaxError(f'{file}: {flat[0]} has shape {tensors.shapes[flat[0]]}, expected a matrix')
    ranks = [tensors.shapes[name][0] for name, match in adapters.items() if match[4] == 'A']
    if strange or not ranks or _TABLE not in tensors.shapes:
        problem = f'has {strange[0]}' if strange else f'lacks {_TABLE if ranks else "a LoRA adapter"}'
        raise PicJaxError(f'{file} {problem}: expected a state dict of ICAE, second version')
    slots, rank = tensors.shapes[_TABLE][0] - len(SPECIALS), ranks[0]
    if min(slots, rank) < 1:
        raise PicJaxError(f'{file}: {_TABLE} of {slots} slots and LoRA of rank {rank}: expected at least one of each')
    targets = {match[3]: match[2] for match in adapters.values()}
    lora: dict[str, Any] = {}
    for name, group in sorted(targets.items()):
        _, features_in, features_out = shapes[group][name]['kernel']
        for part, shape in ('A', (rank, features_in)), ('B', (features_out, rank)):
            stored = f'icae.base_model.model.model.layers.{{}}.{group}.{name}.lora_{part}.default.weight'
            stacked = tensors.layers(stored, config.num_hidden_layers, shape)
            lora.setdefault(group, {}).setdefault(name, {})[f'lora_{part}'] = jnp.asarray(stacked.swapaxes(1, 2))
    table = tensors.read(_TABLE, (slots + len(SPECIALS), config.hidden_size))
    compressor = CompressorConfig.preset(
        'icae', ratio=ratio, context_length=slots * ratio, window=slots * ratio, window_split='even',
        lora=LoraConfig(rank, lora_alpha, tuple(sorted(targets))),
    )  # fmt: skip
    special = {name: table[slots + i] for i, name in enumerate(SPECIALS)}
    return _run(base, compressor, dtype, 'ft'), {
        'memory_embeddings': table[:slots], 'special': special, 'lora': {'layers': lora}, 'projector': {},
    }  # fmt: skip


def read_icformer(folder: Path, base: str, ratio: int, dtype: str) -> tuple[RunConfig, dict[str, Any]]:
    """IC-Former (arXiv 2406.13618), a checkpoint folder of its code (github.com/wonderful9462/IC-Former).

    The folder has config.json and model.safetensors; the digests and special vectors, which the code keeps in a pickle,
    must be there as param.safetensors.

    A checkpoint without the vector FT reconstructs and does not answer. The authors' words around memory and question
    differ from those of llama2-chat: "[INST] Response the Prompt based on the below text:" and "Prompt:".

    Args, returns:
      as `read_icae`.

    Raises:
      PicJaxError: a file is missing, not readable or a link that leaves the folder, asks for what this package does not
        compute, or does not fit the frozen model.
    """
    target = hf.read_config(named_folder(base))
    options = _icformer_options(folder / 'config.json', target)
    if not (folder / 'param.safetensors').is_file() and (folder / 'param.pt').is_file():
        raise PicJaxError(
            f'{folder} has param.pt, a pickle, which is not read here. Where it comes from, run: '
            'safetensors.torch.save_file({name: x.detach().contiguous() for name, x in '
            "torch.load('param.pt', weights_only=True).items()}, 'param.safetensors')"
        )
    params, tensors = (_Tensors(inside(folder, folder / f'{name}.safetensors')) for name in ('param', 'model'))
    D, F, width = target.hidden_size, options.intermediate_size, options.heads * options.head_dim
    digests = params.shapes.get('digest_embeddings', ())
    if len(digests) != 3 or digests[1] < 1:
        raise PicJaxError(f'{params.path}: digest_embeddings has shape {digests}, expected (1, digests, {D})')
    slots = digests[1]
    layers: dict[str, Any] = {'cross_attn': {}, 'mlp': {}}
    for group, name, shape in (
        *(('cross_attn', f'{part}_proj', (width, D)) for part in 'qkv'), ('cross_attn', 'o_proj', (D, width)),
        ('mlp', 'gate_proj', (F, D)), ('mlp', 'up_proj', (F, D)), ('mlp', 'down_proj', (D, F)),
    ):  # fmt: skip
        stacked = tensors.layers(f'encoder.layers.{{}}.{group}.{name}.weight', options.layers, shape)
        layers[group][name] = {'kernel': jnp.asarray(stacked.swapaxes(1, 2))}
    for ours, theirs in (
        ('input_layernorm', 'cross_input_layernorm'), ('context_layernorm', 'context_layernorm'),
        ('post_attention_layernorm', 'post_attention_layernorm'),
    ):  # fmt: skip
        stacked = tensors.layers(f'encoder.layers.{{}}.{theirs}.weight', options.layers, (D,))
        layers[ours] = {'weight': jnp.asarray(stacked)}
    special = {
        name: params.read(name.upper(), (1, 1, D))[0, 0] if name.upper() in params.shapes else jnp.zeros(D)
        for name in SPECIALS
    }
    compressor = CompressorConfig.preset(
        'icformer', ratio=ratio, context_length=slots * ratio, window=slots * ratio, window_split='even',
        icformer=options,
    )  # fmt: skip
    return _run(base, compressor, dtype, 'ft' if 'FT' in params.shapes else 'ae'), {
        'memory_embeddings': params.read('digest_embeddings', (1, slots, D))[0],
        'special': special,
        'icformer': {'layers': layers, 'norm': {'weight': tensors.read('encoder.norm.weight', (D,))}},
        'projector': {},
    }


def _icformer_options(path: Path, target: DecoderConfig) -> IcformerConfig:
    """Sizes of config.json; what this package computes in one way only is checked."""
    values = read_json(path)
    heads = values.get('num_attention_heads', 32)
    for key, default, valid in (
        ('model_type', None, 'icformer'), ('hidden_size', 4096, target.hidden_size),
        ('context_hidden_size', 4096, target.hidden_size), ('num_key_value_heads', heads, heads),
        ('cross_attention_frequency', 1, 1), ('hidden_act', 'silu', 'silu'), ('attention_bias', False, False),
        ('rms_norm_eps', 1e-6, 1e-6), ('rope_theta', 10000.0, 10000.0), ('rope_scaling', None, None),
    ):  # fmt: skip
        if (found := values.get(key, default)) != valid:
            raise PicJaxError(f'{path}: {key}={found!r} is not supported (supported: {valid!r})')
    sizes = {
        'num_attention_heads': heads, 'num_hidden_layers': values.get('num_hidden_layers', 12),
        'intermediate_size': values.get('intermediate_size', 11008),
    }  # fmt: skip
    for key, size in sizes.items():
        if not is_int(size, 1):
            raise PicJaxError(f'{path}: {key}={size!r} is not valid: expected a positive int')
    if target.hidden_size % heads:
        raise PicJaxError(f'{path}: num_attention_heads={heads} is not valid: expected a divisor of hidden_size')
    layers, inner = sizes['num_hidden_layers'], sizes['intermediate_size']
    try:
        return IcformerConfig(layers, heads, target.hidden_size // heads, inner)
    except ConfigError as error:
        raise PicJaxError(f'{path}: {error}') from error


def _run(base: str, compressor: CompressorConfig, dtype: str, objective: str) -> RunConfig:
    """Settings of a run that trained the compressor for that objective."""
    length = compressor.context_length
    data = DataConfig(context_length=length, min_context=min(DataConfig.min_context, length))
    return RunConfig(
        base=base, dtype=dtype, prompt_template='llama2-chat', compressor=compressor, data=data,
        objective=ObjectiveConfig(**({'lm': 0.0} | {objective: 1.0})),
    )  # fmt: skip


class _Tensors:
    """A safetensors file whose tensors are checked as they are read, as float32 arrays."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with safe_open(path, 'np') as file:
                self.shapes: Mapping[str, tuple[int, ...]] = {
                    name: tuple(file.get_slice(name).get_shape())
                    for name in file.keys()  # noqa: SIM118
                }
        except (SafetensorError, OSError) as error:
            raise PicJaxError(f'{path}: cannot be read ({error})') from error

    def read(self, name: str, shape: tuple[int, ...]) -> jax.Array:
        return jnp.asarray(self._read(name, shape))

    def layers(self, name: str, count: int, shape: tuple[int, ...]) -> np.ndarray:
        """[count, *shape]; {} of the name is the layer."""
        if name.format(count) in self.shapes:
            raise PicJaxError(f'{self.path}: {name.format(count)} is left over, expected {count} layers')
        return np.stack([self._read(name.format(i), shape) for i in range(count)])

    def _read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if self.shapes.get(name) != shape:
            raise PicJaxError(f'{self.path}: {name} has shape {self.shapes.get(name)}, expected {shape}')
        with safe_open(self.path, 'np') as file:
            check_dtype(self.path, name, file.get_slice(name).get_dtype())
            tensor = file.get_tensor(name)
        check_finite(self.path, name, tensor)
        return tensor.astype(np.float32)
