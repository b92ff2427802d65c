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

std::optional<Record> products_of(Node* op, const at::Tensor& weight) {
  const int64_t inputs = weight.numel() / weight.size(0);
  auto arguments = inputs <= kMostInputs ? arguments_of(op, weight) : std::nullopt;
  if (!arguments) {
    return std::nullopt;
  }
  return Record{at::zeros({*groups_of(op), inputs + 1, inputs + 1}, at::kFloat), std::move(*arguments)};
}

}  // namespace

int64_t ObserveProducts(Context& context) { return insert_records(context, kRecordProducts, products_of); }

JITQUANT_PASS(ObserveProducts, "observe_products", "The products of what weights multiply are recorded.");

}  // namespace jitquant
