"""Hugging Face folders of Llama and its kin in, without torch: config.json and safetensors become a plain tree.

Conversion is transpose and stack only (half-split RoPE and unscaled queries are kept), so it inverts exactly.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, which safetensors needs)
import numpy as np
from safetensors.numpy import save_file

from pic_jax.config import DecoderConfig, RopeConfig
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.files import read_json, replacing, write_text
from pic_jax.models.decoder import Params
from pic_jax.models.hf_files import open_file, tensor_files
from pic_jax.tensors import check_dtype, check_finite

_LLAMA3_KEYS = ('factor', 'low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings')
_LARGEST = float(np.finfo(np.float32).max)  # JSON has larger numbers, and infinity


class Family(NamedTuple):
    """What transformers' classes of one model_type do that config.json does not say.

    architecture: the class. bias_keys: whether config.json has attention_bias (and mlp_bias). qkv_bias, qk_norm: as in
    DecoderConfig. window_key: the switch without which sliding_window means nothing. head_dim, sliding_window: where
    config.json does not say.
    """

    architecture: str
    bias_keys: tuple[str, ...] = ()
    qkv_bias: bool = False
    qk_norm: bool = False
    window_key: str = ''
    head_dim: int | None = None
    sliding_window: int | None = None


FAMILIES = {
    'llama': Family('LlamaForCausalLM', bias_keys=('attention_bias', 'mlp_bias')),
    'mistral': Family('MistralForCausalLM', sliding_window=4096),
    'qwen2': Family('Qwen2ForCausalLM', qkv_bias=True, window_key='use_sliding_window', sliding_window=4096),
    'qwen3': Family(
        'Qwen3ForCausalLM',
        bias_keys=('attention_bias',),
        qk_norm=True,
        window_key='use_sliding_window',
        head_dim=128,
        sliding_window=4096,
    ),
}


class Tensor(NamedTuple):
    """One parameter: its path in our tree, its HF name ({} is the layer), and whether HF stores it [out, in]."""

    path: tuple[str, ...]
    name: str
    transposed: bool


def tensors(config: DecoderConfig) -> list[Tensor]:
    """Every parameter of the decoder, and what HF calls it."""
    table = [Tensor(('embed_tokens', 'embedding'), 'model.embed_tokens.weight', False)]
    for group, names, bias in (
        ('self_attn', ('q_proj', 'k_proj', 'v_proj'), config.attention_bias or config.qkv_bias),
        ('self_attn', ('o_proj',), config.attention_bias),
        ('mlp', ('gate_proj', 'up_proj', 'down_proj'), config.mlp_bias),
    ):
        for name in names:
            hf_name = f'model.layers.{{}}.{group}.{name}'
            table.append(Tensor(('layers', group, name, 'kernel'), f'{hf_name}.weight', True))
            if bias:
                table.append(Tensor(('layers', group, name, 'bias'), f'{hf_name}.bias', False))
    for path in (
        ('input_layernorm',), ('post_attention_layernorm',),
        *([('self_attn', 'q_norm'), ('self_attn', 'k_norm')] if config.qk_norm else []),
    ):  # fmt: skip
        table.append(Tensor(('layers', *path, 'weight'), f'model.layers.{{}}.{".".join(path)}.weight', False))
    table.append(Tensor(('norm', 'weight'), 'model.norm.weight', False))
    if not config.tie_word_embeddings:
        table.append(Tensor(('lm_head', 'kernel'), 'lm_head.weight', True))
    return table


class _Fields(NamedTuple):
    """What a config.json says; every refusal names the file."""

    path: Path
    values: dict[str, Any]

    def need(self, key: str) -> Any:
        if key not in self.values:
            raise PicJaxError(f'{self.path}: key {key} is missing')
        return self.values[key]

    def refuse_unless(self, key: str, value: Any, valid: tuple[Any, ...]) -> None:
        if value not in valid:
            shown = ', '.join(map(str, valid))
            raise PicJaxError(f'{self.path}: {key}={value!r} is not supported (supported: {shown})')

    def number(self, key: str, kind: type[int] | type[float], default: Any = None) -> Any:
        value = self.values[key] if self.values.get(key) is not None else default
        if value is None:
            self.need(key)
        if not isinstance(value, (kind, int)) or isinstance(value, bool) or not 0 < value < _LARGEST:
            raise PicJaxError(f'{self.path}: {key}={value!r} is not valid: expected a positive {kind.__name__}')
        return value

    def flag(self, key: str) -> bool:
        value = self.values.get(key, False)
        if not isinstance(value, bool):  # 0 and 1 equal False and True
            raise PicJaxError(f'{self.path}: {key}={value!r} is not valid: expected true or false')
        return value


def read_config(folder: str | Path) -> DecoderConfig:
    """Reads config.json of a model of FAMILIES, with old (rope_theta, rope_scaling) or new (rope_parameters) keys.

    Attention here is over all earlier positions: a model with a sliding window is one of that many positions.

    Raises:
      PicJaxError: the file is missing or not JSON, a key is missing, or the model needs what this decoder
        does not compute (another model_type, rope type or activation, quantised weights).
    """
    path = Path(folder) / 'config.json'
    fields = _Fields(path, read_json(path))
    fields.refuse_unless('model_type', fields.need('model_type'), tuple(FAMILIES))
    values, family = fields.values, FAMILIES[fields.values['model_type']]
    fields.refuse_unless('hidden_act', values.get('hidden_act', 'silu'), ('silu',))
    fields.refuse_unless('quantization_config', values.get('quantization_config'), (None,))
    heads, hidden = fields.number('num_attention_heads', int), fields.number('hidden_size', int)
    try:
        return DecoderConfig(
            vocab_size=fields.number('vocab_size', int),
            hidden_size=hidden,
            intermediate_size=fields.number('intermediate_size', int),
            num_hidden_layers=fields.number('num_hidden_layers', int),
            num_attention_heads=heads,
            num_key_value_heads=fields.number('num_key_value_heads', int, heads),
            head_dim=fields.number('head_dim', int, family.head_dim or hidden // heads),
            max_position_embeddings=_read_positions(fields, family),
            rms_norm_eps=fields.number('rms_norm_eps', float) if 'rms_norm_eps' in values else 1e-6,
            rope=_read_rope(fields),
            tie_word_embeddings=fields.flag('tie_word_embeddings'),
            **{key: fields.flag(key) for key in family.bias_keys},
            qkv_bias=family.qkv_bias,
            qk_norm=family.qk_norm,
            model_type=values['model_type'],
            bos_token_id=_read_bos(path, values),
            eos_token_ids=_read_eos(Path(folder), values),
        )
    except ConfigError as error:
        raise PicJaxError(f'{path}: {error}') from error


def _read_positions(fields: _Fields, family: Family) -> int:
    available = fields.number('max_position_embeddings', int)
    slides = fields.values.get('sliding_window', family.sliding_window) is not None
    slides = slides and (not family.window_key or fields.flag(family.window_key))
    return min(available, fields.number('sliding_window', int, family.sliding_window)) if slides else available


def _read_bos(path: Path, values: dict[str, Any]) -> int | None:
    bos = values.get('bos_token_id')
    if bos is not None and not _is_token(bos, values['vocab_size']):
        raise PicJaxError(f'{path}: bos_token_id={bos!r} is not valid: expected an id below {values["vocab_size"]}')
    return bos


def _read_eos(folder: Path, values: dict[str, Any]) -> tuple[int, ...]:
    """End tokens: those of generation_config.json where there is one, as `generate` in transformers takes them."""
    path = folder / 'generation_config.json'
    generation = read_json(path) if path.is_file() else {}
    path = path if 'eos_token_id' in generation else folder / 'config.json'
    eos = generation.get('eos_token_id', values.get('eos_token_id'))
    ids = [] if eos is None else eos if isinstance(eos, list) else [eos]
    if not all(_is_token(token, values['vocab_size']) for token in ids):
        raise PicJaxError(f'{path}: eos_token_id={eos!r} is not valid: expected ids below {values["vocab_size"]}')
    return tuple(ids)


def _is_token(value: Any, vocab_size: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocab_size


def _read_rope(fields: _Fields) -> RopeConfig:
    path, values = fields
    rope = values.get('rope_parameters') or values.get('rope_scaling') or {}
    if not isinstance(rope, dict):
        raise PicJaxError(f'{path}: rope_scaling={rope!r} is not valid: expected a JSON object')
    kind = rope.get('rope_type', rope.get('type', 'default'))
    fields.refuse_unless('rope_type', kind, ('default', 'llama3'))
    theta = rope.get('rope_theta', values.get('rope_theta'))
    theta = 10000.0 if theta is None else theta
    numbers = {'rope_theta': theta} | {key: rope[key] for key in _LLAMA3_KEYS if key in rope}
    for key, value in numbers.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _LARGEST:
            raise PicJaxError(f'{path}: {key}={value!r} is not valid: expected a positive number')
    theta = float(theta)
    if kind == 'default':
        return RopeConfig(theta=theta)
    missing = [key for key in _LLAMA3_KEYS if key not in rope]
    if missing:
        raise PicJaxError(f'{path}: llama3 rope lacks {", ".join(missing)}')
    low, high = rope['low_freq_factor'], rope['high_freq_factor']
    if low >= high:  # what lies between is a share of their difference
        raise PicJaxError(
            f'{path}: low_freq_factor={low!r} is not valid: expected a number below high_freq_factor={high}'
        )
    return RopeConfig(theta=theta, type='llama3', **{key: rope[key] for key in _LLAMA3_KEYS})


class Weights(NamedTuple):
    """A checkpoint whose tensors are all there and have the right shapes; nothing is read yet.

    config: of the decoder. paths, files: HF tensor name -> its file, and the same open.
    """

    config: DecoderConfig
    paths: dict[str, Path]
    files: dict[str, Any]

    def read(self, tensor: Tensor, index: tuple[slice, ...], dtype: Any = None) -> np.ndarray:
        """A part of a parameter in our layout (layers stacked on axis 0); only its own bytes are read.

        Args:
          index: a slice for every dimension of the parameter.
          dtype: of the result; None keeps the file's.

        Raises:
          PicJaxError: that part holds a number that is not finite.
        """
        if '{}' not in tensor.name:
            return np.ascontiguousarray(self._slice(tensor.name, tensor.transposed, index, dtype))
        layers = range(*index[0].indices(self.config.num_hidden_layers))
        first = self._slice(tensor.name.format(layers[0]), tensor.transposed, index[1:], dtype)
        stacked = np.empty((len(layers), *first.shape), first.dtype)  # filled layer by layer: no second copy of all
        stacked[0] = first
        for place, layer in enumerate(layers[1:], 1):
            stacked[place] = self._slice(tensor.name.format(layer), tensor.transposed, index[1:], dtype)
        return stacked

    def _slice(self, name: str, transposed: bool, index: tuple[slice, ...], dtype: Any) -> np.ndarray:
        stored = self.files[name].get_slice(name)
        part = stored[index[::-1] if transposed else index]
        check_finite(self.paths[name], name, part)
        part = part.T if transposed else part
        return part if dtype is None else part.astype(dtype)


def open_weights(folder: str | Path, config: DecoderConfig) -> Weights:
    """Opens model.safetensors, or the shards that model.safetensors.index.json names.

    Raises:
      PicJaxError: a file or tensor is missing, left over or misshaped, every such name is listed; or is not of
        `tensors.FLOATS`.
    """
    folder = Path(folder)
    files = tensor_files(folder)
    if config.num_hidden_layers > len(files):  # before so many names are made
        raise PicJaxError(
            f'{folder}: num_hidden_layers={config.num_hidden_layers} does not fit: the checkpoint has '
            f'{len(files)} tensors'
        )
    expected = _expected_shapes(config)
    # A tied head may still be on disk; so may RoPE buffers of old checkpoints.
    ignored = {name for name in files if name.endswith('rotary_emb.inv_freq')}
    ignored |= {'lm_head.weight'} if config.tie_word_embeddings else set()
    handles = {file: open_file(file) for file in sorted(set(files.values()))}
    held = {file: set(handle.keys()) for file, handle in handles.items()}
    present = {name for name, file in files.items() if name in held[file]}
    problems = [f'missing {name}' for name in expected if name not in present]
    problems += [f'unexpected {name}' for name in files if name not in expected and name not in ignored]
    for name in expected.keys() & present:
        stored = handles[files[name]].get_slice(name)
        check_dtype(files[name], name, stored.get_dtype())
        shape = tuple(stored.get_shape())
        if shape != expected[name]:
            problems.append(f'{name} has shape {shape} instead of {expected[name]}')
    if problems:
        raise PicJaxError(f'{folder}: tensors do not fit config.json: ' + '; '.join(sorted(problems)))
    return Weights(config, files, {name: handles[files[name]] for name in expected})


def build_params(config: DecoderConfig, make: Callable[[Tensor, tuple[int, ...]], Any]) -> Params:
    """The nested dict that `Decoder.apply` takes; layers are stacked on axis 0.

    Args:
      make: what a parameter of that shape shall be.
    """
    params: Params = {}
    for tensor in tensors(config):
        shape = _shape(config, tensor)
        shape = shape[::-1] if tensor.transposed else shape
        stacked = (config.num_hidden_layers,) if '{}' in tensor.name else ()
        node = params
        for key in tensor.path[:-1]:
            node = node.setdefault(key, {})
        node[tensor.path[-1]] = make(tensor, stacked + shape)
    return params


def load_params(folder: str | Path, config: DecoderConfig, dtype: Any = None) -> Params:
    """All parameters as numpy arrays.

    Args:
      dtype: of the result; None keeps the file's.

    Raises:
      PicJaxError: as `open_weights`.
    """
    weights = open_weights(folder, config)
    return build_params(config, lambda tensor, shape: weights.read(tensor, (slice(None),) * len(shape), dtype))


def to_hf(params: Params, config: DecoderConfig) -> dict[str, np.ndarray]:
    """The inverse of `load_params`: HF tensor names to arrays, bit for bit."""
    state: dict[str, np.ndarray] = {}
    for path, name, transposed in tensors(config):
        leaf: Any = params
        for key in path:
            leaf = leaf[key]
        leaf = np.asarray(leaf)
        layers = [(name.format(i), leaf[i]) for i in range(len(leaf))] if '{}' in name else [(name, leaf)]
        state |= {key: np.ascontiguousarray(value.T if transposed else value) for key, value in layers}
    return state


def write_model(folder: str | Path, params: Params, config: DecoderConfig, dtype: Any) -> None:
    """Writes config.json and model.safetensors that `transformers` loads as a model of the same family."""
    rope = {'rope_theta': config.rope.theta, 'rope_type': config.rope.type}
    if config.rope.type == 'llama3':
        rope |= {key: getattr(config.rope, key) for key in _LLAMA3_KEYS}
    same = ('vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads',
            'num_key_value_heads', 'head_dim', 'max_position_embeddings', 'rms_norm_eps', 'tie_word_embeddings',
            'model_type', 'bos_token_id')  # fmt: skip
    family = FAMILIES[config.model_type]
    values: dict[str, Any] = {'architectures': [family.architecture], 'hidden_act': 'silu', 'sliding_window': None}
    values |= {key: getattr(config, key) for key in (*same, *family.bias_keys)}
    values |= {'eos_token_id': list(config.eos_token_ids), 'rope_parameters': rope, 'dtype': np.dtype(dtype).name}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, params, config, dtype)
    write_text(folder / 'config.json', json.dumps(values, indent=2) + '\n')


def write_tensors(folder: str | Path, params: Params, config: DecoderConfig, dtype: Any = None) -> None:
    """Writes model.safetensors.

    Args:
      dtype: of the file; None keeps that of each parameter.
    """
    state = {name: tensor if dtype is None else tensor.astype(dtype) for name, tensor in to_hf(params, config).items()}
    with replacing(Path(folder) / 'model.safetensors') as temporary:
        save_file(state, temporary, metadata={'format': 'pt'})


def _expected_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """HF's name of every tensor, layer by layer -> its shape there."""
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in tensors(config):
        layers = range(config.num_hidden_layers) if '{}' in tensor.name else range(1)
        shapes |= dict.fromkeys((tensor.name.format(layer) for layer in layers), _shape(config, tensor))
    return shapes


def _shape(config: DecoderConfig, tensor: Tensor) -> tuple[int, ...]:
    """The shape of one layer's tensor as HF stores it."""
    D, F, V = config.hidden_size, config.intermediate_size, config.vocab_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    out_in = {
        'q_proj': (queries, D), 'k_proj': (keys, D), 'v_proj': (keys, D), 'o_proj': (D, queries),
        'gate_proj': (F, D), 'up_proj': (F, D), 'down_proj': (D, F), 'lm_head': (V, D), 'embed_tokens': (V, D),
        'q_norm': (config.head_dim,), 'k_norm': (config.head_dim,),
    }  # fmt: skip
    shape = out_in.get(tensor.path[-2], (D,))
    return shape[:1] if tensor.path[-1] == 'bias' else shape
