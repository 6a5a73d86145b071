"""Stored contexts as serving engines take them."""

import base64
import dataclasses
import io
import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import pic_jax
from pic_jax.api import TrainedCompressor
from pic_jax.cli.main import main
from pic_jax.errors import PicJaxError
from pic_jax.interop import context_files, serving

GOLDEN = Path(__file__).with_name('golden_contexts.safetensors')
WORDS = np.arange(40, dtype=np.float32).reshape(10, 4) / 8


@pytest.fixture
def words(tmp_path):
    save_file({'model.embed_tokens.weight': WORDS}, tmp_path / 'model.safetensors')
    return serving.Words(tmp_path)


@pytest.fixture
def gaps():
    """Row 1 has the positions 3 and 11."""
    return context_files.read(GOLDEN)


@pytest.fixture
def even(gaps):
    """The same without gaps between positions."""
    positions = np.array([[0, 1, 2], [0, 1, 0]], np.int32)
    return dataclasses.replace(gaps, positions=positions, text_start=np.array([3, 2], np.int32))


def test_the_example_of_the_format(gaps, words):
    found = serving.model_input(gaps, 1, words, [7, 9])
    assert found.position_ids.tolist() == [0, 4, 12, 13, 14, 15]
    wanted = [WORDS[1], [4, -4, 0.75, 1], [8, 0, -0.5, 2], [1, 2, 3, 4], WORDS[7], WORDS[9]]
    assert np.array_equal(found.embeddings, np.array(wanted, np.float32))
    assert not found.consecutive
    assert serving.model_input(gaps, 1, words, prefix=False).position_ids.tolist() == [3, 11, 12]


def test_engines_that_number_positions_by_themselves_get_no_gaps(gaps, even, words):
    assert serving.engine_input('SGLang', even, 0, words, [5]).shape == (1 + 3 + 1 + 1, 4)
    with pytest.raises(PicJaxError, match=r'SGLang numbers positions .*decoder_positions=spread.*: use transformers'):
        serving.engine_input('SGLang', gaps, 0, words, [5])


def test_keys_and_values_are_no_embeddings(words):
    stored = context_files.read(GOLDEN.with_name('golden_key_values.safetensors'))
    with pytest.raises(PicJaxError, match='keys and values'):
        serving.model_input(stored, 0, words)


@pytest.mark.parametrize('token', [-1, 10])
def test_unknown_tokens_are_refused(even, words, token):
    with pytest.raises(PicJaxError, match=f'token id {token} is not valid: expected 0 to 9'):
        serving.model_input(even, 0, words, [token])


def test_a_folder_without_word_embeddings_is_refused(tmp_path):
    save_file({'other': WORDS}, tmp_path / 'model.safetensors')
    with pytest.raises(PicJaxError, match='no tensor model'):
        serving.Words(tmp_path)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_embeddings_that_are_no_numbers_are_refused(tmp_path, value):
    table = WORDS.copy()
    table[2, 1] = value
    save_file({'model.embed_tokens.weight': table}, tmp_path / 'model.safetensors')
    words = serving.Words(tmp_path)
    assert np.array_equal(words[[1, 3]], WORDS[[1, 3]])
    with pytest.raises(
        PicJaxError, match=r'model\.safetensors: model\.embed_tokens\.weight holds a number that is not'
    ):
        words[[1, 2]]


@pytest.mark.parametrize('key', ['num_attention_heads', 'num_hidden_layers'])
@pytest.mark.parametrize('value', [None, 'many', 0])
def test_a_target_without_a_shape_gets_no_adapter(tmp_path, key, value):
    values = {'num_attention_heads': 4, 'num_hidden_layers': 2} | {key: value}
    (tmp_path / 'config.json').write_text(json.dumps(values))
    with pytest.raises(PicJaxError, match=rf'config\.json: {key}={value!r} is not valid: expected an integer of at'):
        serving.write_peft_prompt(tmp_path / 'out', WORDS, tmp_path, 'owner/tiny')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16])
