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
};

// One integer form of an op, as a recipe: statements "name = op(argument, ...)" separated by ';', the last of
// which gives the result. An argument is the name of an argument of the float op (an activation and the
// weight are then the quantized tensors), the name of an earlier statement, a literal, or one of
//   $scale, $zero_point              of the output,
//   $input_scale, $input_zero_point  of the first activation.
// An argument of the float op that the recipe does not take must have its default value, else the op stays
// float.
struct IntegerForm {
  std::string op;  // the row's name
  std::string recipe;
  std::string relu_recipe = "";  // the same with a relu in it; empty where there is none
  // Whether this form is meant for this node; the first form that is wins.
  bool (*suits)(const Context&, const Lowering&) = nullptr;
  const char* reason = "";
};

// The `quantized` target: ATen's quantized tensors and ops, which stock torch loads.
const std::vector<IntegerForm>& quantized_forms();

// Ops that pack a weight; they are run once, at conversion.
const std::vector<std::string>& prepack_ops();

// The form to use for a node, or nullptr where it has to stay float.
const IntegerForm* choose_form(const Context& context, const Lowering& lowering);

// Whether the target has any integer form for a row. An op that keeps its input's parameters needs none of
// its own: ATen runs it on quantized tensors as it is.
bool has_integer_form(const OpRow& row);
bool runs_as_it_is(const OpRow& row);

// Whether ATen's kernel for quantized tensors is right on that engine.
bool engine_runs(const std::string& engine, const torch::jit::Node* node);

// Inserts the statements of the form before `before` and gives the result.
torch::jit::Value* build_form(const IntegerForm& form, const Lowering& lowering, torch::jit::Node* before);

}  // namespace jitquant
