"""Files of a stream's state with something wrong in them."""

import numpy as np
import pytest
from fuzz_readers import read_stream, stream_state
from safetensors.numpy import load_file, save_file

from pic_jax.errors import PicJaxError
from pic_jax.interop import streams

SHA = '0' * 64
METADATA = {'format': 'pic-stream', 'format_version': '1', 'compressor_sha256': SHA, 'num_tokens': '12'}
KEYS = np.zeros((2, 1, 3, 1, 4), np.float32)
STATES = [
    ({}, {'num_tokens': '-1'}, "num_tokens='-1' is not valid"),
    ({}, {'num_tokens': '1e3'}, "num_tokens='1e3' is not valid"),
    ({}, {'num_tokens': '9' * 5000}, "num_tokens='999"),
    ({}, {'num_tokens': '2'}, 'keys of 3 slots are not valid: num_tokens=2'),
    ({}, {'format': 'pic-context'}, "format='pic-context' is not valid"),
    ({}, {'format_version': '2'}, "format_version='2' is not valid"),
    ({}, {'compressor_sha256': '1' * 64}, "compressor_sha256='111"),
    ({'pending': np.array([5, -1], np.int32)}, {}, 'pending holds -1'),
    ({'pending': np.array([5, 6], np.int64)}, {}, 'dtype and rank of pending'),
    ({'pending': np.array([[5, 6]], np.int32)}, {}, 'dtype and rank of pending'),
    ({'pending': np.array([5, 6], np.float32)}, {}, 'dtype and rank of pending'),
    ({'keys': KEYS + np.nan}, {}, 'keys holds a number that is not finite'),
    ({'values': KEYS - np.inf}, {}, 'values holds a number that is not finite'),
    ({'keys': KEYS.astype(np.float64)}, {}, 'dtypes of keys and values'),
    ({'keys': KEYS[:1].copy()}, {}, 'shape of values'),
    ({'keys': KEYS[..., :2].copy(), 'values': KEYS[..., :2].copy()}, {}, r'keys of shape \(2, 1, 3, 1, 2\)'),
    ({'extra': KEYS}, {}, 'tensors='),
]


@pytest.mark.parametrize(('tensors', 'metadata', 'said'), STATES, ids=[said[:40] for _, _, said in STATES])
def test_a_bad_state_is_refused(tmp_path, tensors, metadata, said):
    path = tmp_path / 'stream'
    streams.write(path, stream_state(), SHA)
    save_file(load_file(path) | tensors, path, METADATA | metadata)
    with pytest.raises(PicJaxError, match=said) as caught:
        read_stream(tmp_path)
    assert str(caught.value).startswith(f'{path}: ')
    assert len(str(caught.value)) < 400
