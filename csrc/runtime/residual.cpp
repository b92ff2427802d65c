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
  Spec rest;
  rest.set("kernel", std::string("activation"));
  rest.set("input", QParams{1, 0});
  for (const char* word : {"output", "activation"}) {
    if (spec.has(word)) {
      rest.set(word, spec.word(word));
    }
  }
  return [multiply = make_kernel(product), finish = make_kernel(rest),
          params = *spec.qparams("other")](Tensors given) {
    at::Tensor other = given[1];
    if (other.scalar_type() == at::kByte) {
      other = numbers_of(other, params);
    }
    return finish->run({multiply->run({given[0]}) + other});
  };
}

}  // namespace jitquant::runtime
