"""All settings as frozen dataclasses.

Configuration files build an `ml_collections.ConfigDict` (`default_config()`); the command line turns it
at once into a `RunConfig` (`from_mapping`), and nothing behind that edge sees a ConfigDict. Every check
names the key, the value and what would be valid. This module imports no jax.

One module per group of settings; import them from here.
"""

from pic_jax.config.compressor import (
    CONTEXT_SEES,
    DECODER_POSITIONS,
    ENCODER_ATTENTIONS,
    LINEARS,
    MEMORY_EMBEDDINGS,
    MEMORY_SEES_MEMORY,
    POSITION_ORIGINS,
    POSITIONS,
    PROJECTORS,
    WINDOW_SPLITS,
    CompressorConfig,
    IcformerConfig,
    LoraConfig,
)
from pic_jax.config.data import CorpusConfig, DataConfig
from pic_jax.config.decoder import DecoderConfig, RopeConfig
from pic_jax.config.files import default_config, default_pretrain_config, grid
from pic_jax.config.mapping import from_mapping, to_mapping, unknown_key
from pic_jax.config.presets import PRESET_OPTIONS, PRESETS
from pic_jax.config.pretraining import PretrainConfig, RowsConfig
from pic_jax.config.run import ATTENTIONS, DTYPES, REMATS, TEMPLATES, RunConfig
from pic_jax.config.training import (
    OPTIMIZERS,
    SCHEDULES,
    MeshConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TrainConfig,
)

__all__ = [
    'ATTENTIONS',
    'CONTEXT_SEES',
    'DECODER_POSITIONS',
    'DTYPES',
    'ENCODER_ATTENTIONS',
    'LINEARS',
    'MEMORY_EMBEDDINGS',
    'MEMORY_SEES_MEMORY',
    'OPTIMIZERS',
    'POSITIONS',
    'POSITION_ORIGINS',
    'PRESETS',
    'PRESET_OPTIONS',
    'PROJECTORS',
    'REMATS',
    'SCHEDULES',
    'TEMPLATES',
    'WINDOW_SPLITS',
    'CompressorConfig',
    'CorpusConfig',
    'DataConfig',
    'DecoderConfig',
    'IcformerConfig',
    'LoraConfig',
    'MeshConfig',
    'ObjectiveConfig',
    'OptimizerConfig',
    'PretrainConfig',
    'RopeConfig',
    'RowsConfig',
    'RunConfig',
    'TrainConfig',
    'default_config',
    'default_pretrain_config',
    'from_mapping',
    'grid',
    'to_mapping',
    'unknown_key',
]
