// What has to be agreed on to make single ops of a calibrated model float: their numbers, the weights that
// they had, and the names of attributes.
#pragma once

#include <optional>
#include <vector>

#include <torch/csrc/jit/ir/ir.h>

#include "csrc/op_table.h"
#include "csrc/pass.h"

namespace jitquant {

// Attributes of an op whose weight is rounded: weight and bias as they were before.
inline constexpr char kFloatWeight[] = "attr::float_weight";
inline constexpr char kFloatBias[] = "attr::float_bias";

// Attributes of the top module: whether each op is rounded, the part of the model that it belongs to, and the
// ops that are to be left float.
inline constexpr char kSwitches[] = "_switches";
inline constexpr char kParts[] = "_parts";
inline constexpr char kLeftFloat[] = "_left_float";

// The user's ops of all methods in the order of their records (csrc/report.h), which is that of the methods'
// names. What smooth_inputs inserts is none of them.
std::vector<torch::jit::Node*> numbered_ops(const Context& context);

// Whether a value is what rounding to parameters that calibration found gives.
bool is_rounded(const torch::jit::Value* value);

// Where an op takes its one weight, if that is rounded.
std::optional<TensorSlot> rounded_weight_of(torch::jit::Node* node);

}  // namespace jitquant
