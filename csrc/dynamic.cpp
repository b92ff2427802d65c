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

bool takes_half_weight(const Context& /*context*/, const Lowering& lowering) {
  return is_op(lowering.names.at("weight")->node(), kSaturateToHalf);
}

}  // namespace

Placeholder placeholder_of(const Module& observer) {
  const bool half = observer.hasattr("dtype") && observer.attr("dtype").isInt() &&
                    static_cast<at::ScalarType>(observer.attr("dtype").toInt()) == at::kHalf;
  if (half) {
    return Placeholder::Half;
  }
  const bool dynamic = observer.hasattr("is_dynamic") && observer.attr("is_dynamic").isBool() &&
                       observer.attr("is_dynamic").toBool();
  return dynamic ? Placeholder::Dynamic : Placeholder::None;
}

bool reduces_range(const Module& observer) {
  return observer.hasattr("quant_max") && observer.attr("quant_max").isInt() &&
         observer.attr("quant_max").toInt() <= 127;
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
  return std::any_of(weights.begin(), weights.end(),
                     [](const auto& slot) { return is_op(slot.value()->node(), kSaturateToHalf); }) ||
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

}  // namespace jitquant
