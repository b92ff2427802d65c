#include "csrc/packed_weight.h"

#include <ATen/ATen.h>
#include <torch/csrc/jit/serialization/import_source.h>
#include <torch/library.h>

namespace jitquant {

namespace {

constexpr const char* kPackedConv = R"(
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

// oneDNN keeps the weight of a linear transposed.
constexpr const char* kPackedLinear = R"(
class PackedLinear:
  packed : Tensor
  def __getstate__(self: __torch__.jitquant.PackedLinear) -> Tuple[Tensor]:
    return (torch.contiguous(torch.t(torch.to_dense(self.packed))),)
  def __setstate__(self: __torch__.jitquant.PackedLinear, state: Tuple[Tensor]) -> NoneType:
    weight, = state
    self.packed = ops.onednn.qlinear_prepack(weight, None)
    return None
)";

// The integers come back: what is rounded here is off by less than a thousandth. (torch.div has changed since
// the version of these sources.)
constexpr const char* kDequantizedRows = R"(
class DequantizedRows:
  packed : Tensor
  scales : Tensor
  def __getstate__(self: __torch__.jitquant.DequantizedRows) -> Tuple[Tensor, Tensor]:
    integers = torch.round(torch.mul(self.packed, torch.reciprocal(torch.unsqueeze(self.scales, 1))))
    return (torch.to(integers, 1), self.scales)
  def __setstate__(self: __torch__.jitquant.DequantizedRows, state: Tuple[Tensor, Tensor]) -> NoneType:
    integers, scales, = state
    self.scales = scales
    self.packed = torch.mul(torch.to(integers, 6), torch.unsqueeze(scales, 1))
    return None
)";

// torch itself saves such a weight as float32.
constexpr const char* kPackedHalf = R"(
class PackedHalf:
  packed : __torch__.torch.classes.quantized.LinearPackedParamsBase
  def __getstate__(self: __torch__.jitquant.PackedHalf) -> Tuple[Tensor, Optional[Tensor]]:
    weight, bias, = ops.quantized.linear_unpack_fp16(self.packed)
    return (torch.to(weight, 5), bias)
  def __setstate__(self: __torch__.jitquant.PackedHalf, state: Tuple[Tensor, Optional[Tensor]]) -> NoneType:
    weight, bias, = state
    self.packed = ops.quantized.linear_prepack_fp16(torch.to(weight, 6), bias)
    return None
)";

struct Holder {
  const char* prepack;
  const char* class_name;
  const char* source;
  int hints;  // the op's last arguments that the state leaves out: hints of the input's shape
};

constexpr Holder kHolders[]{
    {"onednn::qconv_prepack", "__torch__.jitquant.PackedConv", kPackedConv, 1},
    {"onednn::qlinear_prepack", "__torch__.jitquant.PackedLinear", kPackedLinear, 1},
    {"jitquant::dequantize_rows", "__torch__.jitquant.DequantizedRows", kDequantizedRows, 0},
    {"quantized::linear_prepack_fp16", "__torch__.jitquant.PackedHalf", kPackedHalf, 0},
};

constexpr uint64_t kOpVersion = 1;

// What an embedding looks up; fold_prepack runs these, so that no file has them.
at::Tensor pack_rows(const at::Tensor& weight) { return weight.int_repr(); }
at::Tensor pack_row_scales(const at::Tensor& scales) { return scales.to(at::kFloat).unsqueeze(1); }

// What a linear of float inputs multiplies with; files have the integers (kDequantizedRows).
at::Tensor dequantize_rows(const at::Tensor& integers, const at::Tensor& scales) {
  return integers.to(at::kFloat) * scales.to(at::kFloat).unsqueeze(1);
}

// Of each row the integers, two to a byte, then scale and bias in half precision: what ATen's ops on 4-bit
// rows read. ATen packs rows so itself, into an object that it saves and cannot load.
at::Tensor pack_rows_4bit(const at::Tensor& weight) {
  TORCH_CHECK(weight.scalar_type() == at::kQUInt4x2 && weight.dim() == 2 && weight.is_contiguous(),
              "jitquant::pack_rows_4bit: the weight is no matrix of quint4x2; quantize it along axis 0");
  const at::Tensor scales = weight.q_per_channel_scales().to(at::kFloat);
  const at::Tensor zero_points = weight.q_per_channel_zero_points().to(at::kFloat);
  const at::Tensor steps = weight.dequantize() / scales.unsqueeze(1);
  at::Tensor integers = (steps + zero_points.unsqueeze(1)).round().clamp(0, 15).to(at::kByte);
  integers = at::constant_pad_nd(integers, {0, weight.size(1) % 2});
  const at::Tensor low = integers.slice(1, 0, std::nullopt, 2);
  const at::Tensor high = integers.slice(1, 1, std::nullopt, 2);
  const at::Tensor ends = at::stack({scales, -scales * zero_points}, 1).to(at::kHalf);
  return at::cat({low + high * 16, ends.view(at::kByte)}, 1);
}

TORCH_LIBRARY_FRAGMENT(jitquant, library) {
  library.def("pack_rows(Tensor weight) -> Tensor", pack_rows);
  library.def("pack_rows_4bit(Tensor weight) -> Tensor", pack_rows_4bit);
  library.def("pack_row_scales(Tensor scales) -> Tensor", pack_row_scales);
  library.def("dequantize_rows(Tensor integers, Tensor scales) -> Tensor", dequantize_rows);
}

c10::ClassTypePtr class_in(const std::shared_ptr<torch::jit::CompilationUnit>& unit, const Holder& holder) {
  const c10::QualifiedName name(holder.class_name);
  if (auto known = unit->get_class(name)) {
    return known;
  }
  static const std::vector<c10::IValue> no_constants;
  torch::jit::SourceImporter importer(
      unit, &no_constants,
      [&](const std::string&) {
        return std::make_shared<torch::jit::Source>(std::string(holder.source), "jitquant/packed_weight", 1);
      },
      kOpVersion);
  return importer.loadType(name)->expect<c10::ClassType>();
}

}  // namespace

std::optional<c10::IValue> make_packed_weight(const std::shared_ptr<torch::jit::CompilationUnit>& unit,
                                              c10::Symbol prepack, const torch::jit::Stack& arguments) {
  for (const Holder& holder : kHolders) {
    if (prepack == c10::Symbol::fromQualString(holder.prepack)) {
      const auto type = class_in(unit, holder);
      auto object = c10::ivalue::Object::create(c10::StrongTypePtr(unit, type), type->numAttributes());
      std::vector<c10::IValue> state(arguments.begin(), arguments.end() - holder.hints);
      type->getMethod("__setstate__")({object, c10::ivalue::Tuple::create(std::move(state))});
      return object;
    }
  }
  return std::nullopt;
}

}  // namespace jitquant
