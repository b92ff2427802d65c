// lower_plain_integers: on a target of plain integers, what is left of quantized tensors goes away.
//
// Before:
//   %q = aten::quantize_per_tensor(%x, %scale, %zero_point, %dtype)
//   %i = aten::int_repr(%q)
//   ...
//   %r = aten::_make_per_tensor_quantized_tensor(%j, %scale.1, %zero_point.1)
//   %y = aten::dequantize(%r)
// After (with the %factors of an aten::multiply before the quantize):
//   %k = jitquant::quantize_prepack(%scale, %zero_point, %none, %factors)
//   %i = jitquant::quantize(%x, %k)
//   ...
//   %k.1 = jitquant::dequantize_prepack(%scale.1, %zero_point.1)
//   %y = jitquant::dequantize(%j, %k.1)
//
// Left alone: weights, and other targets.

#include "csrc/graph_edit.h"
#include "csrc/pass.h"
#include "csrc/quantization_params.h"
#include "csrc/smoothing.h"
#include "csrc/target.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

// Activations only: a quantized weight is a constant once the module is frozen.
bool gives_activation(const Node* quantize) {
  auto dtype = is_quantize(quantize) ? constant_of(quantize->input(3)) : std::nullopt;
  return dtype && static_cast<at::ScalarType>(dtype->toInt()) == at::kQUInt8;
}

Value* insert_quantize(Node* quantize) {
  std::vector<Value*> arguments{quantize->input(1), quantize->input(2), constant(quantize, c10::IValue())};
  Value* input = quantize->input(0);
  if (is_smoothed(quantize)) {
    arguments.push_back(input->node()->input(1));
    input = input->node()->input(0);
  }
  Value* kernel = insert_op(quantize, quantize, "jitquant::quantize_prepack", arguments);
  return insert_op(quantize, quantize, "jitquant::quantize", {input, kernel});
}

Value* insert_dequantize(Node* before, const Node* made) {
  Value* kernel = insert_op(before, before, "jitquant::dequantize_prepack", {made->input(1), made->input(2)});
  return insert_op(before, before, "jitquant::dequantize", {made->input(0), kernel});
}

bool lower(Node* node) {
  if (gives_activation(node)) {
    Value* integers = nullptr;
    for (const auto& use : std::vector(node->output()->uses())) {
      if (is_op(use.user, kIntRepr)) {
        integers = integers != nullptr ? integers : insert_quantize(node);
        use.user->output()->replaceAllUsesWith(integers);
      }
    }
    return integers != nullptr;
  }
  const bool asks = asks_for_shape(node);
  Node* source = asks || node->kind() == c10::aten::dequantize ? node->input(0)->node() : nullptr;
  if (source == nullptr || !is_op(source, kMakeQuantized)) {
    return false;
  }
  if (asks) {
    node->replaceInput(0, source->input(0));
    return true;
  }
  node->output()->replaceAllUsesWith(insert_dequantize(node, source));
  return true;
}

}  // namespace

int64_t LowerPlainIntegers(Context& context) {
  if (!context.target().plain_integers) {
    return 0;
  }
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(), [&](Node* node) { count += lower(node); });
    eliminate_dead_code(graph);
  }
  return count;
}

JITQUANT_PASS(LowerPlainIntegers, "lower_plain_integers",
              "On a target of plain integers, quantized tensors go away.");

}  // namespace jitquant
