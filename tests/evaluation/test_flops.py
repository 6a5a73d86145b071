"""count_flops against XLA's own count of programs without loops, and against closed forms."""

from pathlib import Path

import flops
import jax
import jax.numpy as jnp
import pytest

from pic_jax.config import DecoderConfig
from pic_jax.evaluation.flops import count_flops
from pic_jax.models.decoder import Decoder

X_BI, W_IO = jax.ShapeDtypeStruct((3, 5), jnp.float32), jax.ShapeDtypeStruct((5, 7), jnp.float32)


def test_a_product_takes_two_operations_per_multiplied_pair():
    assert count_flops(lambda x, w: x @ w, X_BI, W_IO) == 2 * 3 * 5 * 7
    assert count_flops(lambda x, w: jnp.einsum('bi,bio->bo', x, jnp.stack([w] * 3)), X_BI, W_IO) == 2 * 3 * 5 * 7


def test_a_gradient_counts_what_xla_counts_without_loops():
    def loss(w_II, x_BI):
        return jnp.sum((x_BI @ w_II @ w_II) ** 2)

    args = jax.ShapeDtypeStruct((64, 64), jnp.float32), jax.ShapeDtypeStruct((128, 64), jnp.float32)
    products = count_flops(jax.grad(loss), *args)
    assert products == 5 * 2 * 128 * 64 * 64
    xla = jax.jit(jax.grad(loss)).lower(*args).cost_analysis()['flops']
    assert products <= xla <= 1.03 * products


def test_a_scan_counts_every_round_and_a_branch_the_larger_one():
    def rounds(x_BI, w_II):
        return jax.lax.scan(lambda x, _: (jax.jit(jnp.matmul)(x, w_II), None), x_BI, length=9)[0]

    w_II = jax.ShapeDtypeStruct((5, 5), jnp.float32)
    assert count_flops(rounds, X_BI, w_II) == 9 * 2 * 3 * 5 * 5
    branch = lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)
    assert count_flops(branch, X_BI, w_II) == 2 * 2 * 3 * 5 * 5


def test_a_loop_of_unknown_length_is_refused_only_with_products_in_it():
    w_II = jax.ShapeDtypeStruct((5, 5), jnp.float32)
    with pytest.raises(ValueError, match='while'):
        count_flops(lambda w: jax.lax.while_loop(lambda w: w[0, 0] < 9, lambda w: w @ w, w), w_II)
    assert count_flops(lambda w: jax.lax.while_loop(lambda w: w[0, 0] < 9, lambda w: w + 1, w @ w), w_II) == 2 * 125


def test_a_decoder_pass_has_the_closed_form():
    B, T, D, F, N, H, L, V = 2, 6, 16, 24, 4, 4, 3, 32
    config = DecoderConfig(
        vocab_size=V, hidden_size=D, intermediate_size=F, num_hidden_layers=L, num_attention_heads=N,
        num_key_value_heads=N, head_dim=H, max_position_embeddings=T,
    )  # fmt: skip
    decoder, tokens_BT = Decoder(config), jax.ShapeDtypeStruct((B, T), jnp.int32)
    base = jax.eval_shape(lambda: decoder.init(jax.random.key(0), jnp.zeros((B, T), jnp.int32), method='forward'))
    count = count_flops(lambda base, tokens_BT: decoder.apply(base, tokens_BT, method='forward'), base, tokens_BT)
    weights, attention = L * (4 * D * N * H + 3 * D * F) + D * V, L * 2 * T * N * H
    assert count == 2 * B * T * (weights + attention)


@pytest.mark.slow
def test_the_table_of_the_readme_is_what_the_benchmark_counts():
    found = {name: [flops.measure(n, **options) for n in flops.LENGTHS] for name, options in flops.ROWS.items()}
    readme = (Path(__file__).parents[2] / 'README.md').read_text('utf-8')
    assert flops.table(found) in readme
    ratio = found['icae'][0][1].executed / found['icformer'][0][1].executed
    assert f'512 tokens to 128 vectors cost IC-Former 1/{ratio:.1f} of ICAE' in readme
