"""A run's prefix: what the decoder reads before the memory."""

import json
import shutil

import pytest

from pic_jax.config import CompressorConfig, RunConfig
from pic_jax.errors import PicJaxError
from pic_jax.run import open_run

BOS = 0


@pytest.fixture
def opened(tiny_target, tmp_path):
    """A function from a chat template and settings to a run whose target has that template."""

    def make(chat, **settings):
        folder = shutil.copytree(tiny_target, tmp_path / 'target', dirs_exist_ok=True)
        path = folder / 'tokenizer_config.json'
        path.write_text(json.dumps(json.loads(path.read_text()) | {'chat_template': chat}))
        method = CompressorConfig.preset('pic', chunk_size=8, ratio=4, context_length=16)
        return open_run(RunConfig(base=str(folder), compressor=method, prompt_template='chat', **settings))

    return make


def test_a_chat_template_with_a_bos_of_its_own_gets_no_other(opened):
    with_bos = opened('<s>[USER]{{ messages[0].content }}[END]')
    opening = with_bos.prefix[1:]
    assert (with_bos.config.decoder_prefix, with_bos.prefix[0]) == ((), BOS)
    assert opening[0] != BOS
    without = opened('[USER]{{ messages[0].content }}[END]')
    assert (without.config.decoder_prefix, without.prefix) == ((BOS,), (BOS, *opening))
    asked = opened('<s>[USER]{{ messages[0].content }}[END]', decoder_prefix=(BOS,))
    assert asked.prefix == (BOS, BOS, *opening)  # as runs have it that were started before


def test_an_opening_that_the_model_has_no_embeddings_for_is_refused(opened, monkeypatch):
    monkeypatch.setattr('pic_jax.run.encode', lambda *_: [5, 600])
    with pytest.raises(PicJaxError, match='target: token id 600 is not valid: expected 0 to 599'):
        opened('[USER]{{ messages[0].content }}[END]')
