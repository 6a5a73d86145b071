import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pic_jax.compressors import streaming
from pic_jax.compressors.registry import make_compressor
from pic_jax.config import CompressorConfig
from pic_jax.errors import PicJaxError
from pic_jax.interop import streams
from pic_jax.models.decoder import Decoder

SHA = 'a' * 64
TOKENS = np.arange(3, 22, dtype=np.int32)


@pytest.fixture
def setup(tiny_config, random_params):
    def make(**options):
        decoder = Decoder(tiny_config())
        base = random_params(decoder, 0)
        config = CompressorConfig.preset('pic', ratio=2, chunk_size=4, context_length=32, **options)
        compressor = make_compressor(config, decoder)
        return compressor, base, compressor.init(jax.random.key(0), base)

    return make


@pytest.mark.parametrize('sees', ['chunk', 'chunk+memory'])
@pytest.mark.parametrize('cut', [2, 9])
def test_a_stream_goes_on_from_its_file(setup, tmp_path, sees, cut):
    compressor, base, trainable = setup(context_sees=sees)
    state, first = streaming.feed(compressor, base, trainable, streaming.start(compressor), TOKENS[:cut])
    streams.write(tmp_path / 's.safetensors', state, SHA)
    loaded = streams.read(tmp_path / 's.safetensors', streaming.start(compressor), SHA)
    assert loaded.num_tokens == state.num_tokens == cut // 4 * 4

    def finish(state):
        state, second = streaming.feed(compressor, base, trainable, state, TOKENS[cut:])
        parts = [first, second, streaming.flush(compressor, base, trainable, state)]
        return streaming.to_memory(compressor, parts, len(TOKENS)).embeddings

    assert finish(loaded).shape[1] == 10
    np.testing.assert_array_equal(finish(loaded), finish(state))


@pytest.mark.parametrize('sees', ['chunk', 'chunk+memory'])
def test_more_pending_tokens_than_a_chunk_has_are_refused(setup, tmp_path, sees):
    compressor, base, trainable = setup(context_sees=sees)
    state = dataclasses.replace(streaming.start(compressor), pending=TOKENS[:5])
    streams.write(tmp_path / 's.safetensors', state, SHA)
    loaded = streams.read(tmp_path / 's.safetensors', streaming.start(compressor), SHA)
    with pytest.raises(PicJaxError, match='5 pending tokens: expected fewer than 4, a chunk'):
        streaming.flush(compressor, base, trainable, loaded)


def test_what_does_not_fit_is_refused(setup, tmp_path):
    compressor, base, trainable = setup(context_sees='chunk+memory')
    empty, path = streaming.start(compressor), tmp_path / 's.safetensors'
    state, _ = streaming.feed(compressor, base, trainable, empty, TOKENS)
    streams.write(path, state, SHA)
    with pytest.raises(PicJaxError, match='compressor_sha256'):
        streams.read(path, empty, 'b' * 64)
    local, _, _ = setup()
    with pytest.raises(PicJaxError, match='tensors'):
        streams.read(path, streaming.start(local), SHA)
    metadata = {'format': 'pic-stream', 'format_version': '1', 'compressor_sha256': SHA, 'num_tokens': '16'}
    tensors = load_file(path)
    save_file(tensors | {'keys': tensors['keys'][:1]}, path, metadata)
    with pytest.raises(PicJaxError, match='shape of values'):
        streams.read(path, empty, SHA)
    save_file(tensors, path, metadata | {'num_tokens': '-1'})
    with pytest.raises(PicJaxError, match='num_tokens'):
        streams.read(path, empty, SHA)
    save_file(tensors, path, metadata | {'format': 'pic-context'})
    with pytest.raises(PicJaxError, match='format'):
        streams.read(path, empty, SHA)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(PicJaxError, match='cannot be read'):
        streams.read(path, empty, SHA)
    with pytest.raises(PicJaxError, match='cannot be read'):
        streams.read(tmp_path / 'none', empty, SHA)
