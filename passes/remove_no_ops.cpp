// remove_no_ops: ops that give back what they were given, in evaluation mode.
//
// Before: %y : Tensor = aten::dropout(%x, %p, %false)
// After:  %x in the place of %y
//
// Left alone: dropout that is told to train, and padding of what is changed in place, since padding gives a
// copy.

#include "csrc/graph_edit.h"
#include "csrc/pass.h"
#include "csrc/walk.h"
#include "csrc/writes.h"

namespace jitquant {

namespace {

using torch::jit::Node;

bool is_dropout(const Node* node) {
  return is_op(
      node, {"aten::dropout", "aten::feature_dropout", "aten::alpha_dropout", "aten::feature_alpha_dropout"});
}

bool is_no_op(const Writes& writes, const Node* node) {
  if (is_dropout(node)) {
    auto train = constant_of(node->namedInput("train"));
    return train && !train->toBool();
  }
  if (node->kind() == c10::aten::constant_pad_nd && !writes.touch_any_of(node)) {
    auto pad = constant_of(node->namedInput("pad"));
    const auto sizes = pad ? pad->toIntVector() : std::vector<int64_t>{1};
    return std::all_of(sizes.begin(), sizes.end(), [](int64_t size) { return size == 0; });
  }
  return node->kind() == c10::aten::detach;
}

}  // namespace

int64_t RemoveNoOps(Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    const Writes writes(context, graph);
    for_each_node(graph->block(), [&](Node* node) {
      if (is_no_op(writes, node)) {
        node->output()->replaceAllUsesWith(node->input(0));
        node->destroy();
        ++count;
      }
    });
    eliminate_dead_code(graph);
  }
  return count;
}

JITQUANT_PASS(RemoveNoOps, "remove_no_ops", "Dropout, detach and padding by nothing go away.");

}  // namespace jitquant
