// make_functional: in-place ops become their functional forms, where nobody else could see the change.
//
// Before: %y : Tensor = aten::relu_(%x)
// After:  %y : Tensor = aten::relu(%x)
//
// Left alone: changes that the caller, a buffer or another view of the same memory would see.

#include <torch/csrc/jit/passes/remove_mutation.h>

#include "csrc/pass.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

int64_t count_mutations(const std::shared_ptr<torch::jit::Graph>& graph) {
  int64_t count = 0;
  for_each_node(graph->block(), [&](torch::jit::Node* node) {
    const auto* schema = node->maybeSchema();
    count += schema != nullptr && schema->is_mutable();
  });
  return count;
}

}  // namespace

int64_t MakeFunctional(Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    const int64_t before = count_mutations(graph);
    torch::jit::RemoveListMutation(graph);
    torch::jit::RemoveTensorMutation(graph);
    count += before - count_mutations(graph);
  }
  return count;
}

JITQUANT_PASS(MakeFunctional, "make_functional", "In-place ops become their functional forms.");

}  // namespace jitquant
