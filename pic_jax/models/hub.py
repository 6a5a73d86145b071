"""Models on the Hugging Face Hub: `hub:owner/name[@revision]` becomes a folder in the Hub's local cache."""

import re
from pathlib import Path

from pic_jax.errors import ConfigError, PicJaxError, first_line

PREFIX = 'hub:'
TOKENIZER_FILES = ('tokenizer*', 'special_tokens_map.json', 'added_tokens.json', 'vocab.json', 'merges.txt',
                   'chat_template*', 'config.json')  # fmt: skip
MODEL_FILES = ('*.safetensors', '*.json', *TOKENIZER_FILES)
# A revision becomes part of a path in the cache; git has none with `..` either.
_NAME = re.compile(r'(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>(?!.*\.\.)[\w./-]+))?')


def published(base: str) -> tuple[str, str | None]:
    """Id and revision of what a run calls its model, as other programs know them. A folder is its own id."""
    name = base.removeprefix(PREFIX)
    match = _NAME.fullmatch(name) if name != base else None
    return (match['id'], match['revision']) if match else (name, None)


def snapshot(name: str, files: tuple[str, ...] = MODEL_FILES) -> Path:
    """The folder of a model, downloaded unless the cache has it. No weights but safetensors, and no code.

    Args:
      name: `hub:owner/name[@revision]`; a revision is a branch, a tag or a commit. Only a commit names the same files
        for ever.
      files: patterns of the files that are wanted.

    Raises:
      ConfigError: the name is not of that form.
      PicJaxError: there is no such model or revision, access is not granted, or neither network nor cache has it.
    """
    match = _NAME.fullmatch(name.removeprefix(PREFIX))
    if match is None:
        raise ConfigError(f'{name!r} is not valid: expected hub:owner/name or hub:owner/name@revision')
    import huggingface_hub
    from huggingface_hub import errors

    where, revision = match['id'], match['revision']
    try:
        return Path(huggingface_hub.snapshot_download(where, revision=revision, allow_patterns=list(files)))
    except errors.GatedRepoError as error:
        raise PicJaxError(
            f'{name}: access is not granted: accept the licence on the page of {where}, then log in with '
            '`hf auth login` or set HF_TOKEN'
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise PicJaxError(f'{name}: the Hub has no model {where}, or HF_TOKEN may not see it') from error
    except errors.RevisionNotFoundError as error:
        raise PicJaxError(f'{name}: {where} has no revision {revision}') from error
    except errors.LocalEntryNotFoundError as error:
        raise PicJaxError(
            f'{name}: not (or not wholly) in the local cache, and the Hub cannot be reached (no network, or '
            'HF_HUB_OFFLINE is set): download it where there is a network, or name a folder in HF format'
        ) from error
    except Exception as error:  # of the network, the disk and the Hub's client: many unrelated types
        raise PicJaxError(f'{name}: cannot be downloaded ({first_line(error)})') from error
