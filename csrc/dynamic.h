// Dynamic quantization: the weight is made integer at conversion, and the input at each call, with the range
// that it has then. In a graph that is
//   %scale, %zero_point = aten::_choose_qparams_per_tensor(%x, %reduce_range)
//   %q = aten::quantize_per_tensor(%x, %scale, %zero_point, %dtype)
//   %d = aten::dequantize(%q)
// or, of weights in half precision, aten::_saturate_weight_to_fp16 before the weight alone; or, of bfloat16,
//   %r = aten::to(%x, %bfloat16, ...)
//   %d = aten::to(%r, %float, ...)
// before both; or, where only the weight is integer, its quantize and dequantize, and a mark on the op.
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
  None,      // it is an observer that records
  Dynamic,   // a value whose range is found at each call
  Half,      // a weight in half precision, and the float value it is multiplied with
  Bfloat16,  // a value that is rounded to bfloat16
  Float,     // one that stays as it is, though the weight becomes integer
};

Placeholder placeholder_of(const torch::jit::Module& observer);

// Whether its integers keep to 7 of their 8 bits.
bool reduces_range(const torch::jit::Module& observer);

inline constexpr char kChooseQParams[] = "aten::_choose_qparams_per_tensor";
inline constexpr char kSaturateToHalf[] = "aten::_saturate_weight_to_fp16";
inline constexpr char kNoDynamicForm[] = "it has no dynamic form";
inline constexpr char kOnlyDynamicForm[] =
    "it has a dynamic form only: name a dynamic qconfig for it (see quantize_dynamic_jit)";
inline constexpr char kUnsuited[] = "no qconfig of a kind that suits it names it";

// An attribute of an op of which only the weight becomes integer.
inline constexpr char kWeightOnly[] = "attr::weight_only";
bool is_weight_only(const torch::jit::Node* node);

// What is behind a value that was rounded to bfloat16 and made float again: the rounded one, or nullptr.
torch::jit::Value* rounded_to_bfloat16(const torch::jit::Value* value);

// Whether its scales and zero points are float and belong to rows that are looked up.
bool has_float_zero_points(const torch::jit::Module& observer);

// The op that found the parameters of a dequantized value in the same call, or nullptr.
torch::jit::Node* chooser_of(const torch::jit::Value* dequantized);

// Whether a node rounds to parameters that calibration found, and not to those of each call.
bool is_static_quantize(const torch::jit::Node* node);

// Whether a node takes an activation of such parameters.
bool is_static(torch::jit::Node* node, const OpRow& row);

// Whether an input or a weight of a node is as described above.
bool is_dynamic(torch::jit::Node* node, const OpRow& row);

// What a target makes of ops whose inputs get their range at each call. As in the integer forms, and
//   input                              the float value itself,
//   $input_scale, $input_zero_point    those of this call; not known of weights that are no integers,
//   $reduce_range                      whether to keep to 7 bits; likewise,
//   $input16, $weight16, $bias16       in bfloat16, where the two first are rounded to that.
const std::vector<IntegerForm>& dynamic_forms(const Target& target);
const std::vector<IntegerForm>& quantized_dynamic_forms();
const std::vector<IntegerForm>& native_dynamic_forms();

// Whether an op is made integer dynamically: by one of these forms, or by csrc/recurrent.h.
bool has_dynamic_form(const Target& target, const OpRow& row);

// The first form for a row, or nullptr; and the one for a node.
const IntegerForm* find_dynamic_form(const Target& target, const OpRow& row);
const IntegerForm* choose_dynamic_form(const Context& context, const Lowering& lowering);

// Whether a row stands for what takes no activations, but looks rows of its weight up.
bool looks_up(const OpRow& row);

// Whether observers of that kind are meant for what a row stands for. Rows that are looked up have no integer
// input, and nothing else has float zero points.
bool suits(const Target& target, const OpRow& row, Placeholder activation, const torch::jit::Module& weight);

// Why nothing is gained by making a node with a row dynamic, or nothing.
std::optional<std::string> why_never_dynamic(const Context& context, const torch::jit::Node* node);

// The same on each target: linears with weights in half precision, and convolutions.
IntegerForm half_linear();
std::vector<IntegerForm> dynamic_convs();

// Likewise where only the weight is integer: its file holds integers, and loading makes them float again.
IntegerForm weight_only_linear();

// Whether the input and the weight of a node are rounded to bfloat16.
bool takes_bfloat16(const Context& context, const Lowering& lowering);

}  // namespace jitquant
