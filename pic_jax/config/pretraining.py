"""A stage of training a small target model."""

import dataclasses
import math

from pic_jax.config.checks import require
from pic_jax.config.data import CorpusConfig
from pic_jax.config.decoder import DecoderConfig
from pic_jax.config.training import OptimizerConfig, TrainConfig


@dataclasses.dataclass(frozen=True)
class RowsConfig:
    """What a pretraining step reads, in rows of each kind, and how the losses on them are weighted.

    Attributes:
      documents: rows of a document, then its questions with answers. repeats: a document, a marker, the document
        again. mixtures: a document repeated from mixtures of its word embeddings in the context's place; notes:
        questions answered from mixtures in which what tells a fact shares a vector and stands out.
      row_length: tokens of a document or repeat row. text_length: tokens behind the mixtures.
      mixture_slots: vectors a mixed context may take; mixture_ratios: tokens per vector, drawn per row.
      copies: rows of `copy_length` random tokens, repeated with a period of 2 to `copy_period`.
      text, answer, repeat, mixture, copy: loss weights of document and question tokens, answers, the second time of a
        document, targets behind mixtures, and repeated tokens.
    """

    documents: int = 0
    repeats: int = 0
    row_length: int = 512
    mixtures: int = 0
    notes: int = 0
    mixture_slots: int = 128
    mixture_ratios: tuple[int, ...] = (2, 4, 8, 16)
    text_length: int = 224
    copies: int = 0
    copy_length: int = 128
    copy_period: int = 64
    text: float = 1.0
    answer: float = 1.0
    repeat: float = 1.0
    mixture: float = 1.0
    copy: float = 1.0

    def __post_init__(self):
        kinds = ('documents', 'repeats', 'mixtures', 'notes', 'copies')
        for name in kinds:
            require(getattr(self, name) >= 0, f'rows.{name}', getattr(self, name), 'at least 0')
        require(any(getattr(self, name) for name in kinds), 'rows', 0, f'rows of at least one of {", ".join(kinds)}')
        require(2 <= self.copy_period <= self.copy_length // 2, 'rows.copy_period', self.copy_period,
                 f'2 to half of rows.copy_length={self.copy_length}')  # fmt: skip
        for name in ('row_length', 'mixture_slots', 'text_length'):
            require(getattr(self, name) >= 1, f'rows.{name}', getattr(self, name), 'a positive number')
        ratios = self.mixture_ratios
        require(bool(ratios) and min(ratios) >= 1, 'rows.mixture_ratios', ratios, 'at least one positive number')
        for name in ('text', 'answer', 'repeat', 'mixture', 'copy'):
            require(
                0 <= getattr(self, name) < math.inf, f'rows.{name}', getattr(self, name),
                'a finite weight of at least 0',
            )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """One stage of training a small target model on the generated corpus: language, copying, reading.

    Attributes:
      start: folder of the model (HF format, with tokenizer) that the stage goes on from; '' starts from scratch with
        the shape below, and with a byte-level BPE tokenizer of `vocab_size` that is trained on the corpus first.
      hidden_size .. max_position_embeddings: shape of the decoder (heads of hidden_size / num_attention_heads).
      bar: a field of the validation records and what it must reach for the next stage to make sense; '' is no bar.
    """

    seed: int = 0
    start: str = ''
    vocab_size: int = 2048
    hidden_size: int = 128
    intermediate_size: int = 352
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    max_position_embeddings: int = 2048
    corpus: CorpusConfig = dataclasses.field(default_factory=CorpusConfig)
    rows: RowsConfig = RowsConfig(documents=6, copies=16)
    bar: str = ''
    bar_value: float = 0.0
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(warmup_steps=10, weight_decay=0.01)
    )
    train: TrainConfig = dataclasses.field(
        default_factory=lambda: TrainConfig(steps=400, batch_size=1, eval_every=100, checkpoint_every=100)
    )

    def __post_init__(self):
        require(0 <= self.seed < 2**32, 'seed', self.seed, f'0 to {2**32 - 1}')
        for name in ('vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads',
                     'max_position_embeddings'):  # fmt: skip
            require(getattr(self, name) >= 1, name, getattr(self, name), 'a positive number')
        require(
            self.hidden_size % self.num_attention_heads == 0, 'num_attention_heads', self.num_attention_heads,
            f'a divisor of hidden_size={self.hidden_size}',
        )  # fmt: skip
        # What pretraining does not read may only stay what it is: its batches, of validation too, are those of `rows`.
        unread = {'microbatches': (1,), 'batch_size': (1, TrainConfig.batch_size),
                  'eval_examples': (TrainConfig.eval_examples,)}  # fmt: skip
        for name, valid in unread.items():
            value = getattr(self.train, name)
            require(value in valid, f'train.{name}', value, f'{valid[0]} in pretraining, whose batches rows.* make')
        rows, longest = self.rows, self.max_position_embeddings
        behind_mixtures = ('text_length',) if rows.mixtures or rows.notes else ()
        for name in ('row_length', 'copy_length', *behind_mixtures):
            require(
                getattr(rows, name) <= longest, f'rows.{name}', getattr(rows, name),
                f'at most max_position_embeddings={longest}',
            )  # fmt: skip

    @property
    def decoder(self) -> DecoderConfig:
        """The decoder's shape; ids 0 and 1 are <s> and </s>."""
        return DecoderConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            head_dim=self.hidden_size // self.num_attention_heads,
            max_position_embeddings=self.max_position_embeddings,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_ids=(1,),
        )
