#include "csrc/evaluate.h"

#include "csrc/pass.h"

namespace jitquant {

using torch::jit::Node;
using torch::jit::Value;

namespace {

// No op: the interpreter makes lists.
std::optional<c10::IValue> evaluate_list(const Context& context, const Node* node) {
  auto elements = evaluate_inputs(context, node);
  if (!elements) {
    return std::nullopt;
  }
  c10::impl::GenericList list(node->output()->type()->expectRef<c10::ListType>().getElementType());
  for (const auto& element : *elements) {
    list.push_back(element);
  }
  return list;
}

}  // namespace

std::optional<c10::IValue> evaluate(const Context& context, const Value* value) {
  if (auto known = context.static_value(value)) {
    return known;
  }
  const Node* node = value->node();
  if (node->kind() == c10::prim::ListConstruct) {
    return evaluate_list(context, node);
  }
  const bool computes = node->kind().is_aten() && !node->schema().is_mutable();
  const bool same_again = computes && node->outputs().size() == 1 && !node->isNondeterministic();
  auto stack = same_again ? evaluate_inputs(context, node) : std::nullopt;
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
