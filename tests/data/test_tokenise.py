import numpy as np
import pytest

from pic_jax.data import tokenise
from pic_jax.errors import ConfigError, PicJaxError

CHAT = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<end>{% endfor %}"
    '{% if add_generation_prompt %}<assistant>{% endif %}'
)


def test_encode_adds_no_special_tokens(tokenizer):
    ids = tokenise.encode(tokenizer, 'At the market')
    assert ids.dtype == np.int32
    assert not set(ids.tolist()) & {tokenizer.bos_token_id, tokenizer.eos_token_id}
    assert tokenizer.decode(ids) == 'At the market'
    assert tokenise.encode(tokenizer, '').shape == (0,)


@pytest.mark.parametrize('name', ['plain', 'llama2-chat'])
def test_question_and_answer_join_as_one_text(tokenizer, name):
    template = tokenise.template(name, tokenizer)
    question, answer = tokenise.encode_question(tokenizer, template, 'How many cats?', 'eleven')
    other, _ = tokenise.encode_question(tokenizer, template, 'How many cats?', 'two dogs')
    whole = template.question('How many cats?') + ' eleven'
    assert np.array_equal(np.concatenate([question, answer]), tokenise.encode(tokenizer, whole))
    assert tokenizer.decode(answer) == ' eleven'
    assert np.array_equal(question, other)


def test_prompt_ids_do_not_depend_on_the_answer(tokenizer):
    # ' 19' is one token: the prompt keeps the ids it has without the answer, and the answer is encoded alone.
    template = tokenise.Template('', '', ' 1', '')
    prompt = tokenise.encode(tokenizer, 'year 1')
    assert len(tokenise.encode(tokenizer, 'year 19')) < len(prompt)
    question, answer = tokenise.encode_question(tokenizer, template, 'year', '9')
    assert np.array_equal(question, prompt)
    assert np.array_equal(answer, tokenise.encode(tokenizer, '9'))


def test_plain_and_llama2_templates(tokenizer):
    assert tokenise.template('plain', tokenizer) == tokenise.Template('', 'Question: ', '\nAnswer:', ' ')
    assert tokenise.template('llama2-chat', tokenizer) == tokenise.Template('[INST]', '', ' [/INST]', ' ')
    assert tokenise.template('none', tokenizer).question('Once upon') == 'Once upon'


def test_chat_template_is_split_around_memory_and_prompt(tokenizer):
    tokenizer.chat_template = CHAT
    template = tokenise.template('chat', tokenizer)
    assert template == tokenise.Template('<s><user>', '', '<end><assistant>', '')


@pytest.mark.parametrize(
    ('chat', 'message'),
    [
        (None, 'the tokenizer has no chat template'),
        ('fixed', "the tokenizer's template changes the message"),
        ("{{ raise_exception('no') }}", "the tokenizer's template fails"),
    ],
)
def test_chat_template_refused(tokenizer, chat, message):
    tokenizer.chat_template = chat
    with pytest.raises(ConfigError, match=f"prompt_template='chat' is not valid: {message}"):
        tokenise.template('chat', tokenizer)


def test_unknown_template(tokenizer):
    with pytest.raises(ConfigError, match="prompt_template='alpaca' is not valid: expected one of plain, llama2-chat"):
        tokenise.template('alpaca', tokenizer)


def test_bad_tokenizer_folders(tmp_path):
    with pytest.raises(PicJaxError, match='nowhere is not a folder'):
        tokenise.load_tokenizer(tmp_path / 'nowhere')
    with pytest.raises(PicJaxError, match=f'{tmp_path} holds no valid tokenizer'):
        tokenise.load_tokenizer(tmp_path)
    (tmp_path / 'tokenizer.json').write_text('{broken')
    with pytest.raises(PicJaxError, match=f'{tmp_path} holds no valid tokenizer'):
        tokenise.load_tokenizer(tmp_path)


def test_real_tokenizer(assets):
    tokenizer = tokenise.load_tokenizer(assets / 'stories260K-hf')
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert tokenizer.decode(tokenise.encode(tokenizer, 'Lily found a needle.')) == 'Lily found a needle.'
    question, answer = tokenise.encode_question(tokenizer, tokenise.template('plain', tokenizer), 'Who?', 'a cat')
    assert tokenizer.convert_ids_to_tokens(answer) == ['▁a', '▁c', 'at']
    assert tokenizer.decode(question).endswith('Answer:')
