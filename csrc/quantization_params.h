// Scale and zero point of a value: as they are asked of an observer, and as they stand in a graph.
#pragma once

#include <optional>
#include <string>

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>

#include "csrc/pass.h"

namespace jitquant {

// What an observer decided. Scale (float32) and zero point (int64) hold one element, or one for each channel;
// the zero point is float32 where the scheme has float ones.
struct QParams {
  at::Tensor scale;
  at::Tensor zero_point;
  at::ScalarType dtype;
  std::optional<int64_t> axis;  // of per-channel parameters
};

// Whether an observer that TorchScript compiled has seen any data, as its min_val and max_val say.
bool has_observed(const torch::jit::Module& observer);

// Asks the observer. Nothing where scale or bounds are not finite.
std::optional<QParams> ask_observer(const torch::jit::Module& observer);

// The values in a graph that hold a quantized tensor's parameters.
struct QParamValues {
  torch::jit::Value* scale;
  torch::jit::Value* zero_point;
};

// Inputs 1 and 2 of an aten::quantize_per_tensor.
QParamValues qparams_of_quantize(torch::jit::Node* quantize);

// The parameters of a quantized value, found at the op that gave it. Ops that keep their input's are passed
// over, and fixed ones become constants before their op.
std::optional<QParamValues> qparams_of(torch::jit::Value* quantized);

// Scales and zero points of a symmetric weight that `quantize` makes integer, as tensors of one element or of
// one for each channel; of one for each row where that is asked for. Nothing where they are not known, or
// where it is not symmetric.
struct WeightParams {
  torch::jit::Value* scales;
  torch::jit::Value* zero_points;
};
std::optional<WeightParams> weight_params(const Context& context, const torch::jit::Node* quantize,
                                          torch::jit::Node* before, bool by_row);

// Whether both hold the same constants or attributes.
bool same_qparams(const Context& context, const QParamValues& left, const QParamValues& right);

// From quantized tensors to plain integers and back.
inline constexpr char kIntRepr[] = "aten::int_repr";
inline constexpr char kMakeQuantized[] = "aten::_make_per_tensor_quantized_tensor";

// An attribute of an op whose result has to saturate as its integers do, since a clamp went for that.
inline constexpr char kSaturates[] = "attr::saturates";

bool is_quantize(const torch::jit::Node* node);
bool is_dequantize(const torch::jit::Value* value);

}  // namespace jitquant
