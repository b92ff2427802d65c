// keep_float: what is only dequantized is not rounded to integers first, where the op before can give float.
//
// Before:
//   %r = onednn::qlinear_pointwise(%x, ..., %scale, %zero_point, %uint8, ...)
//   %q = aten::_make_per_tensor_quantized_tensor(%r, %scale, %zero_point)
//   %m = aten::reshape(%q, %size)
//   %y = aten::dequantize(%m)
// After:
//   %r = onednn::qlinear_pointwise(%x, ..., %one, %zero, %float, ...)
//   %y = aten::reshape(%r, %size)
//
// Before (%x is float, and %z as %q above):                After (%r is float):
//   %xq = aten::quantize_per_tensor(%x, ...)                %y = aten::add(%x, %r, %one)
//   %s = quantized::add(%xq, %z, %scale, %zero_point)
//   %y = aten::dequantize(%s)
//
// Left alone: results that saturation clamps, values that an integer op uses as well, and sums of which one
// operand is of integers anyway.

#include <algorithm>

#include "csrc/graph_edit.h"
#include "csrc/op_table.h"
#include "csrc/pass.h"
#include "csrc/places.h"
#include "csrc/quantization_params.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

bool only_moves(const Node* node) {
  const OpRow* row = find_row(node);
  return row != nullptr && row->moves && node->outputs().size() == 1;
}

// Whether an integer value ends in dequantizes only, and its shape in anything.
bool is_only_dequantized(const Value* value) {
  return !value->uses().empty() &&
         std::all_of(value->uses().begin(), value->uses().end(), [](const auto& use) {
           return use.user->kind() == c10::aten::dequantize || asks_for_shape(use.user) ||
                  (only_moves(use.user) && is_only_dequantized(use.user->output()));
         });
}

// Puts the float value into the place of the integers that `is_only_dequantized` is true of.
void replace_by_float(Value* integers, Value* number) {
  const auto uses = integers->uses();
  for (const auto& use : uses) {
    if (use.user->kind() == c10::aten::dequantize) {
      use.user->output()->replaceAllUsesWith(number);
      use.user->destroy();
      continue;
    }
    use.user->replaceInput(use.offset, number);
    if (only_moves(use.user)) {
      replace_by_float(use.user->output(), use.user->output());
    }
  }
}

// Whether a clamp behind the op is done by the saturation of its integers.
bool saturates(const Node* node) { return node->hasAttribute(c10::Symbol::fromQualString(kSaturates)); }

bool can_give_float(const Node* node) {
  return is_op(node, {"onednn::qlinear_pointwise", "onednn::qconv_pointwise"}) && !saturates(node);
}

// `made` gives the integers of an onednn op a scale.
bool give_float(Node* made) {
  Node* op = made->input(0)->node();
  if (!can_give_float(op) || only_user(op->output()) != made || !is_only_dequantized(made->output())) {
    return false;
  }
  set_input(op, "output_scale", constant(op, 1.0));
  set_input(op, "output_zero_point", constant(op, 0));
  set_input(op, "output_dtype", constant(op, static_cast<int64_t>(at::kFloat)));
  replace_by_float(made->output(), op->output());
  made->destroy();
  return true;
}

// Whether the value behind these integers is float already, or will be once `add` no longer uses them.
bool is_float_beforehand(const Value* integers, const Node* add) {
  const Node* node = integers->node();
  return is_quantize(node) || (is_op(node, kMakeQuantized) && only_user(integers) == add &&
                               can_give_float(node->input(0)->node()));
}

bool add_floats(Node* add) {
  if (saturates(add) || !is_only_dequantized(add->output()) || !is_float_beforehand(add->input(0), add) ||
      !is_float_beforehand(add->input(1), add)) {
    return false;
  }
  std::vector<Value*> operands;
  for (size_t i : {0, 1}) {
    Node* source = add->input(i)->node();
    operands.push_back(is_quantize(source) ? source->input(0)
                                           : insert_op(add, add, "aten::dequantize", {add->input(i)}));
  }
  Value* sum = insert_op(add, add, "aten::add", operands);
  if (is_op(add, "quantized::add_relu")) {
    sum = insert_op(add, add, "aten::relu", {sum});
  }
  join_places({add}, sum->node());
  replace_by_float(add->output(), sum);
  add->destroy();
  return true;
}

}  // namespace

int64_t KeepFloat(Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    // From the end: whether an op can give float depends on those that use it.
    for_each_node_from_the_end(graph->block(), [&](Node* node) {
      if (is_op(node, {"quantized::add", "quantized::add_relu"})) {
        count += add_floats(node);
      } else if (is_op(node, kMakeQuantized)) {
        count += give_float(node);
      }
    });
    for_each_node(graph->block(), [](Node* node) {
      if (saturates(node)) {
        node->removeAttribute(c10::Symbol::fromQualString(kSaturates));
      }
    });
    eliminate_dead_code(graph);
  }
  return count;
}

JITQUANT_PASS(KeepFloat, "keep_float", "What is only dequantized is not rounded to integers first.");

}  // namespace jitquant
