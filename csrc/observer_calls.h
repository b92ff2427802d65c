// Observers in a graph: submodules of the top module named _observer_0, _observer_1, …, each called on one
// value.
#pragma once

#include <optional>
#include <string>

#include <torch/csrc/jit/ir/ir.h>

namespace jitquant {

constexpr const char* kObserverPrefix = "_observer_";

// The observer's name if the node calls one, else nothing. Input 1 of such a node is the value that is
// observed.
std::optional<std::string> called_observer(const torch::jit::Node* node);

// Whether the value is what an observer gave back.
inline bool is_observed(const torch::jit::Value* value) { return called_observer(value->node()).has_value(); }

}  // namespace jitquant
