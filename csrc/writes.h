// Whether the memory of a value is changed in place, under whatever name.
#pragma once

#include <memory>
#include <optional>

#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/ir.h>

namespace jitquant {

// Knows the values that the graph has when it is made. Costs next to nothing where a graph has no in-place
// op.
class Writes {
 public:
  explicit Writes(const std::shared_ptr<torch::jit::Graph>& graph);

  // Whether some op of the graph writes to the value or to what shares its memory.
  bool touch(const torch::jit::Value* value) const;
  bool touch_any_of(const torch::jit::Node* node) const;

 private:
  std::optional<torch::jit::AliasDb> aliases_;
};

}  // namespace jitquant
