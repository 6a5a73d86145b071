"""Tokenizers, and the prompt templates that put a question around a memory."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pic_jax.config import TEMPLATES
from pic_jax.data.records import check_text
from pic_jax.errors import ConfigError, PicJaxError, first_line
from pic_jax.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# AutoTokenizer calls `from_pretrained` of whatever class of transformers a file names: of a model's, too, and that
# reads pickles.
_TOKENIZER_CLASS = re.compile(r'\w+Tokenizer(Fast)?|\w+Backend')
_MEMORY, _PROMPT = 'MEMORYMARK', 'PROMPTMARK'
# Where tokenizers of one vocabulary differ: the start of a text, spaces in a row and at ends, digits, capitals, accents
# whole and combined, quotes, line ends, other scripts, what is in no vocabulary.
PROBES = (
    'start',
    " A  line, 12345.67 CAPITALS don't na\u00efve cafe\u0301 \u201cquoted\u201d\n\n\tend\u3000\u6771\u4eac \U0001f642 ",
)


@dataclasses.dataclass(frozen=True)
class Template:
    """Text around the memory. The decoder reads
    [decoder_prefix ids, before][memory][special vector][between, prompt, after][lead, answer].

    Attributes:
      before, between, after: as above; each may be empty.
      lead: what separates the answer from the prompt; it belongs to the first token of the answer.
    """

    before: str
    between: str
    after: str
    lead: str

    def question(self, prompt: str) -> str:
        """The text that follows the special vector, up to the answer."""
        return self.between + prompt + self.after


def load_tokenizer(folder: str | Path) -> 'PreTrainedTokenizerBase':
    """The tokenizer of a model folder in HF format; nothing is downloaded and no code of the folder is run.

    Raises:
      PicJaxError: the folder is missing, holds no valid tokenizer, or names a class that is none.
    """
    from transformers import AutoTokenizer

    folder = Path(folder)
    if not folder.is_dir():
        raise PicJaxError(f'{folder} is not a folder: expected a model in HF format with its tokenizer')
    for path in (folder / 'tokenizer_config.json', folder / 'config.json'):
        named = read_json(path).get('tokenizer_class') if path.is_file() else None
        if named is not None and not (isinstance(named, str) and _TOKENIZER_CLASS.fullmatch(named)):
            raise PicJaxError(f'{path}: tokenizer_class={named!r} is not valid: expected the name of a tokenizer')
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        for text in PROBES:
            _ids(tokenizer, text)
    except Exception as error:  # a broken file raises whatever its parser does
        raise PicJaxError(f'{folder} holds no valid tokenizer ({first_line(error)})') from error
    return tokenizer


def encode(tokenizer: 'PreTrainedTokenizerBase', text: str) -> np.ndarray:
    """`text` as int32 ids [n] without special tokens.

    Raises:
      PicJaxError: the text is not Unicode, or the tokenizer fails.
    """
    return np.asarray(_ids(tokenizer, check_text(text, 'the text')), np.int32)


def encode_all(tokenizer: 'PreTrainedTokenizerBase', texts: list[str]) -> list[list[int]]:
    """Ids of every text, without special tokens; the tokenizer may use all cores for them.

    Raises:
      PicJaxError: as `encode`.
    """
    return _ids(tokenizer, [check_text(text, 'a text') for text in texts])


def _ids(tokenizer: 'PreTrainedTokenizerBase', text: str | list[str]) -> list:
    try:
        return tokenizer(text, add_special_tokens=False, verbose=False)['input_ids']
    except BaseException as error:  # a panic of the tokenizers library is no Exception
        if type(error).__name__ != 'PanicException':
            raise
        raise PicJaxError(f'the tokenizer fails: {error}') from error


def decode(tokenizer: 'PreTrainedTokenizerBase', ids: np.ndarray) -> str:
    """The text of ids [n], special tokens left out."""
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def fingerprint(tokenizer: 'PreTrainedTokenizerBase') -> str:
    """sha256, in hex, of what decides the ids of a text: the vocabulary by id, and the ids of PROBES.

    It does not depend on how the files of the tokenizer are written, nor on its chat template.
    """
    vocabulary = sorted([index, token] for token, index in tokenizer.get_vocab().items())
    probed = [encode(tokenizer, text).tolist() for text in PROBES]
    text = json.dumps([vocabulary, probed], ensure_ascii=False, separators=(',', ':'))
    return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()


def encode_question(
    tokenizer: 'PreTrainedTokenizerBase', template: Template, prompt: str, answer: str
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the templated prompt and of the answer that continues it, each int32.

    The prompt's ids are the ones generation starts from, so they never depend on the answer; the answer is encoded
    in its place behind the prompt wherever the tokenizer keeps the two apart.
    """
    text = template.question(prompt)
    question, whole = encode(tokenizer, text), encode(tokenizer, text + template.lead + answer)
    if np.array_equal(whole[: len(question)], question):
        return question, whole[len(question) :]
    return question, encode(tokenizer, template.lead + answer)


def template(name: str, tokenizer: 'PreTrainedTokenizerBase') -> Template:
    """The template `name` of config.TEMPLATES.

    `chat` is what the tokenizer's own chat template puts around a user message that starts with the memory. It often
    begins with a BOS token, which then serves as that of `decoder_prefix`, too. `none` is nothing at all.

    Raises:
      ConfigError: the name is unknown, or the tokenizer has no chat template to take apart.
    """
    if name == 'plain':
        return Template(before='', between='Question: ', after='\nAnswer:', lead=' ')
    if name == 'llama2-chat':
        return Template(before='[INST]', between='', after=' [/INST]', lead=' ')
    if name == 'chat':
        return _chat_template(tokenizer)
    if name == 'none':
        return Template(before='', between='', after='', lead=' ')
    raise ConfigError(f'prompt_template={name!r} is not valid: expected one of {", ".join(TEMPLATES)}')


def _chat_template(tokenizer: 'PreTrainedTokenizerBase') -> Template:
    if not getattr(tokenizer, 'chat_template', None):
        raise ConfigError("prompt_template='chat' is not valid: the tokenizer has no chat template, expected plain")
    try:
        message = {'role': 'user', 'content': _MEMORY + _PROMPT}
        text = str(tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False))
    except Exception as error:  # templates are programs and raise what they like
        raise ConfigError(f"prompt_template='chat' is not valid: the tokenizer's template fails ({error})") from error
    if text.count(_MEMORY + _PROMPT) != 1:
        raise ConfigError("prompt_template='chat' is not valid: the tokenizer's template changes the message")
    before, after = text.split(_MEMORY + _PROMPT)
    return Template(before=before, between='', after=after, lead='')
