// The one way to walk a graph: every node of every block, in program order or against it.
#pragma once

#include <vector>

#include <torch/csrc/jit/ir/ir.h>

namespace jitquant {

// Visits a node before the blocks inside it. The visitor may insert nodes, and may destroy the node it is
// given where that has no blocks.
template <typename Visitor>
void for_each_node(torch::jit::Block* block, Visitor&& visit) {
  for (auto it = block->nodes().begin(); it != block->nodes().end();) {
    torch::jit::Node* node = *it++;
    const std::vector<torch::jit::Block*> inner(node->blocks().begin(), node->blocks().end());
    visit(node);
    for (torch::jit::Block* nested : inner) {
      for_each_node(nested, visit);
    }
  }
}

// The same from the last node to the first, a node after the blocks inside it. The visitor may destroy the
// node it is given and those it has seen; what it inserts is not visited.
template <typename Visitor>
void for_each_node_from_the_end(torch::jit::Block* block, Visitor&& visit) {
  std::vector<torch::jit::Node*> nodes;
  for_each_node(block, [&](torch::jit::Node* node) { nodes.push_back(node); });
  for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) {
    visit(*node);
  }
}

}  // namespace jitquant
