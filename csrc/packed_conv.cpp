#include "csrc/packed_conv.h"

#include <torch/csrc/jit/serialization/import_source.h>

namespace jitquant {

namespace {

constexpr const char* kClassName = "__torch__.jitquant.PackedConv";

constexpr const char* kSource = R"(
class PackedConv:
  packed : Tensor
  scales : Tensor
  input_scale : float
  input_zero_point : int
  stride : List[int]
  padding : List[int]
  dilation : List[int]
  groups : int
  def __getstate__(self: __torch__.jitquant.PackedConv) -> Tuple[Tensor, Tensor, float, int, List[int], List[int], List[int], int]:
    dense = torch.to_dense(self.packed)
    if torch.gt(torch.dim(dense), torch.add(torch.len(self.stride), 2)):
      weight = torch.squeeze(dense, 2)
    else:
      weight = dense
    return (weight, self.scales, self.input_scale, self.input_zero_point, self.stride, self.padding, self.dilation, self.groups)
  def __setstate__(self: __torch__.jitquant.PackedConv, state: Tuple[Tensor, Tensor, float, int, List[int], List[int], List[int], int]) -> NoneType:
    weight, scales, input_scale, input_zero_point, stride, padding, dilation, groups, = state
    self.scales = scales
    self.input_scale = input_scale
    self.input_zero_point = input_zero_point
    self.stride = stride
    self.padding = padding
    self.dilation = dilation
    self.groups = groups
    self.packed = ops.onednn.qconv_prepack(weight, scales, input_scale, input_zero_point, stride, padding, dilation, groups)
    return None
)";

constexpr uint64_t kOpVersion = 1;

c10::ClassTypePtr class_in(const std::shared_ptr<torch::jit::CompilationUnit>& unit) {
  if (auto known = unit->get_class(c10::QualifiedName(kClassName))) {
    return known;
  }
  static const std::vector<c10::IValue> no_constants;
  torch::jit::SourceImporter importer(
      unit, &no_constants,
      [](const std::string&) {
        return std::make_shared<torch::jit::Source>(std::string(kSource), "jitquant/packed_conv", 1);
      },
      kOpVersion);
  return importer.loadType(c10::QualifiedName(kClassName))->expect<c10::ClassType>();
}

}  // namespace

c10::IValue make_packed_conv(const std::shared_ptr<torch::jit::CompilationUnit>& unit,
                             const torch::jit::Stack& arguments) {
  const auto type = class_in(unit);
  auto object = c10::ivalue::Object::create(c10::StrongTypePtr(unit, type), type->numAttributes());
  const size_t shape_hint = 1;  // the last argument, which the state leaves out
  std::vector<c10::IValue> state(arguments.begin(), arguments.end() - shape_hint);
  type->getMethod("__setstate__")({object, c10::ivalue::Tuple::create(std::move(state))});
  return object;
}

}  // namespace jitquant
