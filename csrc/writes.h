// Whether the memory of a value is changed in place, under whatever name.
#pragma once

#include <memory>
#include <optional>

#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/ir.h>

namespace jitquant {

class Context;

// Knows the values that the graph has when it is made. Costs next to nothing where a graph has no in-place
// op.
class Writes {
 public:
  Writes(const Context& context, const std::shared_ptr<torch::jit::Graph>& graph);

  // Whether some op of the graph writes to the value or to what shares its memory. An attribute that no
  // method writes to is not touched, whatever else may share its memory as far as alias analysis knows.
  bool touch(const torch::jit::Value* value) const;
  bool touch_any_of(const torch::jit::Node* node) const;

 private:
  const Context& context_;
  std::optional<torch::jit::AliasDb> aliases_;
};

}  // namespace jitquant
