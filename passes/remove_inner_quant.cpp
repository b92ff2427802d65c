// remove_inner_quant: nothing is rounded in the middle of what the target computes in one op, nor on the way
// to an op that takes float.
//
// Before (with a target whose convolutions take a hardswish along):
//   %c = aten::conv2d(%x, ...)
//   %q = aten::quantize_per_tensor(%c, ...)
//   %d = aten::dequantize(%q)
//   %h = aten::hardswish(%d)
// After:
//   %c = aten::conv2d(%x, ...)
//   %h = aten::hardswish(%c)
//
// The same goes for the add of a residual, and for a value that only float ops take, where the target's op
// can give it as float; a residual that was computed in float is then added as such. It runs before the debug
// mode stops, so that this rounds where the integer ops do.
//
// Left alone: values that an integer op takes as well.

#include "csrc/chain.h"
#include "csrc/dynamic.h"
#include "csrc/graph_edit.h"
#include "csrc/op_table.h"
#include "csrc/pass.h"
#include "csrc/quantization_params.h"
#include "csrc/target.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

const IntegerForm* form_of(const Target& target, const Node* node) {
  const OpRow* row = find_row(node);
  return row == nullptr ? nullptr : find_form(target, *row);
}

bool is_quantized(const Value* value) {
  return std::any_of(value->uses().begin(), value->uses().end(),
                     [](const auto& use) { return is_static_quantize(use.user); });
}

// An add of which nothing quantizes the result, not behind an activation either.
bool is_float_add(const Node* node) {
  const OpRow* row = find_row(node);
  return row != nullptr && row->op == "aten::add.Tensor" && !is_quantized(node->output()) &&
         std::none_of(node->output()->uses().begin(), node->output()->uses().end(),
                      [](const auto& use) { return activation_words(use.user).has_value(); });
}

bool takes_float(const Target& target, const Node* node) {
  if (node->kind() == c10::prim::ListConstruct) {
    const auto& uses = node->output()->uses();
    return std::all_of(uses.begin(), uses.end(),
                       [&](const auto& use) { return takes_float(target, use.user); });
  }
  const OpRow* row = find_row(node);
  const IntegerForm* form = form_of(target, node);
  return row == nullptr || !has_integer_form(target, *row) || (form != nullptr && form->takes_float) ||
         is_float_add(node);
}

// What is added to a float result was float itself before it was quantized: that is added.
int64_t add_as_float(const Target& target, const Chain& chain) {
  if (chain.add == nullptr || !is_dequantize(chain.other)) {
    return 0;
  }
  const Node* quantize = chain.other->node()->input()->node();
  if (!is_quantize(quantize)) {
    return 0;
  }
  Value* value = quantize->input(0);
  if (!takes_float(target, value->node())) {
    return 0;
  }
  chain.add->replaceInputWith(chain.other, value);
  return 1;
}

int64_t remove_pair(Value* value) {
  Value* past = past_pair(value);
  if (past == nullptr) {
    return 0;
  }
  Node* dequantize = past->node();
  Node* quantize = dequantize->input()->node();
  past->replaceAllUsesWith(value);
  dequantize->destroy();
  quantize->destroy();
  return 1;
}

int64_t visit(const Target& target, Node* node) {
  const OpRow* row = find_row(node);
  const IntegerForm* form = form_of(target, node);
  if (form == nullptr || node->outputs().size() != 1 || is_fenced(node)) {
    return 0;
  }
  const Chain chain = find_chain(node, *row, *form, /*through_pairs=*/true);
  int64_t count = 0;
  if (form->takes_activation) {
    count += chain.add == nullptr ? 0 : remove_pair(node->output());
    Value* last = chain.add == nullptr ? node->output() : chain.add->output();
    count += chain.activation == nullptr ? 0 : remove_pair(last);
  }
  Value* past = form->gives_float ? past_pair(chain.end) : nullptr;
  if (past != nullptr && std::all_of(past->uses().begin(), past->uses().end(),
                                     [&](const auto& use) { return takes_float(target, use.user); })) {
    count += remove_pair(chain.end);
  }
  return count + (is_quantized(chain.end) ? 0 : add_as_float(target, chain));
}

}  // namespace

int64_t RemoveInnerQuant(Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    // From the end, so that it is known of a sum whether it is float, and what goes has been visited.
    for_each_node_from_the_end(graph->block(), [&](Node* node) { count += visit(context.target(), node); });
    eliminate_dead_code(graph);
  }
  return count;
}

JITQUANT_PASS(RemoveInnerQuant, "remove_inner_quant",
              "Nothing is rounded inside what the target computes in one op.");

}  // namespace jitquant
