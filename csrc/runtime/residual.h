// The add behind a convolution or a matrix product where no primitive can do it along: of operands of other
// sizes, or of a float one to integers.
#pragma once

#include <functional>

#include "csrc/runtime/kernel.h"

namespace jitquant::runtime {

// Whether `other` can lie in the memory of the result.
bool adds_in_place(const at::Tensor& other, const Plan& plan);

// The kernel of this spec in three steps: float result, add, and what follows.
std::function<at::Tensor(Tensors)> add_apart(const Spec& spec);

}  // namespace jitquant::runtime
