#include "csrc/writes.h"

#include <algorithm>

#include "csrc/input_statistics.h"
#include "csrc/pass.h"
#include "csrc/walk.h"

namespace jitquant {

Writes::Writes(const Context& context, const std::shared_ptr<torch::jit::Graph>& graph) : context_(context) {
  bool mutates = false;
  for_each_node(graph->block(), [&](torch::jit::Node* node) {
    const auto* schema = node->maybeSchema();
    // A record adds to what nothing else has.
    mutates = mutates || (schema != nullptr && schema->is_mutable() && !is_record(node));
  });
  if (mutates) {
    aliases_.emplace(graph);
  }
}

bool Writes::touch(const torch::jit::Value* value) const {
  return aliases_ && !context_.static_tensor(value) && aliases_->hasWriters(value);
}

bool Writes::touch_any_of(const torch::jit::Node* node) const {
  auto touched = [&](const torch::jit::Value* value) { return touch(value); };
  return std::any_of(node->inputs().begin(), node->inputs().end(), touched) ||
         std::any_of(node->outputs().begin(), node->outputs().end(), touched);
}

}  // namespace jitquant
