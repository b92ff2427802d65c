// Which node gives the value of each op of the user's in the end. number_ops writes on each of them its
// number, that of its report; fusion and the passes behind it hand on what they replace; conversion takes
// all numbers off the final graph and writes down where it found them.
#pragma once

#include <memory>
#include <vector>

#include <torch/csrc/jit/ir/ir.h>

namespace jitquant {

// An op's report, and which of the node's tensors is its value: none of one that lies within a fused op.
struct Place {
  int64_t report;
  int64_t output;
};
inline constexpr int64_t kWithin = -1;

// `reports` are of ops fused into `node`, in program order: the last of them gives the value.
void set_places(torch::jit::Node* node, const std::vector<int64_t>& reports);

// `made` stands for what these nodes (some of which may be nullptr) stood for, in program order; its value is
// that of the last.
void join_places(const std::vector<const torch::jit::Node*>& nodes, torch::jit::Node* made);

// Output i of `made` is the value of part i.
void part_places(const std::vector<const torch::jit::Node*>& parts, torch::jit::Node* made);

std::vector<Place> places_of(const torch::jit::Node* node);
void remove_places(torch::jit::Node* node);

}  // namespace jitquant
