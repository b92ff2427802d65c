#include "csrc/quantization_params.h"

#include <ATen/ATen.h>

#include "csrc/graph_edit.h"
#include "csrc/op_table.h"

namespace jitquant {

namespace {

using torch::jit::Module;
using torch::jit::Node;
using torch::jit::Value;

bool all_finite(const at::Tensor& tensor) { return at::isfinite(tensor).all().item<bool>(); }

std::optional<at::Tensor> tensor_attribute(const Module& module, const std::string& name) {
  if (!module.hasattr(name) || !module.attr(name).isTensor()) {
    return std::nullopt;
  }
  return module.attr(name).toTensor();
}

}  // namespace

bool has_observed(const Module& observer) {
  auto low = tensor_attribute(observer, "min_val");
  auto high = tensor_attribute(observer, "max_val");
  if (!low || !high) {
    return true;  // nothing to be seen, as with fixed parameters
  }
  // Observers start empty, or with an infinite minimum above an infinite maximum.
  return low->numel() != 0 && !(*low > *high).all().item<bool>();
}

std::optional<QParams> ask_observer(const Module& observer) {
  at::NoGradGuard no_grad;
  for (const char* bound : {"min_val", "max_val"}) {
    auto value = tensor_attribute(observer, bound);
    if (value && !all_finite(*value)) {
      return std::nullopt;
    }
  }
  const auto result = observer.get_method("calculate_qparams")(std::vector<c10::IValue>{}).toTuple();
  QParams params;
  params.scale = result->elements()[0].toTensor().to(at::kFloat);
  const auto scheme = static_cast<at::QScheme>(observer.attr("qscheme").toInt());
  const bool is_float = scheme == at::kPerChannelAffineFloatQParams;
  params.zero_point = result->elements()[1].toTensor().to(is_float ? at::kFloat : at::kLong);
  if (!all_finite(params.scale)) {
    return std::nullopt;
  }
  params.dtype = static_cast<at::ScalarType>(observer.attr("dtype").toInt());
  if (is_float || scheme == at::kPerChannelAffine || scheme == at::kPerChannelSymmetric) {
    params.axis = observer.attr("ch_axis").toInt();
  }
  return params;
}

QParamValues qparams_of_quantize(Node* quantize) { return {quantize->input(1), quantize->input(2)}; }

std::optional<QParamValues> qparams_of(Value* quantized) {
  Node* node = quantized->node();
  while (true) {
    if (node->kind() == c10::aten::quantize_per_tensor) {
      return qparams_of_quantize(node);
    }
    const auto* schema = node->maybeSchema();
    for (const char* name : {"output_scale", "Y_scale_i", "scale"}) {
      auto scale = schema == nullptr ? std::nullopt : schema->argumentIndexWithName(name);
      if (scale) {
        // The zero point follows the scale in every stock op.
        return QParamValues{node->input(*scale), node->input(*scale + 1)};
      }
    }
    const OpRow* row = find_row(node);
    if (row != nullptr && row->output == Output::Fixed) {
      return QParamValues{constant(node, row->fixed->scale), constant(node, row->fixed->zero_point)};
    }
    const bool keeps_them = row != nullptr && row->output == Output::SameAsInput;
    if (!keeps_them && node->kind() != c10::prim::ListUnpack) {
      return std::nullopt;
    }
    node = node->input(0)->node();
  }
}

std::optional<WeightParams> weight_params(const Context& context, const Node* quantize, Node* before,
                                          bool by_row) {
  auto weight = context.static_tensor(quantize->input(0));
  auto scale = context.static_value(quantize->input(1));
  auto zero_point = context.static_value(quantize->input(2));
  const bool known = weight && scale && zero_point;
  const bool symmetric = known && (zero_point->isTensor() ? !zero_point->toTensor().any().item<bool>()
                                                          : zero_point->toInt() == 0);
  if (!symmetric) {
    return std::nullopt;
  }
  if (scale->isTensor()) {
    return WeightParams{quantize->input(1), quantize->input(2)};
  }
  const int64_t count = by_row ? weight->size(0) : 1;
  return WeightParams{constant(before, at::full({count}, scale->toDouble())),
                      constant(before, at::full({count}, zero_point->toInt(), at::kLong))};
}

bool same_qparams(const Context& context, const QParamValues& left, const QParamValues& right) {
  auto same = [&](Value* a, Value* b) {
    if (a == b) {
      return true;
    }
    auto known = context.static_value(a);
    auto other = context.static_value(b);
    return known && other && *known == *other;
  };
  return same(left.scale, right.scale) && same(left.zero_point, right.zero_point);
}

bool is_quantize(const Node* node) { return node->kind() == c10::aten::quantize_per_tensor; }

bool is_dequantize(const Value* value) { return value->node()->kind() == c10::aten::dequantize; }

}  // namespace jitquant
