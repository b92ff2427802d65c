// observe_products: how the inputs that a weight multiplies go together is recorded during calibration, for
// round_weights.
//
// Before:
//   %y : Tensor = aten::linear(%x, %weight, %bias)
// After:
//   %sums : Tensor = prim::GetAttr[name="_statistics_0"](%self)
//    = jitquant::record_products(%x, %sums, %window, %stride, %padding, %dilation, %groups)
//   %y : Tensor = aten::linear(%x, %weight, %bias)
//
// Left alone, for observe_means: three-dimensional convolutions, and weights with so many inputs for an
// output that their products would take more memory than the weights of a large network.

#include <ATen/ATen.h>

#include "csrc/graph_edit.h"
#include "csrc/input_statistics.h"
#include "csrc/op_table.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

constexpr int64_t kMostInputs = 2304;

// The arguments behind input and sums, or nothing where the op is not one to record.
std::optional<std::vector<Value*>> arguments_of(Node* op, const at::Tensor& weight) {
  const std::vector<int64_t> none;
  if (is_op(op, "aten::linear")) {
    Value* empty = constant(op, none);
    return std::vector<Value*>{empty, empty, empty, empty, constant(op, 1)};
  }
  if (!is_op(op, {"aten::conv1d", "aten::conv2d"}) || !groups_of(op)) {
    return std::nullopt;
  }
  std::vector<Value*> arguments{constant(op, weight.sizes().slice(2).vec())};
  for (const char* name : {"stride", "padding", "dilation", "groups"}) {
    Value* value = op->namedInput(name);
    if (!constant_of(value)) {
      return std::nullopt;
    }
    arguments.push_back(value);
  }
  return arguments;
}

bool record(Context& context, Node* op) {
  auto weight = context.static_tensor(op->namedInput("weight")->node()->input(1));
  if (!weight || weight->numel() / weight->size(0) > kMostInputs) {
    return false;
  }
  auto arguments = arguments_of(op, *weight);
  if (!arguments) {
    return false;
  }
  const int64_t depth = weight->numel() / weight->size(0) + 1;
  const at::Tensor sums = at::zeros({*groups_of(op), depth, depth}, at::kFloat);
  Value* read = context.new_attribute(op, "_statistics_", sums, c10::TensorType::get());
  arguments->insert(arguments->begin(), {op->input(0), read});
  Node* node = op->owningGraph()->create(c10::Symbol::fromQualString(kRecordProducts), *arguments, 0);
  node->insertBefore(op);
  node->copyMetadata(op);
  return true;
}

}  // namespace

int64_t ObserveProducts(Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(),
                  [&](Node* node) { count += has_observed_weight(node) && record(context, node); });
  }
  return count;
}

JITQUANT_PASS(ObserveProducts, "observe_products", "The products of what weights multiply are recorded.");

}  // namespace jitquant
