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
// Linears that take the same value share a node.
//
// Left alone: transposed convolutions, of which each output sees another part of the weight; ops whose weight
// has no observer; and those whose products are recorded.

#include <algorithm>

#include <ATen/ATen.h>

#include "csrc/graph_edit.h"
#include "csrc/input_statistics.h"
#include "csrc/op_table.h"

namespace jitquant {

namespace {

using torch::jit::Node;

bool has_products(const Node* op) {
  const auto& uses = op->input(0)->uses();
  return std::any_of(uses.begin(), uses.end(), [&](const auto& use) {
    if (!is_op(use.user, kRecordProducts)) {
      return false;
    }
    const auto ops = ops_behind(use.user);
    return std::find(ops.begin(), ops.end(), op) != ops.end();
  });
}

std::optional<Record> means_of(Node* op, const at::Tensor& weight) {
  auto groups = groups_of(op);
  if (has_products(op) || !groups) {
    return std::nullopt;
  }
  const int64_t axis = 1 - weight.dim();  // counted from the end, as a batch is not always there
  return Record{at::zeros({weight.size(1) * *groups + 1}, at::kDouble), {constant(op, axis)}};
}

}  // namespace

int64_t ObserveMeans(Context& context) { return insert_records(context, kRecordMeans, means_of); }

JITQUANT_PASS(ObserveMeans, "observe_means", "The means of what weights multiply are recorded.");

}  // namespace jitquant
