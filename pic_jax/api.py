"""Use a trained compressor from Python: load, compress, generate."""

import bisect
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pic_jax import nested
from pic_jax.compressors.base import Compressor
from pic_jax.config import to_mapping
from pic_jax.data.tokenise import decode, encode
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.interop.contexts import ContextMetadata, StoredContexts, check_target, to_memory
from pic_jax.interop.contexts import from_memory as from_memory_to_stored
from pic_jax.interop.nesting import nesting_of
from pic_jax.memory import Memory
from pic_jax.models import hub
from pic_jax.models.generation import GREEDY, Sampling, check_new_tokens, generate
from pic_jax.models.inputs import from_memory
from pic_jax.run import Run, named_folder, open_run
from pic_jax.tensors import check_ids
from pic_jax.training.checkpoint import LATEST, restore_trainable
from pic_jax.training.weights import write_weights
from pic_jax.training.workdir import read_config

# Prompts are padded to a multiple of this many tokens, so that few lengths are compiled.
PROMPT_MULTIPLE = 32


@dataclasses.dataclass(frozen=True)
class TrainedCompressor:
    """A compressor with its weights, and the frozen target that reads its memory.

    Attributes:
      step: of the checkpoint that the weights are from, if they are from one.
    """

    run: Run
    trainable: dict[str, Any]
    step: int | None = None

    def compress(
        self,
        contexts: Sequence[str] | np.ndarray | jax.Array,
        lengths: np.ndarray | None = None,
        ratio: int | None = None,
    ) -> Memory:
        """Compresses texts, or right-padded tokens [B, S] of an integer dtype.

        Args:
          lengths: of tokens, [B]: how many of each row are real; all by default.
          ratio: one of those that the compressor serves (`compressor.ratios`); its finest by default.

        Raises:
          PicJaxError: a context is empty, or a token is not in the model's vocabulary.
          ConfigError: contexts or lengths are of another form, a context is too long, or the ratio is not served.
        """
        if ratio is not None and ratio != self.run.config.compressor.ratio:
            return self.at_ratio(ratio).compress(contexts, lengths)
        if isinstance(contexts, np.ndarray | jax.Array):
            tokens_BS = np.asarray(contexts)
            if tokens_BS.ndim != 2 or not np.issubdtype(tokens_BS.dtype, np.integer):
                raise ConfigError(
                    f'contexts of shape {tokens_BS.shape} and dtype {tokens_BS.dtype} are not valid: expected integers '
                    '[B, S]'
                )
            lengths_B = np.full(len(tokens_BS), tokens_BS.shape[1]) if lengths is None else np.asarray(lengths)
            if lengths_B.shape != (len(tokens_BS),):
                raise ConfigError(
                    f'lengths of shape {lengths_B.shape} are not valid: expected ({len(tokens_BS)},), one for each row'
                )
        else:
            if lengths is not None:
                raise ConfigError(f'lengths={lengths} is not valid beside texts: expected none, they have their own')
            tokens_BS, lengths_B = self._encode(contexts)
        if len(lengths_B) == 0 or lengths_B.min() < 1:
            raise PicJaxError('a context is empty: expected at least one token')
        if lengths_B.max() > tokens_BS.shape[1]:
            raise PicJaxError(f'lengths hold {lengths_B.max()}: expected at most {tokens_BS.shape[1]}, as tokens has')
        valid_BS = np.arange(tokens_BS.shape[1]) < lengths_B[:, None]
        check_ids(tokens_BS[valid_BS], self.run.vocab_size)
        tokens_BS = np.where(valid_BS, tokens_BS, 0)  # padding may be an id that the model has no embedding for
        tokens_BS = np.pad(
            tokens_BS.astype(np.int32), ((0, 0), (0, self._bucket(tokens_BS.shape[1]) - tokens_BS.shape[1]))
        )
        return _compress(
            self.run.compressor, self.run.base, self.trainable, jnp.asarray(tokens_BS), jnp.asarray(lengths_B)
        )

    def at_ratio(self, ratio: int) -> 'TrainedCompressor':
        """The compressor of one ratio by itself, as an ordinary compressor (of another fingerprint).

        Raises:
          ConfigError: the ratio is not served.
        """
        weights = nested.trainable_at(self.run.config.compressor, self.trainable, ratio)
        return TrainedCompressor(self.run.at_ratio(ratio), weights, self.step)

    def generate(
        self,
        memory: Memory,
        prompts: Sequence[str],
        max_new_tokens: int = 64,
        sampling: Sampling = GREEDY,
        seed: int = 0,
    ) -> list[str]:
        """Answers one prompt per context; a compressor that was trained to continue text continues the prompt.

        Raises:
          ConfigError: not one prompt per context, no positive `max_new_tokens`, or memory, prompt and answer do not fit
            the decoder's positions.
        """
        run = self.run
        check_new_tokens(max_new_tokens)
        prompts = checked_texts('prompts', prompts)
        if len(prompts) != len(memory.valid) or not len(prompts):
            raise ConfigError(f'{len(prompts)} prompts for {len(memory.valid)} contexts: expected one for each')
        if self.special_name == 'ft':
            prompts = [run.template.question(prompt) for prompt in prompts]
        text_BT, lengths_B = pad([encode(run.tokenizer, prompt) for prompt in prompts], multiple=PROMPT_MULTIPLE)
        check_ids(text_BT, run.vocab_size)
        needed = len(run.prefix) + int(memory.text_start.max()) + 1 + int(lengths_B.max()) + max_new_tokens
        if needed > run.decoder.config.max_position_embeddings:
            raise ConfigError(
                f'memory, prompt and {max_new_tokens} new tokens need {needed} positions but the model has '
                f'{run.decoder.config.max_position_embeddings}: ask for fewer new tokens'
            )
        special_D = jnp.asarray(self.trainable['special'][self.special_name])
        inputs = from_memory(
            run.decoder, run.base, memory, special_D, run.prefix, jnp.asarray(text_BT), jnp.asarray(lengths_B)
        )
        eos_ids, key = run.decoder.config.eos_token_ids, jax.random.key(seed)
        tokens_BT, made_B = generate(run.decoder, run.base, inputs, max_new_tokens, eos_ids, sampling, key)
        return [decode(run.tokenizer, np.asarray(row)[:n]).strip() for row, n in zip(tokens_BT, made_B, strict=True)]

    def store(self, contexts: Sequence[str], ids: Sequence[str], ratio: int | None = None) -> StoredContexts:
        """Compresses texts into what `interop.context_files.write` keeps; `ids` name them, `ratio` is as in `compress`.

        Raises:
          PicJaxError: a context is empty.
          ConfigError: contexts are no list of texts, one is too long, or the ratio is not served.
        """
        run, layout = self.run, self.run.config.compressor
        ratio = layout.ratio if ratio is None else ratio
        tokens_BS, lengths_B = self._encode(contexts)
        memory = self.compress(tokens_BS, lengths_B, ratio)
        special = np.asarray(self.trainable['special'][self.special_name])
        target, revision = hub.published(run.config.base)
        # Where a file knows its ratio by itself, contexts that were shrunk to it say the same.
        shown = '' if layout.ratios else f' ratio={layout.ratio}'
        metadata = ContextMetadata(
            target=target,
            target_revision=revision or '',
            compressor_sha256=self.fingerprint,
            hidden_size=run.decoder.config.hidden_size,
            layout=f'{layout.method}{shown} chunk_size={layout.chunk_size} positions={layout.positions}',
            template=run.config.prompt_template if self.special_name == 'ft' else 'none',
            decoder_prefix=run.prefix,
            source_tokens=tuple(int(length) for length in lengths_B),
            ids=tuple(ids),
            nesting=nesting_of(layout, ratio),
        )
        return from_memory_to_stored(memory, special, metadata)

    def memory_of(self, stored: StoredContexts) -> Memory:
        """The memory of stored contexts, checked to be this compressor's.

        Raises:
          PicJaxError: another compressor or another target made them.
        """
        target, revision = hub.published(self.run.config.base)
        check_target(stored, self.run.decoder.config.hidden_size, target, revision or '')
        if stored.metadata.compressor_sha256 != self.fingerprint:
            raise PicJaxError(
                f'the contexts were made by compressor {stored.metadata.compressor_sha256[:12]}, '
                f'not by this one ({self.fingerprint[:12]})'
            )
        return to_memory(stored)

    def save(self, folder: str | Path) -> None:
        """Writes config.json and the weights (bfloat16): a small folder to load, or to train on from (`start`)."""
        write_weights(Path(folder), self.run.config, self.trainable)

    @property
    def special_name(self) -> str:
        """The special vector that suits generation: that of the first trained objective out of ft, lm, ae, or lm's."""
        trained = self.run.config.objective.names
        return next((name for name in ('ft', 'lm', 'ae') if name in trained), 'lm')

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of the compressor's settings and weights, as hex."""
        settings = to_mapping(self.run.config.compressor)
        if not settings['ratios']:  # what has one ratio keeps the name it had before there were several
            del settings['ratios']
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.trainable):
            digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
        return digest.hexdigest()

    def _encode(self, contexts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        contexts = checked_texts('contexts', contexts)
        return pad([encode(self.run.tokenizer, text) for text in contexts])

    def _bucket(self, length: int) -> int:
        """A padded length, so that few are compiled: at most four for each doubling, and the longest that fits.

        Powers of two up to `context_length`, then whole windows or chunks.
        """
        config = self.run.config.compressor
        if length <= config.context_length:
            padded = min(1 << max(length - 1, 31).bit_length(), config.context_length)
        else:
            unit = config.window or config.chunk_size or 1
            units = -(-length // unit)
            unit *= max(1 << (units - 1).bit_length() >> 3, 1)
            padded = -(-length // unit) * unit
        longer = range(length + 1, padded + 1)  # the text may fit where its padding does not
        return length + bisect.bisect(longer, False, key=lambda each: not self._fits(each))

    def _fits(self, length: int) -> bool:
        try:
            self.run.compressor.check_length(length)
        except ConfigError:
            return False
        return True


def load(workdir: str | Path, step: int | str = LATEST, mesh: Mesh | None = None) -> TrainedCompressor:
    """The compressor of a workdir, from one of its checkpoints, or of a folder that `TrainedCompressor.save` wrote.

    Args:
      step: of the checkpoint; `latest`; or `best`, by the run's `train.best_metric`.
      mesh: the devices that share the target (training.sharding.make_mesh); this process's first by default.

    Raises:
      PicJaxError: the folder is not a workdir, has no such checkpoint, or the checkpoint does not fit its config.json.
    """
    workdir = named_folder(str(workdir))
    run = open_run(read_config(workdir), mesh)
    return TrainedCompressor(run, *restore_trainable(run, workdir, step))


def pad(rows: Sequence[np.ndarray], multiple: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids as one right-padded int32 array [B, S], S a multiple of `multiple`, and their lengths [B]."""
    lengths_B = np.array([len(row) for row in rows], np.int32)
    tokens_BS = np.zeros((len(rows), -(-max(lengths_B, default=0) // multiple) * multiple), np.int32)
    for row, ids in zip(tokens_BS, rows, strict=True):
        row[: len(ids)] = ids
    return tokens_BS, lengths_B


def checked_texts(key: str, texts: Iterable[str]) -> list[str]:
    """The texts as a list.

    Raises:
      ConfigError: it is a text by itself, each character of which would be one, or one of them is no text.
    """
    if isinstance(texts, str):
        raise ConfigError(f'{key}={texts[:40]!r} is not valid: expected a list of texts')
    texts = list(texts)
    for text in texts:
        if not isinstance(text, str):
            raise ConfigError(f'{key} hold {type(text).__name__}: expected texts only')
    return texts


@functools.partial(jax.jit, static_argnums=0)
def _compress(compressor: Compressor, base, trainable, tokens_BS, lengths_B) -> Memory:
    return compressor.compress(base, trainable, tokens_BS, lengths_B)
