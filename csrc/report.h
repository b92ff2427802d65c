// What became of each op of the user's model, and why.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <torch/csrc/jit/ir/ir.h>

namespace jitquant {

class Context;

// Either `becomes` or `reason` is empty.
struct Fate {
  std::string becomes;  // the integer op that it is now, or is part of
  std::string reason;   // why it stays float
};

struct OpReport {
  std::string op;
  std::string path;  // of its module
  std::string line;  // of the user's source
  Fate fate;
  int64_t weights = 0;  // how many values its weight has
};

// Whether a node is an op of the user's that computes tensors from what is given at each call.
bool computes(const Context& context, torch::jit::Node* node);

OpReport report_on(const Context& context, torch::jit::Node* node, Fate fate);

// How many values are quantized that were computed from dequantized ones.
int64_t count_round_trips(const std::shared_ptr<torch::jit::Graph>& graph);

}  // namespace jitquant
