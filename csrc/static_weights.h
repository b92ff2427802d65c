// Weights and biases that a pass puts into the place of an op's own.
#pragma once

#include <string>
#include <unordered_map>

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/ir/ir.h>

#include "csrc/pass.h"

namespace jitquant {

using Uses = std::unordered_map<std::string, size_t>;  // what Context::attribute_uses gives

// Whether an attribute is used at several call sites.
bool is_shared(const Uses& uses, const torch::jit::Value* value);

// Gives an op another weight or bias: in the attribute that it reads, or where others read that too, beside
// it.
void replace_weight(Context& context, torch::jit::Node* op, const char* argument, const at::Tensor& data,
                    bool is_shared);

}  // namespace jitquant
