#include "csrc/runtime/residual.h"

#include <ATen/ATen.h>

#include "csrc/runtime/onednn.h"

namespace jitquant::runtime {

bool adds_in_place(const at::Tensor& other, const Plan& plan) {
  return other.sizes() == c10::IntArrayRef(plan.sizes) && other.scalar_type() == plan.dtype;
}

std::function<at::Tensor(Tensors)> add_apart(const Spec& spec) {
  Spec product = spec;
  for (const char* word : {"sum", "other", "output", "activation"}) {
    product.erase(word);
  }
  return [multiply = make_kernel(product), finish = activation_behind(spec),
          params = *spec.qparams("other")](Tensors given) {
    at::Tensor other = given[1];
    if (other.scalar_type() == at::kByte) {
      other = numbers_of(other, params);
    }
    return finish->run({(multiply->run({given[0]}) + other).to(at::kFloat)});
  };
}

}  // namespace jitquant::runtime
