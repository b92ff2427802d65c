// cancel_quant_pairs: what fusion left standing is not quantized around for nothing.
//
// Before:                                                After (weights of an op that stays float likewise):
//   %q = aten::quantize_per_tensor(%x, ...)   (%x float)   %y = aten::softmax(%x, ...)
//   %d = aten::dequantize(%q)
//   %y = aten::softmax(%d, ...)
//
// Before:                                                After: %q in the place of %r
//   %d = aten::dequantize(%q)
//   %r = aten::quantize_per_tensor(%d, ...)   (parameters of %q)
//
// Before: %p = aten::_make_per_tensor_quantized_tensor(%i, ...)
//         %j = aten::int_repr(%p)
// After:  %i in the place of %j
//
// Before: %d = aten::dequantize(%q)      After: %n : int[] = aten::size(%q)
//         %n : int[] = aten::size(%d)
//
// Two dequantizes of one value become one, and so do two int_reprs.
// Left alone: a second quantize with other parameters, which does round the value.

#include <unordered_map>

#include "csrc/graph_edit.h"
#include "csrc/pass.h"
#include "csrc/quantization_params.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

// The dtype that a quantize gives; integer ops give quint8.
at::ScalarType dtype_of(const Node* node) {
  auto dtype = is_quantize(node) ? constant_of(node->input(3)) : std::nullopt;
  return dtype ? static_cast<at::ScalarType>(dtype->toInt()) : at::kQUInt8;
}

// A value that holds the same as the node's output and makes the node needless, or nullptr.
Value* shortcut(const Context& context, Node* node) {
  if (node->inputs().empty()) {
    return nullptr;
  }
  Node* source = node->input(0)->node();
  if (node->kind() == c10::aten::dequantize &&
      (is_quantize(source) || source->kind() == c10::aten::quantize_per_channel)) {
    return source->input(0);
  }
  if (is_op(node, kIntRepr) && is_op(source, kMakeQuantized)) {
    return source->input(0);
  }
  if (is_quantize(node) && source->kind() == c10::aten::dequantize) {
    auto params = qparams_of(source->input());
    const bool same = params && same_qparams(context, *params, qparams_of_quantize(node)) &&
                      dtype_of(source->input()->node()) == dtype_of(node);
    return same ? source->input() : nullptr;
  }
  return nullptr;
}

int64_t ask_integers_for_shape(torch::jit::Block* block) {
  int64_t count = 0;
  for_each_node(block, [&](Node* node) {
    if (asks_for_shape(node) && is_dequantize(node->input(0))) {
      node->replaceInput(0, node->input(0)->node()->input());
      ++count;
    }
  });
  return count;
}

// Ops of that name that take the same value become one.
int64_t share(torch::jit::Block* block, const char* op) {
  int64_t count = 0;
  std::unordered_map<Value*, Node*> first;
  for_each_node(block, [&](Node* node) {
    if (!is_op(node, op)) {
      return;
    }
    auto [known, added] = first.emplace(node->input(), node);
    if (!added && node->isDominatedBy(known->second)) {
      node->output()->replaceAllUsesWith(known->second->output());
      node->destroy();
      ++count;
    }
  });
  return count;
}

}  // namespace

int64_t CancelQuantPairs(Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(), [&](Node* node) {
      if (Value* same = shortcut(context, node)) {
        node->output()->replaceAllUsesWith(same);
        ++count;
      }
    });
    count += ask_integers_for_shape(graph->block());
    count += share(graph->block(), "aten::dequantize");
    count += share(graph->block(), kIntRepr);
    eliminate_dead_code(graph);
  }
  return count;
}

JITQUANT_PASS(CancelQuantPairs, "cancel_quant_pairs",
              "No quantize that feeds only a dequantize, no dequantize twice.");

}  // namespace jitquant
