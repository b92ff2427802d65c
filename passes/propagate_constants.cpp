// propagate_constants: computes what depends on constants alone, and takes the branches that are thereby
// decided.
//
// Before:
//   %training : bool = prim::Constant[value=0]()
//   %y : Tensor = prim::If(%training)
//     block0(): ...
//     block1(): -> (%x)
// After: %x in the place of %y

#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/lower_tuples.h>
#include <torch/csrc/jit/passes/peephole.h>

#include "csrc/graph_edit.h"
#include "csrc/pass.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

int64_t count_nodes(const std::shared_ptr<torch::jit::Graph>& graph) {
  int64_t count = 0;
  for_each_node(graph->block(),
                [&](torch::jit::Node* node) { count += node->kind() != c10::prim::Constant; });
  return count;
}

}  // namespace

int64_t PropagateConstants(Context& context) {
  int64_t count = 0;
  for (auto graph : context.graphs()) {
    const int64_t before = count_nodes(graph);
    torch::jit::ConstantPropagation(graph, /*ignore_custom_classes=*/true);
    // What goes through a tuple is another name to alias analysis.
    torch::jit::LowerSimpleTuples(graph);
    torch::jit::PeepholeOptimize(graph, /*disable_shape_peepholes=*/true);
    eliminate_dead_code(graph);
    count += before - count_nodes(graph);
  }
  return count;
}

JITQUANT_PASS(PropagateConstants, "propagate_constants", "Computes what depends on constants alone.");

}  // namespace jitquant
