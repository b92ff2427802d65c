#include "csrc/evaluate.h"

namespace jitquant {

using torch::jit::Node;
using torch::jit::Value;

std::optional<c10::IValue> evaluate(const Context& context, const Value* value) {
  if (auto known = context.static_value(value)) {
    return known;
  }
  const Node* node = value->node();
  const bool computes = node->kind().is_aten() || node->kind() == c10::prim::ListConstruct;
  auto stack = computes && node->outputs().size() == 1 ? evaluate_inputs(context, node) : std::nullopt;
  if (!stack) {
    return std::nullopt;
  }
  node->getOperation()(*stack);
  return stack->back();
}

std::optional<torch::jit::Stack> evaluate_inputs(const Context& context, const Node* node) {
  torch::jit::Stack stack;
  for (const Value* input : node->inputs()) {
    auto value = evaluate(context, input);
    if (!value) {
      return std::nullopt;
    }
    stack.push_back(*value);
  }
  return stack;
}

}  // namespace jitquant
