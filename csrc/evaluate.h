// What values are in every call, computed now.
#pragma once

#include <optional>

#include <torch/csrc/jit/ir/ir.h>

#include "csrc/pass.h"

namespace jitquant {

// What a value is in every call: it is known, or follows by ATen's ops from what is known.
std::optional<c10::IValue> evaluate(const Context& context, const torch::jit::Value* value);

// The inputs of a node, where all of them are known so.
std::optional<torch::jit::Stack> evaluate_inputs(const Context& context, const torch::jit::Node* node);

}  // namespace jitquant
