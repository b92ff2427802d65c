// What is fused with what, decided once: an op, the add of another value behind it, and the elementwise
// function behind that.
#pragma once

#include <optional>

#include <torch/csrc/jit/ir/ir.h>

#include "csrc/op_table.h"
#include "csrc/target.h"

namespace jitquant {

struct Chain {
  torch::jit::Node* op;
  torch::jit::Node* add = nullptr;         // nullptr where nothing is added
  torch::jit::Value* other = nullptr;      // what is added, float or dequantized
  torch::jit::Node* activation = nullptr;  // nullptr where there is none
  torch::jit::Value* end;                  // what the last of them gives
};

// The longest chain that begins at an op with this row and this form. With `through_pairs`, a quantize and
// dequantize between two of its ops do not break it.
Chain find_chain(torch::jit::Node* op, const OpRow& row, const IntegerForm& form, bool through_pairs);

// The dequantize behind `value`, if a quantize and that one are all that uses it.
torch::jit::Value* past_pair(torch::jit::Value* value);

}  // namespace jitquant
