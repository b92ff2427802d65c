// fuse_activation: an onednn op does the activation function behind it, before it rounds its result.
//
// Before:
//   %r = onednn::qconv_pointwise(%x, ..., %scale, %zero_point, %uint8, %none, ...)
//   %q = aten::_make_per_tensor_quantized_tensor(%r, %scale, %zero_point)
//   %y = quantized::hardswish(%q, %scale.1, %zero_point.1)
// After:
//   %r = onednn::qconv_pointwise(%x, ..., %scale.1, %zero_point.1, %uint8, %hardswish, ...)
//   %y = aten::_make_per_tensor_quantized_tensor(%r, %scale.1, %zero_point.1)
//
// Before:
//   %r = onednn::qlinear_pointwise(%x, ..., %one, %zero, %float, %none, ...)
//   %g = aten::gelu(%r, %approximate)
//   %y = aten::quantize_per_tensor(%g, %scale, %zero_point, %quint8)
// After:
//   %r = onednn::qlinear_pointwise(%x, ..., %scale, %zero_point, %uint8, %gelu, ..., %approximate)
//   %y = aten::_make_per_tensor_quantized_tensor(%r, %scale, %zero_point)
//
// Left alone: results that something else uses too, and ops that do a relu already.

#include "csrc/graph_edit.h"
#include "csrc/pass.h"
#include "csrc/places.h"
#include "csrc/quantization_params.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

// How an onednn op calls what it does to its result.
struct PostOp {
  const char* name;
  const char* algorithm;
};

std::optional<PostOp> post_op_of(const Node* op) {
  if (is_op(op, "onednn::qlinear_pointwise")) {
    return PostOp{"post_op_name", "post_op_algorithm"};
  }
  if (is_op(op, "onednn::qconv_pointwise")) {
    return PostOp{"attr", "algorithm"};
  }
  return std::nullopt;
}

// The op that gives `value` to `user` alone, with nothing done to its result so far.
Node* bare_op(Value* value, const Node* user) {
  Node* op = value->node();
  auto post_op = post_op_of(op);
  const bool bare = post_op && only_user(value) == user &&
                    constant_of(op->namedInput(post_op->name)) == c10::IValue("none");
  return bare ? op : nullptr;
}

// `last` gave the integers that `op` gives now.
void absorb(Node* op, Node* last, const char* activation, Value* algorithm) {
  const auto post_op = *post_op_of(op);
  Value* scale = last->input(1);
  Value* zero_point = last->input(2);
  op->moveBefore(last);
  set_input(op, "output_scale", scale);
  set_input(op, "output_zero_point", zero_point);
  set_input(op, "output_dtype", constant(op, static_cast<int64_t>(at::kByte)));
  set_input(op, post_op.name, constant(op, activation));
  set_input(op, post_op.algorithm, algorithm);
  Value* made = insert_op(last, last, kMakeQuantized, {op->output(), scale, zero_point});
  last->output()->replaceAllUsesWith(made);
  last->destroy();
}

bool fuse_hardswish(Node* hardswish) {
  Node* made = hardswish->input(0)->node();
  const bool alone = is_op(made, kMakeQuantized) && only_user(made->output()) == hardswish;
  Node* op = alone ? bare_op(made->input(0), made) : nullptr;
  if (op == nullptr) {
    return false;
  }
  join_places({op, hardswish}, op);
  absorb(op, hardswish, "hardswish", op->namedInput(post_op_of(op)->algorithm));
  made->destroy();
  return true;
}

bool fuse_gelu(Node* quantize) {
  Node* gelu = quantize->input(0)->node();
  auto dtype = constant_of(quantize->input(3));
  if (gelu->kind() != c10::aten::gelu || only_user(gelu->output()) != quantize || !dtype ||
      static_cast<at::ScalarType>(dtype->toInt()) != at::kQUInt8) {
    return false;
  }
  Node* op = bare_op(gelu->input(0), gelu);
  const bool gives_float = op != nullptr && constant_of(op->namedInput("output_dtype")) ==
                                                c10::IValue(static_cast<int64_t>(at::kFloat));
  if (!gives_float || !is_op(op, "onednn::qlinear_pointwise")) {
    return false;
  }
  Value* approximate = gelu->input(1);
  join_places({op, gelu}, op);
  absorb(op, quantize, "gelu", approximate);
  gelu->destroy();
  return true;
}

}  // namespace

int64_t FuseActivation(Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(), [&](Node* node) {
      if (is_op(node, "quantized::hardswish")) {
        count += fuse_hardswish(node);
      } else if (is_quantize(node)) {
        count += fuse_gelu(node);
      }
    });
    eliminate_dead_code(graph);
  }
  return count;
}

JITQUANT_PASS(FuseActivation, "fuse_activation", "An onednn op does the activation function behind it.");

}  // namespace jitquant
