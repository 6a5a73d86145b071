"""A small tokenizer, trained here, saved and read back as a model folder has it."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pic_jax.config import CorpusConfig
from pic_jax.data import generator, tokenise


@pytest.fixture(scope='session')
def tokenizer_folder(tmp_path_factory):
    """A byte-level BPE of 500 tokens in HF format, with bos 1 and eos 2."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=['<unk>', '<s>', '</s>'],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    records = generator.generate(CorpusConfig(), 'train', 50, seed=0)
    bpe.train_from_iterator([record.context for record in records], trainer)
    bpe.post_processor = processors.TemplateProcessing(single='<s> $A', special_tokens=[('<s>', 1)])
    folder = tmp_path_factory.mktemp('tokenizer')
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token='<s>', eos_token='</s>', unk_token='<unk>')
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizer(tokenizer_folder):
    return tokenise.load_tokenizer(tokenizer_folder)