def test_vllm_gets_a_tensor_of_its_own_bytes_only(dtype):
    """A view of a large array must not take the array along."""
    torch = pytest.importorskip('torch', reason="needs torch: pip install 'pic_jax[torch]'")
    large = np.arange(200_000, dtype=np.float32).reshape(-1, 4).astype(dtype)
    sent = base64.b64decode(serving.vllm_embeds(large[3:8]), validate=True)
    assert len(sent) < 4000
    tensor = torch.load(io.BytesIO(sent), weights_only=True, map_location='cpu')
    assert tensor.layout is torch.strided
    assert str(tensor.dtype).removeprefix('torch.') == np.dtype(dtype).name
    assert np.array_equal(tensor.float().numpy(), large[3:8].astype(np.float32))


def test_the_body_of_a_chat_request(even, words):
    torch = pytest.importorskip('torch', reason="needs torch: pip install 'pic_jax[torch]'")
    with pytest.raises(PicJaxError, match=r'made for prompt_template=plain.*completions endpoint'):
        serving.vllm_chat('m', even, 0, words, 'Who?')
    chat = dataclasses.replace(even, metadata=dataclasses.replace(even.metadata, template='chat'))
    twice = dataclasses.replace(chat, metadata=dataclasses.replace(chat.metadata, decoder_prefix=(1, 1, 5)))
    with pytest.raises(PicJaxError, match=r'token 1 twice at its start .*completions endpoint'):
        serving.vllm_chat('m', twice, 0, words, 'Who?')
    body = json.loads(json.dumps(serving.vllm_chat('m', chat, 0, words, 'Who?', max_tokens=5)))
    (message,) = body.pop('messages')
    assert body == {'model': 'm', 'max_tokens': 5}
    memory, text = message['content']
    assert message['role'] == 'user'
    assert text == {'type': 'text', 'text': 'Who?'}
    assert memory['type'] == 'prompt_embeds'
    tensor = torch.load(io.BytesIO(base64.b64decode(memory['data'])), weights_only=True)
    # Memory and special vector; the server renders what stands before them.
    assert np.array_equal(tensor.numpy(), np.concatenate([even.embeddings[0], even.special[None]]))


@pytest.fixture(scope='module')
def file(trained_workdir, tmp_path_factory):
    folder = tmp_path_factory.mktemp('stored')
    (folder / 'note.txt').write_text('Mara keeps the key under the third stone by the well.')
    assert main(['compress', f'--workdir={trained_workdir}', str(folder / 'note.txt'), f'--out={folder / "n.st"}']) == 0
    return folder / 'n.st'


def test_the_command_line_writes_for_every_engine(file, tiny_target, tmp_path, capsys):
    stored = context_files.read(file)
    k, D = int(stored.lengths[0]), 32
    made = {}
    for engine in ('hf', 'sglang', 'peft', 'llama.cpp'):
        out = tmp_path / engine
        asks = [] if engine in ('peft', 'llama.cpp') else ['--question=Where?']
        assert main(['contexts', 'to', engine, str(file), f'--base={tiny_target}', f'--out={out}', *asks]) == 0
        made[engine] = out
    capsys.readouterr()
    hf = load_file(made['hf'])
    T = hf['inputs_embeds'].shape[1]
    assert hf['position_ids'].tolist() == [list(range(T))]
    body = json.loads(made['sglang'].read_text())
    assert body['sampling_params'] == {'temperature': 0.0, 'max_new_tokens': 64}
    assert np.array_equal(np.array(body['input_embeds'], np.float32), hf['inputs_embeds'][0].astype(np.float32))
    raw = np.frombuffer(made['llama.cpp'].read_bytes(), '<f4').reshape(-1, D)
    before = 1 + k + 1  # BOS, memory, special vector
    assert np.array_equal(raw, hf['inputs_embeds'][0, :before].astype(np.float32))
    prompt = load_file(made['peft'] / 'adapter_model.safetensors')['prompt_embeddings']
    assert prompt.shape == (before, D)
    wrong = [
        (['peft', '--question=x'], 'the question as tokens'), (['hf', '--row=1'], '--row=1 is not valid'),
        (['vllm-chat'], 'prompt_template=none'),
    ]  # fmt: skip
    target = [f'--base={tiny_target}', f'--out={tmp_path / "no"}']
    for (engine, *more), said in wrong:
        command = ['contexts', 'to', engine, str(file), *target, *more]
        assert main(command) in (1, 2)
        assert said in capsys.readouterr().err
    assert not (tmp_path / 'no').exists()


