// observe_channels: the range, the mean and the mean square of each channel that a linear takes are recorded
// during calibration, for smooth_inputs.
//
// Before:
//   %y : Tensor = aten::linear(%x, %weight, %bias)
// After:
//   %sums : Tensor = prim::GetAttr[name="_statistics_0"](%self)
//    = jitquant::record_channels(%x, %sums, %lowest, %highest)
//   %y : Tensor = aten::linear(%x, %weight, %bias)
//
// %lowest and %highest are the integers that the observer of %x may use. Linears that take the same value
// share a node. Left alone: convolutions, linears whose weight has no observer, and inputs that an op moved
// behind their observer.

#include <ATen/ATen.h>

#include "csrc/graph_edit.h"
#include "csrc/input_statistics.h"
#include "csrc/observer_calls.h"

namespace jitquant {

namespace {

using torch::jit::Module;
using torch::jit::Node;

int64_t setting(const Module& observer, const char* name, int64_t otherwise) {
  return observer.hasattr(name) && observer.attr(name).isInt() ? observer.attr(name).toInt() : otherwise;
}

std::optional<Record> channels_of(const Context& context, Node* op, const at::Tensor& weight) {
  auto name = called_observer(op->input(0)->node());
  if (!is_op(op, "aten::linear") || !name) {
    return std::nullopt;
  }
  const Module observer(context.attribute(*name)->toObject());
  return Record{
      at::zeros({4, weight.size(1) + 1}, at::kDouble),
      {constant(op, setting(observer, "quant_min", 0)), constant(op, setting(observer, "quant_max", 255))}};
}

}  // namespace

int64_t ObserveChannels(Context& context) {
  return insert_records(context, kRecordChannels,
                        [&](Node* op, const at::Tensor& weight) { return channels_of(context, op, weight); });
}

JITQUANT_PASS(ObserveChannels, "observe_channels", "Ranges of the channels that linears take are recorded.");

}  // namespace jitquant
