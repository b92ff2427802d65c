// What a value is in every call, where that is known beforehand.
#pragma once

#include <optional>

#include <torch/csrc/jit/ir/ir.h>

namespace jitquant {

class Context;

// It is known, or follows by ATen's ops from what is known. Nothing for all else.
std::optional<c10::IValue> evaluate(const Context& context, const torch::jit::Value* value);

// All inputs of a node, or nothing.
std::optional<torch::jit::Stack> evaluate_inputs(const Context& context, const torch::jit::Node* node);

}  // namespace jitquant
