// fold_attributes: attributes that are not tensors and that no method writes to become constants, so that a
// model in evaluation mode loses its training branches; and so do dtype and rank of weights.
//
// Before:
//   %training : bool = prim::GetAttr[name="training"](%dropout)
//   %dtype : int = prim::dtype(%weight)
// After:
//   %training : bool = prim::Constant[value=0]()
//   %dtype : int = prim::Constant[value=6]()
//
// Left alone: tensors (weights stay reachable by name), modules, and attributes that a method assigns.

#include <torch/csrc/jit/ir/constants.h>

#include "csrc/graph_edit.h"
#include "csrc/pass.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

bool holds_no_tensor_or_object(const c10::IValue& value) {
  if (value.isList() || value.isTuple()) {
    const auto elements =
        value.isList() ? value.toListRef() : c10::ArrayRef<c10::IValue>(value.toTupleRef().elements());
    return std::all_of(elements.begin(), elements.end(), holds_no_tensor_or_object);
  }
  if (value.isGenericDict()) {
    const auto dict = value.toGenericDict();
    return std::all_of(dict.begin(), dict.end(), [](const auto& entry) {
      return holds_no_tensor_or_object(entry.key()) && holds_no_tensor_or_object(entry.value());
    });
  }
  return value.isNone() || value.isBool() || value.isInt() || value.isDouble() || value.isString() ||
         value.isDevice();
}

// What a node gives in every call, if it reads an attribute or asks for what sort of tensor a weight is.
std::optional<c10::IValue> folded(const Context& context, const torch::jit::Node* node) {
  if (node->kind() == c10::prim::GetAttr) {
    return context.static_value(node->output());
  }
  if (!is_op(node, {"prim::dtype", "aten::dim", "aten::is_floating_point"})) {
    return std::nullopt;
  }
  auto weight = context.static_tensor(node->input());
  if (!weight) {
    return std::nullopt;
  }
  torch::jit::Stack stack{*weight};
  node->getOperation()(stack);
  return stack.back();
}

}  // namespace

int64_t FoldAttributes(Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(), [&](torch::jit::Node* node) {
      auto value = folded(context, node);
      if (!value || !holds_no_tensor_or_object(*value)) {
        return;
      }
      torch::jit::WithInsertPoint guard(node);
      if (auto constant = torch::jit::tryInsertConstant(*graph, *value)) {
        (*constant)->node()->copyMetadata(node);
        node->output()->replaceAllUsesWith(*constant);
        node->destroy();
        ++count;
      }
    });
  }
  return count;
}

JITQUANT_PASS(FoldAttributes, "fold_attributes", "Attributes that are not tensors become constants.");

}  // namespace jitquant
