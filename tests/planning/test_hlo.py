"""What the text of compiled programs may look like."""

from pic_jax.planning import hlo

# As the TPU compiler prints the metadata of a Pallas kernel: one instruction on several lines.
TEXT = """HloModule jit_f, num_partitions=4

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %kernel = f32[4]{0} custom-call(%x), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
}}, metadata={op_name="kernel"}
  ROOT %out = f32[4]{0} negate(%kernel)
}
"""


def test_an_instruction_may_take_several_lines():
    module = hlo.parse(TEXT)
    entry = module.computations[module.entry]
    assert list(entry.instructions) == ['x', 'kernel', 'out']
    assert entry.root.operands == ['kernel']
    assert module.devices == 4
