"""Settings that the configuration files of the Llama models share: PIC, ICAE and IC-Former, stage by stage.

What the papers and their code say, and what was taken from where:

| | PIC | ICAE | IC-Former |
|---|---|---|---|
| paper | 2602.13980: FineWeb, 3B tokens, then SQuAD and GSM8K | 2307.06945 | 2406.13618 |
| the rest from | PCC (ACL 2025, long.1394), which has the same data | EPL's baseline (2409.14364) | the paper |
| window and vectors | 512 tokens at 4, 16 or 64x | 512 tokens in 128 | 512 tokens in 128 |
| encoder | LoRA 64, alpha 32, all linears | LoRA 128, alpha 32, q and v | 3 layers of cross-attention |
| pretraining | reconstruction and continuation | both | reconstruction |
| rate, clipping | 1e-4 cosine, 0.5 | 1e-4 constant, 2.0 | 1e-4 constant, 2.0 |
| rate of the answers | SQuAD 5e-5, GSM8K 1e-5 | 5e-5 | 5e-5 |

All three read FineWeb (ICAE and IC-Former had the Pile) in batches of 256. AdamW's betas and weight decay are EPL's. Of
PIC's chunks nothing is known here: 64 tokens, or four vectors where that is more, is our choice.
"""

from typing import Any, NamedTuple

from pic_jax.config import LINEARS, default_config

FINEWEB_TOKENS = 3_000_000_000
CONTEXT, CONTINUATION = 512, 256
STAGES = ('pretrain', 'squad', 'gsm8k')


class Slice(NamedTuple):
    """Devices, as a mesh (data x fsdp), and the examples that each takes at once of a model of up to 8B."""

    data: int
    fsdp: int
    examples: int


# By the accelerator's own name: v5p counts TensorCores, so that a v5p-64 has 32 devices.
MESHES = {
    'v5e-16': Slice(data=1, fsdp=16, examples=4),
    'v5e-256': Slice(data=16, fsdp=16, examples=1),
    'v5p-64': Slice(data=1, fsdp=32, examples=8),
    'v6e-8': Slice(data=1, fsdp=8, examples=4),
    '8xH100': Slice(data=1, fsdp=8, examples=8),
}


class Size(NamedTuple):
    """What depends on the size of a model: how many devices split its matrices, and which slice it needs."""

    tensor: int = 1
    mesh: str = 'v5e-16'


UP_TO_8B, AROUND_70B = Size(), Size(tensor=4, mesh='v5p-64')


def pic(base: str, argument: str, ratios: tuple[int, ...] = (16, 4, 64), size: Size = UP_TO_8B) -> Any:
    """A ConfigDict of PIC on a model of the Hub.

    Args:
      base: id of the model. argument: words after the file's name, as `choices` reads them.
      ratios: those to choose from; the first is the default.
    """
    ratio, mesh, stage = choices(argument, ratios, size.mesh)
    config = _staged(base, stage)
    config.compressor.method = 'pic'
    config.compressor.ratio = ratio
    config.compressor.chunk_size = max(64, 4 * ratio)
    config.compressor.lora.rank = 64
    config.compressor.lora.alpha = 32.0
    config.compressor.lora.targets = LINEARS
    config.optimizer.clip_norm = 0.5
    if stage == 'gsm8k':
        config.optimizer.learning_rate = 1e-5
    return _placed(config, mesh, size, stage)


def icae(base: str, argument: str, size: Size = UP_TO_8B) -> Any:
    """As `pic`, for ICAE; longer contexts than its 512 tokens are cut into even windows, as its second version does."""
    ratio, mesh, stage = choices(argument, (4, 16, 64), size.mesh)
    config = _windowed(_staged(base, stage), 'icae', ratio)
    config.compressor.lora.rank = 128
    config.compressor.lora.alpha = 32.0
    config.compressor.lora.targets = ('q_proj', 'v_proj')
    return _placed(config, mesh, size, stage)


def icformer(base: str, argument: str, size: Size = UP_TO_8B) -> Any:
    """As `icae`, for IC-Former: 9.3k steps of reconstruction.

    The paper's 16 examples a step would be 0.15M texts; 256 are the 2.3M that it says were read.
    """
    ratio, mesh, stage = choices(argument, (4, 16, 64), size.mesh)
    config = _windowed(_staged(base, stage), 'icformer', ratio)
    config.optimizer.warmup_steps = 0
    if stage == 'pretrain':
        config.objective.ae, config.objective.lm = 1.0, 0.0
        config.train.steps = 9300
    return _placed(config, mesh, size, stage)


