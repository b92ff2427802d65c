#include "csrc/dynamic.h"

#include <algorithm>

#include "csrc/graph_edit.h"
#include "csrc/onednn_faults.h"
#include "csrc/quantization_params.h"
#include "csrc/recurrent.h"

namespace jitquant {

namespace {

using torch::jit::Module;
using torch::jit::Node;
using torch::jit::Value;

bool takes_weight_alone(const Context& /*context*/, const Lowering& lowering) {
  return is_weight_only(lowering.node) && lowering.names.count("$weight_scales") != 0;
}

bool gives(const Node* node, at::ScalarType dtype) {
  if (!is_op(node, "aten::to") || node->inputs().size() < 2) {
    return false;
  }
  auto asked = constant_of(node->input(1));
  return asked && asked->isInt() && asked->toInt() == static_cast<int64_t>(dtype);
}

bool takes_half_weight(const Context& /*context*/, const Lowering& lowering) {
  return is_op(lowering.names.at("weight")->node(), kSaturateToHalf);
}

bool has_dtype(const Module& observer, at::ScalarType dtype) {
  return observer.hasattr("dtype") && observer.attr("dtype").isInt() &&
         static_cast<at::ScalarType>(observer.attr("dtype").toInt()) == dtype;
}

// Of each group one channel, whose float kernels take half the time.
bool is_depthwise(const Context& context, const Node* node) {
  auto groups = groups_of(node);
  auto index = node->schema().argumentIndexWithName("weight");
  auto weight = index ? context.static_tensor(node->input(*index)) : std::nullopt;
  return groups && *groups > 1 && weight && weight->size(1) == 1;
}

bool takes_dynamic_conv(const Context& context, const Lowering& lowering) {
  return context.options.engine != "qnnpack" && lowering.names.count("$reduce_range") != 0 &&
         lowering.names.count("$weight_scales") != 0 && !is_wrong_in_onednn(context, lowering);
}

std::string conv_recipe(const std::string& activation) {
  return "rounded = aten::quantize_per_tensor(input, $input_scale, $input_zero_point, quint8);"
         "plain = aten::int_repr(rounded);"
         "integers = aten::int_repr(weight);"
         "packed = onednn::qconv_prepack(integers, $weight_scales, 1.0, 0, stride, padding, dilation, groups,"
         "  None);"
         "onednn::qconv_pointwise(plain, $input_scale, $input_zero_point, packed, $weight_scales,"
         "  $weight_zero_points, bias, stride, padding, dilation, groups, 1.0, 0, float32, '" +
         activation + "', [], 'none')";
}

}  // namespace

Placeholder placeholder_of(const Module& observer) {
  if (has_dtype(observer, at::kHalf)) {
    return Placeholder::Half;
  }
  if (has_dtype(observer, at::kBFloat16)) {
    return Placeholder::Bfloat16;
  }
  if (has_dtype(observer, at::kFloat)) {
    return Placeholder::Float;
  }
  const bool dynamic = observer.hasattr("is_dynamic") && observer.attr("is_dynamic").isBool() &&
                       observer.attr("is_dynamic").toBool();
  return dynamic ? Placeholder::Dynamic : Placeholder::None;
}

bool has_float_zero_points(const Module& observer) {
  return observer.hasattr("qscheme") && observer.attr("qscheme").isInt() &&
         static_cast<at::QScheme>(observer.attr("qscheme").toInt()) == at::kPerChannelAffineFloatQParams;
}

bool reduces_range(const Module& observer) {
  return observer.hasattr("quant_max") && observer.attr("quant_max").isInt() &&
         observer.attr("quant_max").toInt() <= 127;
}

bool is_weight_only(const Node* node) { return node->hasAttribute(c10::Symbol::fromQualString(kWeightOnly)); }

Value* rounded_to_bfloat16(const Value* value) {
  Node* back = const_cast<Value*>(value)->node();
  return gives(back, at::kFloat) && gives(back->input(0)->node(), at::kBFloat16) ? back->input(0) : nullptr;
}

Node* chooser_of(const Value* dequantized) {
  if (!is_dequantize(dequantized) || !is_quantize(dequantized->node()->input()->node())) {
    return nullptr;
  }
  Node* chooser = dequantized->node()->input()->node()->input(1)->node();
  return is_op(chooser, kChooseQParams) ? chooser : nullptr;
}

bool is_static_quantize(const Node* node) {
  return is_quantize(node) && !is_op(node->input(1)->node(), kChooseQParams);
}

bool is_static(Node* node, const OpRow& row) {
  const auto slots = activation_slots(node, row);
  return std::any_of(slots.begin(), slots.end(), [](const auto& slot) {
    return is_dequantize(slot.value()) && chooser_of(slot.value()) == nullptr;
  });
}

bool is_dynamic(Node* node, const OpRow& row) {
  const auto inputs = activation_slots(node, row);
  const auto weights = weight_slots(node, row);
  const bool is_smaller_float = std::any_of(weights.begin(), weights.end(), [](const auto& slot) {
    return is_op(slot.value()->node(), kSaturateToHalf) || rounded_to_bfloat16(slot.value()) != nullptr;
  });
  return is_smaller_float || is_weight_only(node) ||
         std::any_of(inputs.begin(), inputs.end(),
                     [](const auto& slot) { return chooser_of(slot.value()) != nullptr; });
}

const std::vector<IntegerForm>& dynamic_forms(const Target& target) {
  return target.plain_integers ? native_dynamic_forms() : quantized_dynamic_forms();
}

const IntegerForm* find_dynamic_form(const Target& target, const OpRow& row) {
  const auto& forms = dynamic_forms(target);
  auto found = std::find_if(forms.begin(), forms.end(), [&](const auto& form) { return form.op == row.op; });
  return found == forms.end() ? nullptr : &*found;
}

bool has_dynamic_form(const Target& target, const OpRow& row) {
  return find_dynamic_form(target, row) != nullptr || has_recurrent_form(target, row);
}

bool looks_up(const OpRow& row) { return row.activations.empty(); }

bool suits(const Target& target, const OpRow& row, Placeholder activation, const Module& weight) {
  if (looks_up(row)) {
    return (activation == Placeholder::None || activation == Placeholder::Float) &&
           placeholder_of(weight) == Placeholder::None;
  }
  if (row.weights.empty() || activation == Placeholder::None || activation == Placeholder::Dynamic) {
    return row.weights.empty() || !has_float_zero_points(weight);
  }
  const bool is_half_cell = has_recurrent_form(target, row) && activation == Placeholder::Half;
  return !has_float_zero_points(weight) && (row.op == "aten::linear" || is_half_cell);
}

std::optional<std::string> why_never_dynamic(const Context& context, const Node* node) {
  if (!has_dynamic_form(context.target(), *find_row(node))) {
    return kNoDynamicForm;
  }
  return is_depthwise(context, node) ? std::optional<std::string>("it is depthwise, which is faster in float")
                                     : std::nullopt;
}

const IntegerForm* choose_dynamic_form(const Context& context, const Lowering& lowering) {
  const OpRow* row = find_row(lowering.node);
  const auto& forms = dynamic_forms(context.target());
  auto found = std::find_if(forms.begin(), forms.end(), [&](const auto& form) {
    return form.op == row->op && form.suits(context, lowering);
  });
  return found == forms.end() ? nullptr : &*found;
}

IntegerForm half_linear() {
  const std::string pack = "packed = quantized::linear_prepack_fp16(weight, bias);";
  return {.op = "aten::linear",
          .recipe = pack + "quantized::linear_dynamic_fp16(input, packed)",
          .relu_recipe = pack + "quantized::linear_relu_dynamic_fp16(input, packed)",
          .suits = takes_half_weight};
}

bool takes_bfloat16(const Context& /*context*/, const Lowering& lowering) {
  return lowering.names.count("$weight16") != 0;
}

IntegerForm weight_only_linear() {
  return {.op = "aten::linear",
          .recipe =
              "integers = aten::int_repr(weight);"
              "rows = jitquant::dequantize_rows(integers, $weight_scales);"
              "aten::linear(input, rows, bias)",
          .suits = takes_weight_alone};
}

// quantized::conv2d_dynamic is of no use: it rounds its result with the scale of its input, and clips it to
// the input's range (https://github.com/pytorch/pytorch/issues/70480). oneDNN's op gives float.
std::vector<IntegerForm> dynamic_convs() {
  std::vector<IntegerForm> forms;
  for (const char* op : {"aten::conv1d", "aten::conv2d"}) {
    forms.push_back(
        {.op = op,
         .recipe = conv_recipe("none"),
         .relu_recipe = conv_recipe("relu"),
         .suits = takes_dynamic_conv,
         .otherwise = "its weight is not symmetric, the engine has no oneDNN, or that computes it wrong"});
  }
  return forms;
}

}  // namespace jitquant
