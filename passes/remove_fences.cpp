// remove_fences: takes away the marks that kept ops float, once fusion is done.
//
// Before: %f : Tensor = aten::alias(%y)
// After:  %y in the place of %f

#include "csrc/graph_edit.h"
#include "csrc/op_table.h"
#include "csrc/pass.h"
#include "csrc/walk.h"

namespace jitquant {

int64_t RemoveFences(Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(), [&](torch::jit::Node* node) {
      if (is_op(node, kFence)) {
        node->output()->replaceAllUsesWith(node->input());
        node->destroy();
        ++count;
      }
    });
  }
  return count;
}

JITQUANT_PASS(RemoveFences, "remove_fences", "Takes away the marks that kept ops float.");

}  // namespace jitquant
