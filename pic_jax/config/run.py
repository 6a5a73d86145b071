"""A run, whole."""

import dataclasses

from pic_jax.config.checks import one_of, require
from pic_jax.config.compressor import CompressorConfig
from pic_jax.config.data import DataConfig
from pic_jax.config.training import MeshConfig, ObjectiveConfig, OptimizerConfig, TrainConfig

DTYPES = ('float32', 'bfloat16')
REMATS = ('none', 'dots', 'full')
ATTENTIONS = ('auto', 'dense', 'structured', 'splash')
TEMPLATES = ('plain', 'llama2-chat', 'chat', 'none')


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One run, whole. Written to the workdir as config.json, the only thing restore and export read.

    Attributes:
      seed: of initialisation, data order and sampling.
      start: workdir of a run whose compressor this one goes on training (pretraining, then fine-tuning); ''
        is fresh.
      base: folder of the frozen target in HF format (`$NAME` at its start is an environment variable),
        `hub:owner/name[@revision]`, or `tiny_base`, the small model in the package.
      dtype: compute dtype; trained parameters and optimizer state stay float32.
      remat: what the backward pass computes again, layer by layer: `none` | `dots` (all but products with matrices) |
        `full` (all but the layer's input). Less memory, more time, in this order.
      attention: how it is computed, which changes no result: `dense` (a boolean array) | `structured` (in blocks) |
        `splash` (JAX's TPU kernel) | `auto`, the fastest for the devices and lengths.
      decoder_prefix: token ids that stand before the memory (and before every control's text); None means
        the target's BOS, where it has one and the template does not begin with it.
      prompt_template: plain | llama2-chat | chat (the tokenizer's own template) | none.
      mesh: how devices share the work.
    """

    base: str = ''
    start: str = ''
    seed: int = 0
    dtype: str = 'float32'
    remat: str = 'none'
    attention: str = 'auto'
    decoder_prefix: tuple[int, ...] | None = None
    prompt_template: str = 'plain'
    compressor: CompressorConfig = dataclasses.field(default_factory=lambda: CompressorConfig.preset('pic'))
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

    def __post_init__(self):
        require(0 <= self.seed < 2**32, 'seed', self.seed, f'0 to {2**32 - 1}')
        one_of('dtype', self.dtype, DTYPES)
        one_of('remat', self.remat, REMATS)
        one_of('attention', self.attention, ATTENTIONS)
        one_of('prompt_template', self.prompt_template, TEMPLATES)
        compressor = self.compressor
        if self.objective.words:
            require(compressor.method != 'kv500x', 'objective.words', self.objective.words,
                     '0 for compressor.method=kv500x, which gives keys and values, not vectors')  # fmt: skip
        if self.objective.words and compressor.window is not None:
            # Slot j of the targets is tokens j r .. (j + 1) r - 1, also where a window starts.
            fits = compressor.window % compressor.ratio == 0 and compressor.window_split == 'fixed'
            valid = f"a multiple of compressor.ratio={compressor.ratio} with window_split='fixed' for objective.words"
            require(fits, 'compressor.window', compressor.window, valid)
