// The rewrite engine: rules are rows of IR text.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include <torch/csrc/jit/ir/ir.h>

#include "csrc/pass.h"

namespace jitquant {

// The values of one match, by their names in the pattern, without '%'.
using MatchedValues = std::unordered_map<std::string, torch::jit::Value*>;

struct RewriteRule {
  std::string name;
  // Graphs in IR text with the same inputs. Constants are inputs, since constants are shared between nodes.
  std::string pattern;
  std::string replacement;
  // What constant inputs must be.
  std::unordered_map<std::string, c10::IValue> where = {};
  // What else must hold.
  bool (*condition)(const Context&, const MatchedValues&) = nullptr;
};

// Applies each rule in order wherever it matches and returns how often. New nodes get the module path and
// source line of the last node they replace. What is changed in place is left alone.
int64_t apply_rules(const Context& context, const std::shared_ptr<torch::jit::Graph>& graph,
                    const std::vector<RewriteRule>& rules);

}  // namespace jitquant
