"""Targets named by their id on the Hub; there is no network here, so the cache and the client's errors stand for it."""

import shutil

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.models import hub
from pic_jax.run import named_folder

COMMIT = 'a' * 40


@pytest.fixture
def cache(tmp_path, monkeypatch, tiny_target):
    """A Hub cache that holds `owner/tiny` (main is COMMIT), and a client that is offline."""
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    repo = tmp_path / 'models--owner--tiny'
    shutil.copytree(tiny_target, repo / 'snapshots' / COMMIT)
    (repo / 'refs').mkdir()
    (repo / 'refs' / 'main').write_text(COMMIT)
    return repo / 'snapshots' / COMMIT


@pytest.mark.parametrize('name', ['hub:owner/tiny', 'hub:owner/tiny@main', f'hub:owner/tiny@{COMMIT}'])
def test_a_cached_model_is_found_without_a_network(cache, name):
    assert named_folder(name) == cache
    assert (named_folder(name) / 'model.safetensors').is_file()


@pytest.mark.parametrize('name', ['hub:owner/other', 'hub:owner/tiny@v2'])
def test_what_is_not_cached_needs_a_network(cache, name):
    with pytest.raises(PicJaxError, match=r'local cache, and the Hub cannot be reached .*HF_HUB_OFFLINE') as caught:
        named_folder(name)
    assert str(caught.value).startswith(f'{name}: ')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['hub:', 'hub:tiny', 'hub:owner/tiny@', 'hub:a/b/c', 'hub:o/../x', 'hub:o/tiny:main'])
def test_a_malformed_name_is_bad_usage(name):
    with pytest.raises(ConfigError, match='expected hub:owner/name or hub:owner/name@revision'):
        hub.snapshot(name)


@pytest.mark.parametrize(
    ('base', 'known'),
    [
        ('hub:owner/tiny', ('owner/tiny', None)), ('hub:owner/tiny@v1/x', ('owner/tiny', 'v1/x')),
        ('/models/llama@v2', ('/models/llama@v2', None)), ('owner/tiny@v2', ('owner/tiny@v2', None)),
        ('hub:/models/llama@v2', ('/models/llama@v2', None)),
    ],
)  # fmt: skip
def test_what_others_call_a_model(base, known):
    assert hub.published(base) == known


def refused(kind):
    def download(*args, **kwargs):
        raise kind('no\nway', response=httpx2.Response(404, request=httpx2.Request('GET', 'http://hub')))

    return download


@pytest.mark.parametrize(
    ('kind', 'said'),
    [
        (
            errors.GatedRepoError,
            r'hub:o/n@x: access is not granted: accept the licence on the page of o/n',
        ),
        (errors.RepositoryNotFoundError, r'hub:o/n@x: the Hub has no model o/n, or HF_TOKEN may not see it'),
        (errors.RevisionNotFoundError, r'hub:o/n@x: o/n has no revision x'),
        (errors.BadRequestError, r'hub:o/n@x: cannot be downloaded \(no\)'),
    ],
)
def test_errors_of_the_hub_are_one_line(monkeypatch, kind, said):
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', refused(kind))
    with pytest.raises(PicJaxError, match=f'^{said}') as caught:
        hub.snapshot('hub:o/n@x')
    assert '\n' not in str(caught.value)


def test_only_weights_and_tokenizer_are_asked_for(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', lambda name, **given: asked.update(given) or tmp_path)
    assert hub.snapshot('hub:o/n') == tmp_path
    wanted = ['model-00001-of-00002.safetensors', 'model.safetensors.index.json', 'config.json', 'tokenizer.model']
    files = [*wanted, 'pytorch_model.bin', 'modeling_custom.py', 'original/consolidated.00.pth']
    assert list(huggingface_hub.utils.filter_repo_objects(files, allow_patterns=asked['allow_patterns'])) == wanted
    assert asked['revision'] is None