@pytest.fixture
def of_the_hub(trained_workdir):
    """A function: the trained compressor as if its base were of that name."""
    trained = pic_jax.load(trained_workdir)

    def named(base: str) -> TrainedCompressor:
        config = dataclasses.replace(trained.run.config, base=base)
        return TrainedCompressor(dataclasses.replace(trained.run, config=config), trained.trainable)

    return named


def test_stored_contexts_and_engines_call_a_model_of_the_hub_by_its_id(of_the_hub, tiny_target, tmp_path):
    trained = of_the_hub('hub:owner/tiny@v1')
    stored = trained.store(['Mara lives in Stonehaven.'], ['note'])
    assert (stored.metadata.target, stored.metadata.target_revision) == ('owner/tiny', 'v1')
    trained.memory_of(stored)
    for other, said in ('hub:owner/tiny', "target_revision='v1'"), ('hub:owner/other@v1', "target='owner/tiny'"):
        with pytest.raises(PicJaxError, match=said):
            of_the_hub(other).memory_of(stored)
    for name in 'owner/tiny', 'hub:owner/tiny@v1':  # the latter as files were written before
        context_files.write(
            tmp_path / 'n.st', dataclasses.replace(stored, metadata=dataclasses.replace(stored.metadata, target=name))
        )
        command = [str(tmp_path / 'n.st'), f'--base={tiny_target}', f'--out={tmp_path / "out"}', '--overwrite']
        assert main(['contexts', 'to', 'peft', *command]) == 0
        config = json.loads((tmp_path / 'out' / 'adapter_config.json').read_text())
        assert config['base_model_name_or_path'] == 'owner/tiny'
        shutil.rmtree(tmp_path / 'out')
    pytest.importorskip('torch', reason="needs torch: pip install 'pic_jax[torch]'")
    assert main(['contexts', 'to', 'vllm', *command]) == 0
    assert json.loads((tmp_path / 'out').read_text())['model'] == 'owner/tiny'


@pytest.mark.slow
def test_peft_and_transformers_answer_as_we_do(file, trained_workdir, tiny_target, tmp_path):
    """One context, one question: our tokens, transformers on inputs_embeds, and PEFT on a prompt-tuning adapter."""
    peft = pytest.importorskip('peft', reason="needs peft: pip install 'pic_jax[torch]'")
    torch = pytest.importorskip('torch', reason="needs torch: pip install 'pic_jax[torch]'")
    transformers = pytest.importorskip('transformers')
    from pic_jax.data.tokenise import encode

    stored, trained = context_files.read(file), pic_jax.load(trained_workdir)
    words = serving.Words(tiny_target)
    question = encode(trained.run.tokenizer, 'Where is the key?')  # the compressor continues texts: no template
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_target, dtype=torch.float32).eval()
    found = serving.model_input(stored, 0, words, question)
    embeds = torch.tensor(found.embeddings.astype(np.float32))[None]
    made = model.generate(
        inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long), max_new_tokens=8,
        do_sample=False, pad_token_id=0,
    )  # fmt: skip
    ours = trained.generate(trained.memory_of(stored), ['Where is the key?'], max_new_tokens=8)[0]
    assert trained.run.tokenizer.decode(made[0], skip_special_tokens=True).strip() == ours
    serving.write_peft_prompt(
        tmp_path / 'prompt', serving.engine_input('PEFT', stored, 0, words).astype(np.float32), tiny_target, 'target'
    )
    with torch.no_grad():
        wanted = model(inputs_embeds=embeds).logits[0, -len(question) :]
        prompted = peft.PeftModel.from_pretrained(model, tmp_path / 'prompt').eval()
        logits = prompted(torch.tensor(question, dtype=torch.long)[None]).logits[0, -len(question) :]
    assert torch.equal(logits, wanted)
