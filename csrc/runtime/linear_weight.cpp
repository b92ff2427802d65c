#include "csrc/runtime/linear_weight.h"

#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>

namespace jitquant::runtime {

void require_features(const at::Tensor& input, const at::Tensor& weight, const std::string& kernel) {
  TORCH_CHECK(input.dim() > 0 && input.size(-1) == weight.size(1), "jitquant::", kernel, ": the input has ",
              input.dim() > 0 ? input.size(-1) : 0, " features and the weight takes ", weight.size(1),
              "; give it what the model was made for");
}

void require_float(const at::Tensor& input, const std::string& kernel) {
  TORCH_CHECK(input.scalar_type() == at::kFloat, "jitquant::", kernel, ": the input is ", input.scalar_type(),
              " and has to be float32; convert it with .float()");
}

bool adds_to(const at::Tensor& other, const std::vector<int64_t>& sizes) {
  return other.scalar_type() == at::kFloat && at::is_expandable_to(other.sizes(), sizes);
}

std::vector<int64_t> product_sizes(const at::Tensor& input, const at::Tensor& weight) {
  std::vector<int64_t> sizes = input.sizes().vec();
  sizes.back() = weight.size(0);
  return sizes;
}

at::Tensor scales_of(const Spec& spec) {
  return spec.tensors.at(1).to(at::kDouble).expand({spec.tensors[0].size(0)});
}

at::Tensor bias_of(const Spec& spec) {
  return spec.tensors.size() > 2 ? spec.tensors[2].to(at::kDouble)
                                 : at::zeros({spec.tensors.at(0).size(0)}, at::kDouble);
}

at::Tensor sums_of(const at::Tensor& weight) { return weight.to(at::kDouble).sum(1); }

}  // namespace jitquant::runtime
