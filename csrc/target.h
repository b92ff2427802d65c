// What a target makes of an op: its column of the op table. One file holds each target's column.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torch/csrc/jit/ir/ir.h>

#include "csrc/op_table.h"
#include "csrc/pass.h"

namespace jitquant {

// The values and facts from which the integer op of one node is made.
struct Lowering {
  torch::jit::Node* node;                           // the float op; its activations are dequantized values
  std::map<std::string, torch::jit::Value*> names;  // arguments of the schema by name, and $names
  bool relu = false;                                // a relu stands between the op and its quantize
  bool sum = false;                                 // an add stands there, whose other operand is $other
};

// One integer form of an op, as a recipe: statements "name = op(argument, ...)" separated by ';', the last of
// which gives the result. An argument is the name of an argument of the float op (an activation and the
// weight are then the quantized tensors), the name of an earlier statement, a literal, or one of
//   $scale, $zero_point                of the output; None and 0 where it stays float,
//   $input_scale, $input_zero_point    of the first activation,
//   $<name>_scale, $<name>_zero_point  of the activation that the schema calls so; lists for a list of
//                                      tensors; None and 0 where it is float,
//   $weight_scales, $weight_zero_points
//   $activation                        the elementwise function in words, such as "clip,0,6", or "",
//   $sum, $other, $other_scale …       "copy" where an add follows, else "", and its other operand,
//   $number                            of arithmetic with a number: that, as a quantized tensor,
//   $slopes                            of prelu, as a quantized tensor,
//   $factors                           of the result's channels, behind the elementwise function, or None,
//   $features, $row_shape              how wide a row is that is looked up, as a number and as its shape.
// An argument of the float op that the recipe does not take must have its default value, else the op stays
// float.
struct IntegerForm {
  std::string op;  // the row's name
  std::string recipe;
  std::string relu_recipe = "";  // the same with a relu in it; empty where there is none
  std::string sum_recipe = "";   // the same with an add behind it; empty where there is none
  // Whether this form is meant for this node; the first form that is wins.
  bool (*suits)(const Context&, const Lowering&) = nullptr;
  const char* reason = "";
  const char* becomes = "";               // the op that computes, where another one gives the result
  const char* otherwise = "";             // what is said of a node that it is not meant for
  bool takes_activation = false;          // any elementwise function behind it is part of it
  bool is_activation = false;             // it is such a function itself: $activation says which
  bool takes_float = false;               // its inputs may be float
  bool gives_float = false;               // its output may be float
  bool takes_factors = false;             // a factor for each channel of its result may be part of it
  bool only_among_integers = false;       // nothing is quantized for its sake
  bool per_tensor_weight = false;         // its weight has one scale
  std::vector<std::string> ignores = {};  // arguments that may have other than their default values
};

// A column of the op table.
struct Target {
  std::string name;
  // What flows between its ops: quantized tensors that know their parameters, or plain integers.
  bool plain_integers;
  const std::vector<IntegerForm>& (*forms)();
  std::vector<std::string> prepack_ops;  // they pack a weight, or make a kernel; run once, at conversion
  // Whether an op of ATen's is right on the integers as it is.
  bool (*runs)(const std::string& engine, const torch::jit::Node* node);
};

// The `quantized` target: ATen's quantized tensors and ops, which stock torch loads.
const Target& quantized_target();
// The `native` target: plain integers and jitquant's own ops over oneDNN.
const Target& native_target();

// Raises where there is no target of that name.
const Target& find_target(const std::string& name);

// The form to use for a node, or nullptr where it has to stay float.
const IntegerForm* choose_form(const Context& context, const Lowering& lowering);

// Why choose_form found none.
std::string why_no_form(const Context& context, const Lowering& lowering);

// The first form that the target has for a row, or nullptr.
const IntegerForm* find_form(const Target& target, const OpRow& row);

// Whether the target has any integer form for a row. An op that keeps its input's parameters needs none of
// its own where ATen runs it on the target's integers as it is.
bool has_integer_form(const Target& target, const OpRow& row);
bool runs_as_it_is(const Target& target, const OpRow& row);

// Why a node can have no integer form on the target, whatever stands around it; nothing where it can.
std::optional<std::string> why_always_float(const Target& target, const torch::jit::Node* node);

// The forms of what looks rows of a weight up: the same on each target, as its result is float.
std::vector<IntegerForm> embedding_forms();

// Whether a batch norm uses the statistics that it holds.
bool has_statistics(const Context& context, const Lowering& lowering);

// Whether the slopes of a prelu are known.
bool has_known_slopes(const Context& context, const Lowering& lowering);

// Whether an op that fills in a number fills in zero, which every scale has.
bool fills_with_zero(const Context& context, const Lowering& lowering);
constexpr const char* kOtherThanZero = "it fills in another number than zero";

// Of arithmetic with a number: factor and shift. Nothing where the number is not known, or not finite.
std::optional<std::pair<double, double>> linear_of(const torch::jit::Node* node);

// The words for an elementwise function that a kernel can do behind what it computes, or nothing.
std::optional<std::string> activation_words(const torch::jit::Node* node);

// Inserts the statements of the form before `before` and gives the result.
torch::jit::Value* build_form(const IntegerForm& form, const Lowering& lowering, torch::jit::Node* before);

}  // namespace jitquant