def choices(argument: str, ratios: tuple[int, ...], mesh: str) -> tuple[int, str, str]:
    """Ratio, mesh and stage, from words with commas between them, in any order; what is not named has its default.

    Raises:
      ValueError: a word is none of them.
    """
    ratio, stage = ratios[0], STAGES[0]
    for word in filter(None, argument.split(',')):
        if word in map(str, ratios):
            ratio = int(word)
        elif word in MESHES:
            mesh = word
        elif word in STAGES:
            stage = word
        else:
            valid = ', '.join([*map(str, ratios), *MESHES, *STAGES])
            raise ValueError(f'{word!r} is not valid after the name of the file: expected words out of {valid}')
    return ratio, mesh, stage


def _staged(base: str, stage: str) -> Any:
    """Model, data, objective and the common part of the optimizer."""
    config = default_config()
    config.base = f'hub:{base}'
    config.dtype = 'bfloat16'
    config.remat = 'full'
    config.optimizer.weight_decay = 0.1
    config.train.eval_every = config.train.checkpoint_every = 500
    config.train.eval_examples = 256
    if stage == 'pretrain':
        _on_fineweb(config)
    else:
        _on_questions(config, stage)
    return config


def _on_fineweb(config: Any) -> None:
    config.data.source = 'arrayrecord:$FINEWEB'
    config.data.validation = config.data.test = 1000
    config.data.context_length = config.compressor.context_length = CONTEXT
    config.data.target_length = CONTINUATION
    config.data.min_context = 128
    config.objective.ae = config.objective.lm = 0.5
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 300
    config.train.batch_size = 256
    config.train.steps = FINEWEB_TOKENS // (256 * (CONTEXT + CONTINUATION))


def _on_questions(config: Any, stage: str) -> None:
    """Three passes, as PCC has them, over SQuAD, or over GSM8K with four solved problems as the context."""
    config.data.context_length = config.compressor.context_length = 2048
    config.objective.lm, config.objective.ft = 0.0, 1.0
    config.optimizer.learning_rate = 5e-5
    config.optimizer.warmup_steps = 100
    if stage == 'squad':
        config.data.source = 'hub:rajpurkar/squad'
        config.data.validation = config.data.test = 20  # articles, of 442
        config.data.buckets = (256, 512, 1024, 2048)
        config.data.answer_length = 256
        config.train.batch_size = 128
        config.train.steps = 3 * 87_599 // 128
    else:
        config.data.source = 'hub:openai/gsm8k:main'
        config.data.validation = config.data.test = 40  # blocks of eight problems, of 935
        config.data.buckets = (1024, 2048)
        config.data.answer_length = 768
        config.train.batch_size = 32
        config.train.steps = 3 * 7_473 // 32


def _windowed(config: Any, method: str, ratio: int) -> Any:
    """A method that reads windows of 512 tokens whole, with the optimizer that ICAE and IC-Former share."""
    config.compressor.method = method
    config.compressor.ratio = ratio
    config.compressor.window = CONTEXT
    config.compressor.window_split = 'even'
    config.optimizer.schedule = 'constant'
    config.optimizer.clip_norm = 2.0
    return config


def _placed(config: Any, mesh: str, size: Size, stage: str) -> Any:
    """The mesh, and microbatches that fit it. A batch has at least one example for every row of the mesh."""
    data, fsdp, examples = MESHES[mesh]
    if data >= size.tensor:
        data //= size.tensor
    else:
        fsdp //= size.tensor
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor, config.mesh.context = data, fsdp, size.tensor, 1
    if size.tensor > 1 or stage != 'pretrain':  # four times the activations: wider layers, or longer contexts
        examples = max(1, examples // 4)
    rows = data * fsdp
    batch = max(config.train.batch_size, rows)
    config.train.steps = -(-config.train.steps * config.train.batch_size // batch)
    config.train.batch_size = batch
    config.train.microbatches = max(1, batch // (rows * examples))
    return config
