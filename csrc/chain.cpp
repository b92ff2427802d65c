#include "csrc/chain.h"

#include "csrc/graph_edit.h"
#include "csrc/quantization_params.h"

namespace jitquant {

using torch::jit::Node;
using torch::jit::Value;

namespace {

// The op that gave a value, whether it is quantized and dequantized in between or not.
const Node* producer(const Value* value) {
  const Node* node = value->node();
  while (node->kind() == c10::aten::dequantize || is_quantize(node)) {
    node = node->input(0)->node();
  }
  return node;
}

bool adds_plainly(const Node* add) {
  const OpRow* row = find_row(add);
  auto alpha =
      row != nullptr && row->op == "aten::add.Tensor" ? constant_of(add->namedInput("alpha")) : std::nullopt;
  return alpha && alpha->toScalar().toDouble() == 1;
}

// A tensor that is another one at each call.
bool is_computed(const Value* value) {
  const auto kind = value->node()->kind();
  return value->type()->isSubtypeOf(*c10::TensorType::get()) && kind != c10::prim::Constant &&
         kind != c10::prim::GetAttr;
}

// The add behind `value` of which it is one operand and a computed value the other. Of two ops that could
// take the add along, the later one does: the other's result is there by then.
bool take_add(Chain& chain, Value* value) {
  Node* add = only_user(value);
  if (add == nullptr || !adds_plainly(add) || is_fenced(add)) {
    return false;
  }
  Value* other = add->input(add->input(0) == value ? 1 : 0);
  const Node* source = producer(other);
  const bool comes_first = source->owningBlock() != chain.op->owningBlock() || source->isBefore(chain.op);
  if (!is_computed(other) || other == value || !comes_first) {
    return false;
  }
  chain.add = add;
  chain.other = other;
  chain.end = add->output();
  return true;
}

}  // namespace

Value* past_pair(Value* value) {
  Node* quantize = only_user(value);
  if (quantize == nullptr || !is_quantize(quantize)) {
    return nullptr;
  }
  Node* dequantize = only_user(quantize->output());
  return dequantize != nullptr && dequantize->kind() == c10::aten::dequantize ? dequantize->output()
                                                                              : nullptr;
}

Chain find_chain(Node* op, const OpRow& row, const IntegerForm& form, bool through_pairs) {
  Chain chain{.op = op, .end = op->output()};
  auto next = [&] {
    Value* past = through_pairs ? past_pair(chain.end) : nullptr;
    return past == nullptr ? chain.end : past;
  };
  if (!form.sum_recipe.empty()) {
    take_add(chain, next());
  }
  if (!form.takes_activation) {
    chain.activation = chain.add == nullptr ? absorbed_clamp(chain.end, row) : nullptr;
  } else {
    Node* user = only_user(next());
    if (user != nullptr && activation_words(user) && !is_fenced(user)) {
      chain.activation = user;
    }
  }
  if (chain.activation != nullptr) {
    chain.end = chain.activation->output();
  }
  return chain;
}

}  // namespace jitquant
