// Dynamic quantization: the weight is made integer at conversion, and the input at each call, with the range
// that it has then. In a graph that is
//   %scale, %zero_point = aten::_choose_qparams_per_tensor(%x, %reduce_range)
//   %q = aten::quantize_per_tensor(%x, %scale, %zero_point, %dtype)
//   %d = aten::dequantize(%q)
// or, of weights in half precision, aten::_saturate_weight_to_fp16 before the weight alone.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <torch/csrc/jit/api/module.h>

#include "csrc/op_table.h"
#include "csrc/target.h"

namespace jitquant {

// What an observer that records nothing stands for.
enum class Placeholder {
  None,     // it is an observer that records
  Dynamic,  // a value whose range is found at each call
  Half,     // a weight in half precision, and the float value it is multiplied with
  Float,    // a value that stays as it is, beside a weight that may become integer
};

Placeholder placeholder_of(const torch::jit::Module& observer);

// Whether its integers keep to 7 of their 8 bits.
bool reduces_range(const torch::jit::Module& observer);

inline constexpr char kChooseQParams[] = "aten::_choose_qparams_per_tensor";
inline constexpr char kSaturateToHalf[] = "aten::_saturate_weight_to_fp16";
inline constexpr char kUnsuited[] = "no qconfig of a kind that suits it names it";

// Whether its scales and zero points are float and belong to rows that are looked up.
bool has_float_zero_points(const torch::jit::Module& observer);

// The op that found the parameters of a dequantized value in the same call, or nullptr.
torch::jit::Node* chooser_of(const torch::jit::Value* dequantized);

// Whether the input or the weight of a node is as described above.
bool is_dynamic(torch::jit::Node* node, const OpRow& row);

// What a target makes of ops whose inputs get their range at each call. As in the integer forms, and
//   input                              the float value itself,
//   $input_scale, $input_zero_point    those of this call; not known of weights in half precision,
//   $reduce_range                      whether to keep to 7 bits; likewise.
const std::vector<IntegerForm>& dynamic_forms(const Target& target);
const std::vector<IntegerForm>& quantized_dynamic_forms();
const std::vector<IntegerForm>& native_dynamic_forms();

// The first form for a row, or nullptr; and the one for a node.
const IntegerForm* find_dynamic_form(const Target& target, const OpRow& row);
const IntegerForm* choose_dynamic_form(const Context& context, const Lowering& lowering);

// Why nothing is gained by making a node with a row dynamic, or nothing.
std::optional<std::string> why_never_dynamic(const Context& context, const torch::jit::Node* node);

// The same on each target: linears with weights in half precision, and convolutions.
IntegerForm half_linear();
std::vector<IntegerForm> dynamic_convs();

}  // namespace jitquant
