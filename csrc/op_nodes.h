// The ops that a qconfig can be chosen for: those with a row in the op table, in program order.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <torch/csrc/jit/ir/ir.h>

namespace jitquant {

class Context;

std::vector<torch::jit::Node*> nodes_with_rows(const std::shared_ptr<torch::jit::Graph>& graph);

struct OpNode {
  std::string op;    // "aten::conv2d"
  std::string path;  // of its module
  std::string line;  // of the user's source
  // The places of the ops that its inputs come from, directly or through lists, branches and loops.
  std::vector<size_t> producers;
  std::optional<std::vector<int64_t>> weight_shape;  // where it has a weight that is known
};

// One for each of nodes_with_rows, in the same order.
std::vector<OpNode> op_nodes(const Context& context, const std::shared_ptr<torch::jit::Graph>& graph);

}  // namespace jitquant
