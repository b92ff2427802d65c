// observe_means: the mean of each channel that a convolution or linear takes is recorded during calibration,
// for correct_bias.
//
// Before:
//   %y : Tensor = aten::conv2d(%x, %weight, ...)
// After:
//   %sums : Tensor = prim::GetAttr[name="_statistics_0"](%self)
//    = jitquant::record_means(%x, %sums, %axis)
//   %y : Tensor = aten::conv2d(%x, %weight, ...)
//
// Left alone: transposed convolutions, of which each output sees another part of the weight; ops whose weight
// has no observer; and those whose products are recorded.

#include <ATen/ATen.h>

#include "csrc/graph_edit.h"
#include "csrc/input_statistics.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

bool record(Context& context, Node* op) {
  if (is_op(op->prev(), kRecordProducts)) {
    return false;
  }
  auto weight = context.static_tensor(op->namedInput("weight")->node()->input(1));
  auto groups = groups_of(op);
  if (!weight || !groups) {
    return false;
  }
  Value* input = op->input(0);
  const int64_t axis = 1 - weight->dim();  // counted from the end, as a batch is not always there
  const at::Tensor sums = at::zeros({weight->size(1) * *groups + 1}, at::kDouble);
  Value* read = context.new_attribute(op, "_statistics_", sums, c10::TensorType::get());
  Node* node = op->owningGraph()->create(c10::Symbol::fromQualString(kRecordMeans),
                                         {input, read, constant(op, axis)}, 0);
  node->insertBefore(op);
  node->copyMetadata(op);
  return true;
}

}  // namespace

int64_t ObserveMeans(Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(),
                  [&](Node* node) { count += has_observed_weight(node) && record(context, node); });
  }
  return count;
}

JITQUANT_PASS(ObserveMeans, "observe_means", "The means of what weights multiply are recorded.");

}  // namespace jitquant
