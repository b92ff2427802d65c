#include "csrc/report.h"

#include <algorithm>
#include <unordered_set>

#include "csrc/dynamic.h"
#include "csrc/error.h"
#include "csrc/graph_edit.h"
#include "csrc/module_path.h"
#include "csrc/observer_calls.h"
#include "csrc/op_table.h"
#include "csrc/pass.h"
#include "csrc/quantization_params.h"
#include "csrc/smoothing.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

bool holds_tensors(const Value* value) {
  const auto& type = value->type();
  const auto list = type->cast<c10::ListType>();
  return type->isSubtypeOf(*c10::TensorType::get()) ||
         (list && list->getElementType()->isSubtypeOf(*c10::TensorType::get()));
}

// The values of a weight, or of its quantized and dequantized copy.
int64_t values_of(const Context& context, const Value* weight) {
  const auto is_link = [](const Node* node) {
    return is_quantize(node) || is_op(node, {"aten::dequantize", "aten::quantize_per_channel",
                                             "aten::_saturate_weight_to_fp16", "aten::to"});
  };
  while (is_link(weight->node()) || is_observed(weight)) {
    weight = weight->node()->input(is_observed(weight) ? 1 : 0);
  }
  auto data = context.static_tensor(weight);
  return data ? data->numel() : 0;
}

// Whether a node is one of the two casts of a value that is rounded to bfloat16.
bool rounds_to_bfloat16(const Node* node) {
  if (!is_op(node, "aten::to")) {
    return false;
  }
  const auto& uses = node->output()->uses();
  return rounded_to_bfloat16(node->output()) != nullptr ||
         std::any_of(uses.begin(), uses.end(), [&](const auto& use) {
           return use.user->outputs().size() == 1 &&
                  rounded_to_bfloat16(use.user->output()) == node->output();
         });
}

}  // namespace

bool computes(const Context& context, Node* node) {
  const bool helps =
      is_quantize(node) || asks_for_shape(node) ||
      is_op(node, {"aten::dequantize", "aten::quantize_per_channel", kFence, "aten::detach", kSmooth});
  if (helps || rounds_to_bfloat16(node) || node->maybeSchema() == nullptr || node->kind().is_prim() ||
      std::none_of(node->outputs().begin(), node->outputs().end(), holds_tensors)) {
    return false;
  }
  return std::any_of(node->inputs().begin(), node->inputs().end(), [&](const Value* input) {
    return holds_tensors(input) && input->node()->kind() != c10::prim::Constant &&
           !context.static_tensor(input);
  });
}

int64_t count_round_trips(const std::shared_ptr<torch::jit::Graph>& graph) {
  std::unordered_set<const Value*> dequantized;  // or computed from such
  int64_t count = 0;
  for_each_node(graph->block(), [&](const Node* node) {
    const bool starts = is_op(node, {"aten::dequantize", "jitquant::dequantize"});
    const bool ends = is_quantize(node) || is_op(node, "jitquant::quantize");
    const bool goes_on = std::any_of(node->inputs().begin(), node->inputs().end(),
                                     [&](const Value* input) { return dequantized.count(input) != 0; });
    count += ends && goes_on;
    if (starts || (goes_on && !ends)) {
      for (const Value* output : node->outputs()) {
        if (holds_tensors(output)) {
          dequantized.insert(output);
        }
      }
    }
  });
  return count;
}

OpReport report_on(const Context& context, Node* node, Fate fate) {
  const OpRow* row = find_row(node);
  int64_t weights = 0;
  for (const auto& slot : row == nullptr ? std::vector<TensorSlot>() : weight_slots(node, *row)) {
    weights += values_of(context, slot.value());
  }
  return {node->kind().toQualString(), path_of(node), source_line(node), std::move(fate), weights};
}

}  // namespace jitquant
