"""What `export` writes for PEFT, loaded by PEFT."""

import warnings

import pytest

peft = pytest.importorskip('peft', reason="needs peft: pip install 'pic_jax[torch]'")
torch = pytest.importorskip('torch', reason="needs torch: pip install 'pic_jax[torch]'")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import transformers  # noqa: E402

from pic_jax.config import LoraConfig  # noqa: E402
from pic_jax.interop.peft import write_adapter  # noqa: E402
from pic_jax.models import hf  # noqa: E402
from pic_jax.models.decoder import Decoder  # noqa: E402
from pic_jax.models.lora import adapted, init_lora  # noqa: E402

ALL = ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj')
TOKENS = np.random.default_rng(3).integers(2, 64, (2, 9)).astype(np.int32)


@pytest.fixture(scope='module')
def target(tiny_config, random_params, tmp_path_factory):
    """A target on disk: (folder, decoder, parameters)."""
    decoder, folder = Decoder(tiny_config()), tmp_path_factory.mktemp('target')
    params = random_params(decoder)
    hf.write_model(folder, jax.tree.map(np.asarray, params), decoder.config, jnp.float32)
    return folder, decoder, params


@pytest.mark.parametrize(
    'config', [LoraConfig(rank=2, alpha=4.0), LoraConfig(rank=3, alpha=1.5, targets=ALL)], ids=['attention', 'all']
)
def test_peft_loads_the_adapter_and_computes_the_same(target, tmp_path, config):
    folder, decoder, params = target
    fresh = init_lora(jax.random.key(0), params, config)
    lora = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape) / 3, fresh)
    write_adapter(tmp_path, lora, config, str(folder), None)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warnings.filterwarnings('ignore', '.is_gradient_checkpointing', FutureWarning)  # between the two of them
        base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        theirs = model(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()
        with model.disable_adapter():
            without = model(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()
    ours = decoder.apply(adapted(params, lora, config), TOKENS, method='forward')
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)
    assert np.abs(theirs - without).max() > 0.1
