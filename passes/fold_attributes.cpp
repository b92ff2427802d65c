// fold_attributes: attributes that are not tensors and that no method writes to become constants, so that a
// model in evaluation mode loses its training branches.
//
// Before: %training : bool = prim::GetAttr[name="training"](%dropout)
// After:  %training : bool = prim::Constant[value=0]()
//
// Left alone: tensors (weights stay reachable by name), modules, and attributes that a method assigns.

#include <torch/csrc/jit/ir/constants.h>

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

}  // namespace

int64_t FoldAttributes(Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(), [&](torch::jit::Node* node) {
      if (node->kind() != c10::prim::GetAttr) {
        return;
      }
      auto value = context.static_value(node->output());
      if (!value || !holds_no_tensor_or_object(*value)) {
        return;
      }
      torch::jit::WithInsertPoint guard(node);
      if (auto folded = torch::jit::tryInsertConstant(*graph, *value)) {
        (*folded)->node()->copyMetadata(node);
        node->output()->replaceAllUsesWith(*folded);
        node->destroy();
        ++count;
      }
    });
  }
  return count;
}

JITQUANT_PASS(FoldAttributes, "fold_attributes", "Attributes that are not tensors become constants.");

}  // namespace jitquant
