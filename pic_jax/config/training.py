"""How a compressor is trained: losses, optimizer, loop, devices."""

import dataclasses
import math

from pic_jax.config.checks import one_of, require

OPTIMIZERS = ('adamw', 'muon')
SCHEDULES = ('constant', 'cosine')


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the losses; 0 leaves one out.

    Attributes:
      ae: autoencoding, the context itself after the [AE] vector.
      lm: the continuation after the [LM] vector.
      ft: the answer after the [FT] vector and the prompt.
      distill: KL divergence to the same frozen model reading the full context, on the targets of lm and ft.
      words: squared distance of every memory vector to a mixture of the word embeddings of its own tokens. Alone it
        is a cheap first stage: the decoder reads no memory.
    """

    ae: float = 0.0
    lm: float = 1.0
    ft: float = 0.0
    distill: float = 0.0
    words: float = 0.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            weight = getattr(self, field.name)
            require(0 <= weight < math.inf, f'objective.{field.name}', weight, 'a finite weight of at least 0')
        require(
            bool(self.names or self.words), 'objective', self.names, 'a positive weight for one of ae, lm, ft, words'
        )
        if self.distill:
            require(self.lm + self.ft > 0, 'objective.distill', self.distill, '0 unless lm or ft has a weight')

    @property
    def names(self) -> tuple[str, ...]:
        """The objectives that have targets of their own, in a fixed order."""
        return tuple(name for name in ('ae', 'lm', 'ft') if getattr(self, name) > 0)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Global-norm clipping, then `adamw`, or `muon` for the layers' matrices: kernels, or an adapter's factors.

    The learning rate warms up linearly, then stays or decays to 0.
    """

    name: str = 'adamw'
    learning_rate: float = 1e-3
    schedule: str = 'cosine'
    warmup_steps: int = 20
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    clip_norm: float = 1.0

    def __post_init__(self):
        one_of('optimizer.name', self.name, OPTIMIZERS)
        one_of('optimizer.schedule', self.schedule, SCHEDULES)
        for name in ('learning_rate', 'clip_norm'):
            value = getattr(self, name)
            require(0 < value < math.inf, f'optimizer.{name}', value, 'a finite positive number')
        for name in ('warmup_steps', 'weight_decay'):
            require(0 <= getattr(self, name) < math.inf, f'optimizer.{name}', getattr(self, name), 'at least 0, finite')
        for name in ('b1', 'b2'):
            require(0 <= getattr(self, name) < 1, f'optimizer.{name}', getattr(self, name), '0 to below 1')


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The loop. A step is one optimizer update over `batch_size` examples in `microbatches` equal parts.

    Attributes:
      log_every, eval_every, checkpoint_every: in steps. eval_examples: of a validation.
      keep_checkpoints: how many of the newest are kept. best_metric: a field of the validation records; the checkpoint
        that is best by it is kept besides ('' for none).
      stall_timeout_s: seconds after which a step that does not end counts as a host that is gone.
      max_skipped_steps: how many updates of a run may be left out because loss or gradient are not finite; one more
        ends it. A left-out update changes neither weights nor the optimizer's state, its schedule included.
    """

    steps: int = 300
    batch_size: int = 16
    microbatches: int = 1
    log_every: int = 10
    eval_every: int = 100
    eval_examples: int = 64
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    best_metric: str = 'loss'
    stall_timeout_s: int = 1800
    max_skipped_steps: int = 0

    def __post_init__(self):
        require(self.max_skipped_steps >= 0, 'train.max_skipped_steps', self.max_skipped_steps, 'at least 0')
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ('best_metric', 'max_skipped_steps'):
                require(value >= 1, f'train.{field.name}', value, 'a positive number')
        require(
            self.batch_size % self.microbatches == 0, 'train.microbatches', self.microbatches,
            f'a divisor of train.batch_size={self.batch_size}',
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How devices share the work; the sizes multiply to their number, and one of them may be -1, the rest.

    Attributes:
      data: copies of everything, each with its own rows of a batch.
      fsdp: rows of a batch too, but parameters and optimizer state are split and gathered layer by layer.
      tensor: heads, the inner dimension of MLPs and the vocabulary are split.
      context: chunks or windows of one context; only for layouts where nothing crosses them.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    context: int = 1

    def __post_init__(self):
        sizes = dataclasses.asdict(self)
        for name, size in sizes.items():
            require(size >= 1 or size == -1, f'mesh.{name}', size, 'a positive number, or -1 for the rest')
        free = [name for name, size in sizes.items() if size == -1]
        require(len(free) <= 1, f'mesh.{(free or [""])[-1]}', -1, f'a positive number, as mesh.{(free or [""])[0]}=-1')
