// remember_weights: each op keeps the weight and the bias that it has before they are rounded and corrected,
// so that it can be made float again.
//
// Before:
//   %w : Tensor = aten::dequantize(%q)   (%q is of %weight)
//   %c : Tensor = aten::conv2d(%x, %w, %bias, ...)
// After:
//   %c : Tensor = aten::conv2d[float_weight=..., float_bias=...](%x, %w, %bias, ...)
//
// It is for insert_switches, and runs where the values of weights are still those of the float model, or
// equal to them but for a factor that the input has. Left alone: ops whose weight no static qconfig rounds.

#include "csrc/pass.h"
#include "csrc/switches.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Node;

bool remember(const Context& context, Node* node) {
  const auto weight = rounded_weight_of(node);
  auto values =
      weight ? context.static_tensor(weight->value()->node()->input()->node()->input(0)) : std::nullopt;
  if (!values) {
    return false;
  }
  node->t_(c10::Symbol::fromQualString(kFloatWeight), *values);
  const OpRow* row = find_row(node);
  auto bias = row->bias ? context.static_tensor(node->namedInput(*row->bias)) : std::nullopt;
  if (bias) {
    node->t_(c10::Symbol::fromQualString(kFloatBias), *bias);
  }
  return true;
}

}  // namespace

int64_t RememberWeights(Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(), [&](Node* node) { count += remember(context, node); });
  }
  return count;
}

JITQUANT_PASS(RememberWeights, "remember_weights", "Ops keep the weights that they have before rounding.");

}  // namespace jitquant
