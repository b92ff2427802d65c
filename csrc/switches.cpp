#include "csrc/switches.h"

#include <map>

#include "csrc/dynamic.h"
#include "csrc/quantization_params.h"
#include "csrc/report.h"
#include "csrc/smoothing.h"
#include "csrc/walk.h"

namespace jitquant {

using torch::jit::Node;
using torch::jit::Value;

std::vector<Node*> numbered_ops(const Context& context) {
  std::map<std::string, std::shared_ptr<torch::jit::Graph>> by_name;
  const auto graphs = context.graphs();
  for (size_t i = 0; i < graphs.size(); ++i) {
    by_name[context.methods()[i]] = graphs[i];
  }
  std::vector<Node*> nodes;
  for (const auto& [method, graph] : by_name) {
    for_each_node(graph->block(), [&](Node* node) {
      if (computes(context, node)) {
        nodes.push_back(node);
      }
    });
  }
  return nodes;
}

bool is_rounded(const Value* value) {
  return is_dequantize(value) && chooser_of(value) == nullptr &&
         is_op(value->node()->input()->node(), {"aten::quantize_per_tensor", "aten::quantize_per_channel"});
}

std::optional<TensorSlot> rounded_weight_of(Node* node) {
  const OpRow* row = find_row(node);
  if (row == nullptr || row->weight() == nullptr) {
    return std::nullopt;
  }
  const auto slots = weight_slots(node, *row);
  return slots.size() == 1 && is_rounded(slots[0].value()) ? std::optional(slots[0]) : std::nullopt;
}

}  // namespace jitquant
