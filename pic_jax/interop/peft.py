"""The encoder's adapter as PEFT stores one: a folder that `PeftModel.from_pretrained` loads."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from pic_jax.config import LoraConfig
from pic_jax.errors import PicJaxError
from pic_jax.files import read_json, replacing, write_text
from pic_jax.models.hf_files import inside
from pic_jax.tensors import read_tensors

CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'
# What makes PEFT compute something else from the same tensors.
_OTHER_LORA = (
    'alora_invocation_tokens', 'alpha_pattern', 'arrow_config', 'exclude_modules', 'fan_in_fan_out', 'kasa_config',
    'layer_replication', 'layers_pattern', 'layers_to_transform', 'lora_bias', 'modules_to_save', 'monteclora_config',
    'rank_pattern', 'target_parameters', 'trainable_token_indices', 'use_bdlora', 'use_dora', 'use_qalora',
    'use_rslora', 'velora_config',
)  # fmt: skip
# PEFT's names for an adapter of AutoModelForCausalLM; the adapter's own name is left out on disk.
_NAME = 'base_model.model.model.layers.{}.{}.{}.{}.weight'


def write_adapter(folder: Path, lora: dict[str, Any], config: LoraConfig, base: str, revision: str | None) -> None:
    """Writes adapter_config.json and adapter_model.safetensors (float32, [R, in] and [out, R] as PEFT has them).

    Args:
      lora: as `models.lora.init_lora` makes it, not empty.
      base, revision: what `base_model_name_or_path` and `revision` shall say.
    """
    alpha = int(config.alpha) if config.alpha == int(config.alpha) else config.alpha  # an integer in PEFT's own files
    values = {
        'peft_type': 'LORA', 'task_type': 'CAUSAL_LM', 'base_model_name_or_path': base, 'revision': revision,
        'r': config.rank, 'lora_alpha': alpha, 'lora_dropout': 0.0, 'target_modules': _targets(lora), 'bias': 'none',
        'fan_in_fan_out': False, 'inference_mode': True,
    }  # fmt: skip
    tensors = {name: np.ascontiguousarray(value.T) for name, value in _named(lora).items()}
    write_text(folder / CONFIG, json.dumps(values, indent=2) + '\n')
    with replacing(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, {'format': 'pt'})


def read_adapter(folder: Path, like: dict[str, Any], config: LoraConfig) -> dict[str, Any]:
    """The adapter of a folder, in a tree of the shapes of `like` (arrays or abstract), float32.

    Raises:
      PicJaxError: rank, alpha or targets differ from the settings, or a tensor is missing, left over or misshaped.
    """
    values = read_json(folder / CONFIG)
    wanted = {'peft_type': 'LORA', 'r': config.rank, 'lora_alpha': config.alpha}
    for key, value in wanted.items():
        if values.get(key) != value:
            raise PicJaxError(f'{folder / CONFIG}: {key} is {values.get(key)!r}, expected {value!r}')
    targets = values.get('target_modules')
    if not isinstance(targets, list) or sorted(map(str, targets)) != _targets(like):  # PEFT takes a pattern, too
        raise PicJaxError(f'{folder / CONFIG}: target_modules is {targets!r}, expected {_targets(like)!r}')
    for key in _OTHER_LORA:
        if values.get(key):
            raise PicJaxError(f'{folder / CONFIG}: {key} is {values[key]!r}, expected none: the adapter is plain LoRA')
    if (how := values.get('init_lora_weights', True)) and how is not True:  # some change the frozen weights
        raise PicJaxError(f'{folder / CONFIG}: init_lora_weights is {how!r}, expected true: the adapter is plain LoRA')
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), like)
    shapes = {name: leaf.shape[::-1] for name, leaf in _named(empty).items()}
    tensors = {name: tensor.T for name, tensor in read_tensors(inside(folder.parent, folder / WEIGHTS), shapes).items()}
    return {
        'layers': {
            group: {
                name: {
                    part: jnp.asarray(
                        np.stack([tensors[_NAME.format(i, group, name, part)] for i in range(len(leaf))]), jnp.float32
                    )
                    for part, leaf in parts.items()
                }
                for name, parts in names.items()
            }
            for group, names in like['layers'].items()
        }
    }


def _targets(lora: dict[str, Any]) -> list[str]:
    return sorted({name for group in lora['layers'].values() for name in group})


def _named(lora: dict[str, Any]) -> dict[str, np.ndarray]:
    """PEFT's name -> the part of one layer, as this package has it ([in, R] or [R, out])."""
    return {
        _NAME.format(i, group, name, part): layer
        for group, names in lora['layers'].items()
        for name, parts in names.items()
        for part, leaf in parts.items()
        for i, layer in enumerate(np.asarray(leaf, np.float32))
    }
