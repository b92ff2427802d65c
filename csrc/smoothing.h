// How a graph says that a value is multiplied with a factor for each channel right before it is quantized.
#pragma once

#include "csrc/graph_edit.h"
#include "csrc/quantization_params.h"

namespace jitquant {

// The other name of aten::mul: normalize_ops leaves none of the user's, so only smooth_inputs makes it, it
// has no row in the op table, and stock torch runs it.
constexpr const char* kSmooth = "aten::multiply";

inline bool is_smoothed(const torch::jit::Node* quantize) {
  return is_quantize(quantize) && is_op(quantize->input(0)->node(), kSmooth);
}

// The quantize that a value goes to through such factors and nowhere else, or nullptr.
inline torch::jit::Node* smoothed_quantize(const torch::jit::Value* value) {
  torch::jit::Node* multiply = only_user(value);
  if (multiply == nullptr || !is_op(multiply, kSmooth)) {
    return nullptr;
  }
  torch::jit::Node* quantize = only_user(multiply->output());
  return quantize != nullptr && is_quantize(quantize) ? quantize : nullptr;
}

}  // namespace jitquant
