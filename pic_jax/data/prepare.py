"""From a data configuration to token records, split into train, validation and test."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pic_jax.config import DataConfig
from pic_jax.data import generator, readers, token_shards
from pic_jax.data.examples import TokenisedRecord, tokenise_records
from pic_jax.data.tokenise import Template
from pic_jax.tensors import check_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepare(
    cfg: DataConfig,
    objectives: tuple[str, ...],
    tokenizer: 'PreTrainedTokenizerBase',
    template: Template,
    eos_id: int | None,
    vocab_size: int,
    splits: tuple[str, ...] = ('train', 'validation', 'test'),
) -> tuple[dict[str, Sequence[TokenisedRecord]], int]:
    """Reads, splits and encodes the source; without the `ft` objective only its distinct contexts are used.

    With cfg.pack, the documents of each split are then joined (data/packing.py).
    `vocab_size` is that of the model which reads the ids: larger ones are refused, of shards when they are read.
    Documents of an `arrayrecord:` source are encoded already and stay on disk; each counts, also where two are equal.

    Returns:
      the records of each split, and how many documents were left out as too short.

    Raises:
      PicJaxError, ConfigError: as `readers.read`, `readers.split` and `tokenise_records`, or `token_shards.prepare`.
    """
    if cfg.pack and tokenizer.eos_token_id is not None:  # stands between documents
        check_ids(np.array([tokenizer.eos_token_id]), vocab_size, 'data.pack: ')
    if cfg.source.startswith(token_shards.PREFIX):
        return token_shards.prepare(cfg, objectives, tokenizer, vocab_size, splits)
    if cfg.source == 'generated':
        sizes = {'train': cfg.size, 'validation': cfg.validation, 'test': cfg.test}
        parts = {name: generator.generate(cfg.corpus, name, sizes[name], cfg.seed) for name in splits}
    else:
        records = readers.read(cfg.source, cfg.context_length + cfg.target_length)
        parts = readers.split(records, cfg.validation, cfg.test)
    if 'ft' not in objectives:
        parts = {name: readers.documents(records) for name, records in parts.items()}
    settings = tokenizer, template, cfg, objectives, eos_id, vocab_size
    kept = {name: tokenise_records(parts[name], *settings) for name in splits}
    return {name: records for name, (records, _) in kept.items()}, sum(dropped for _, dropped in kept.values())
