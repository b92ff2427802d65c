// Which convolutions torch's oneDNN computes wrong, so that none of them is given to it.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "csrc/target.h"

namespace jitquant {

// The weight of a convolution before it became integers, where it is known.
std::optional<at::Tensor> float_weight_of(const Context& context, const torch::jit::Node* conv);

// Whether oneDNN gives wrong numbers for a convolution, or reads memory that is not its own, on a processor
// that this one need not be. What depends on the size of its input is not seen here (README, Known faults).
bool is_wrong_in_onednn(const Context& context, const Lowering& lowering);

}  // namespace jitquant
