#include "csrc/dynamic.h"

#include <algorithm>

#include "csrc/graph_edit.h"
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

}  // namespace

Placeholder placeholder_of(const Module& observer) {
  const bool has_dtype = observer.hasattr("dtype") && observer.attr("dtype").isInt();
  switch (has_dtype ? static_cast<at::ScalarType>(observer.attr("dtype").toInt()) : at::kQUInt8) {
    case at::kHalf:
      return Placeholder::Half;
    case at::kBFloat16:
      return Placeholder::Bfloat16;
    case at::kFloat:
      return Placeholder::Float;
    default:
      break;
  }
  const bool dynamic = observer.hasattr("is_dynamic") && observer.attr("is_dynamic").isBool() &&
                       observer.attr("is_dynamic").toBool();
  return dynamic ? Placeholder::Dynamic : Placeholder::None;
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

}  // namespace jitquant
