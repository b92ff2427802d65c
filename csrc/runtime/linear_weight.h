// What the kernels of linears share: the check of the input, and the numbers of a spec's weight.
#pragma once

#include <string>
#include <vector>

#include "csrc/runtime/kernel.h"

namespace jitquant::runtime {

// Raises where the input's last dimension is not what the weight, [output, input], takes.
void require_features(const at::Tensor& input, const at::Tensor& weight, const std::string& kernel);
// Raises where the input is not float32.
void require_float(const at::Tensor& input, const std::string& kernel);

// Whether an operand can be added in place: it is float32, and the sum is no larger than the product.
bool adds_to(const at::Tensor& other, const std::vector<int64_t>& sizes);

// The sizes of the product.
std::vector<int64_t> product_sizes(const at::Tensor& input, const at::Tensor& weight);

// Of each output channel, in double precision: the weight's scale, the bias or 0, and the sum of the weights.
at::Tensor scales_of(const Spec& spec);
at::Tensor bias_of(const Spec& spec);
at::Tensor sums_of(const at::Tensor& weight);

}  // namespace jitquant::runtime
