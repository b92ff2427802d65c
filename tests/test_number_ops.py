"""number_ops: each op of the user's has its number, whatever is quantized around it."""

from torch.testing import FileCheck

from jitquant.passes import parse_ir, run_pass

IR = """
graph(%self, %x : Tensor):
  %scale : float = prim::Constant[value=0.5]()
  %zero : int = prim::Constant[value=0]()
  %dtype : int = prim::Constant[value=13]()
  %q : Tensor = aten::quantize_per_tensor(%x, %scale, %zero, %dtype)
  %d : Tensor = aten::dequantize(%q)
  %y : Tensor = aten::relu(%d)
  %n : int = aten::size(%y, %zero)
  %z : Tensor = aten::sigmoid(%y)
  return (%z, %n)"""


def test_ops_are_numbered_in_program_order():
    """Test that ops which compute are numbered, and what quantizes or asks for shapes is not."""
    module = parse_ir(IR)
    assert run_pass("number_ops", module) == 2
    text = FileCheck().check("aten::dequantize(").check("aten::relu[places=[0, 0]](")
    text.check("aten::size(").check("aten::sigmoid[places=[1, 0]](").run(module.graph)
