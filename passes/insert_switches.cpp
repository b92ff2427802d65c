// insert_switches: each op can be made float or integer between two calls, without converting the model
// again.
//
// Before:
//   %q : Tensor = aten::quantize_per_tensor(%c, %scale, %zero_point, %dtype)   (%c is what op 3 gives)
//   %d : Tensor = aten::dequantize(%q)
//   %y : Tensor = aten::conv2d(%d, %w, %bias, ...)                             (op 4)
// After:
//   %switches : bool[] = prim::GetAttr[name="_switches"](%self)
//   %gives : bool = aten::__getitem__(%switches, %3)
//   %takes : bool = aten::__getitem__(%switches, %4)
//   %either : bool = aten::__or__(%gives, %takes)
//   %x : Tensor = prim::If(%either)
//     block0():
//       %q : Tensor = aten::quantize_per_tensor(%c, %scale, %zero_point, %dtype)
//       %d : Tensor = aten::dequantize(%q)
//       -> (%d)
//     block1():
//       -> (%c)
//   %weight : Tensor = prim::If(%takes)   (two constants, as of the bias where it was corrected)
//   %y : Tensor = aten::conv2d(%x, %weight, %bias, ...)
//
// An integer op gives integers and takes them, so a value is rounded for an op if one of the two is on. Ops
// are numbered as their records are (csrc/report.h), and the attribute `_parts` says of each the first of
// those that one integer op computes with it. What moves values goes along with what gave them. The last
// switch is for values that come from and go to no op: it is to be on if any is. With all switches on the
// graph gives what it gave before, with none the float model. Left alone: the model's own quantizes, and
// ranges of each call.

#include <map>
#include <unordered_map>

#include <torch/csrc/jit/api/module.h>

#include "csrc/chain.h"
#include "csrc/dynamic.h"
#include "csrc/graph_edit.h"
#include "csrc/op_table.h"
#include "csrc/pass.h"
#include "csrc/quantization_params.h"
#include "csrc/report.h"
#include "csrc/smoothing.h"
#include "csrc/switches.h"
#include "csrc/target.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;

// The user's ops by number, and who takes and gives a value.
class Ops {
 public:
  explicit Ops(const Context& context) : nodes_(numbered_ops(context)) {
    for (size_t i = 0; i < nodes_.size(); ++i) {
      numbers_.emplace(nodes_[i], static_cast<int64_t>(i));
    }
  }

  const std::vector<Node*>& nodes() const { return nodes_; }

  // The op that takes a value there, perhaps in a list; the one that gave it, perhaps in one.
  std::optional<int64_t> taker(const Node* user) const {
    return number(user->kind() == c10::prim::ListConstruct ? only_user(user->output()) : user);
  }

  std::optional<int64_t> giver(const Value* value) const {
    const Node* node = value->node();
    return number(node->kind() == c10::prim::ListUnpack ? node->input()->node() : node);
  }

  std::optional<int64_t> number(const Node* node) const {
    auto found = numbers_.find(node);
    return found == numbers_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  const std::vector<Node*> nodes_;
  std::unordered_map<const Node*, int64_t> numbers_;
};

// Of each op the first of those that it is one with.
c10::List<int64_t> parts_of(const Context& context, const Ops& ops) {
  std::vector<int64_t> parts(ops.nodes().size(), -1);
  for (size_t i = 0; i < parts.size(); ++i) {
    Node* node = ops.nodes()[i];
    const OpRow* row = find_row(node);
    if (parts[i] >= 0) {
      continue;
    }
    parts[i] = static_cast<int64_t>(i);
    if (row == nullptr || node->outputs().size() != 1 || is_fenced(node)) {
      continue;
    }
    const auto slots = activation_slots(node, *row);
    if (row->output == Output::SameAsInput && !slots.empty() && is_rounded(slots[0].value())) {
      auto giver = ops.giver(slots[0].value()->node()->input()->node()->input(0));
      parts[i] = giver ? parts[*giver] : parts[i];
    }
    if (const IntegerForm* form = find_form(context.target(), *row)) {
      const Chain chain = find_chain(node, *row, *form, /*through_pairs=*/false);
      for (const Node* fused : {chain.add, chain.activation}) {
        auto number = fused == nullptr ? std::nullopt : ops.number(fused);
        if (number) {
          parts[*number] = parts[i];
        }
      }
    }
  }
  return c10::List<int64_t>(parts);
}

class Switcher {
 public:
  Switcher(const Context& context, const Ops& ops, const std::shared_ptr<Graph>& graph)
      : context_(context), ops_(ops), graph_(graph), first_(*graph->nodes().begin()) {
    Node* read = graph->create(c10::prim::GetAttr, {graph->inputs()[0]});
    read->s_(c10::attr::name, kSwitches);
    read->output()->setType(c10::ListType::ofBools());
    switches_ = read->insertBefore(first_)->output();
  }

  void visit(Node* node) {
    if (auto weight = rounded_weight_of(node)) {
      switch_weight(node, *weight);
    }
    if (node->outputs().size() == 1 && is_rounded(node->output()) && !chooser_of(node->output()) &&
        !context_.static_tensor(node->input()->node()->input(0))) {
      switch_value(node);
    }
  }

  int64_t count() const { return count_; }

 private:
  // All are read before anything else, so that they can be used anywhere.
  Value* is_on(int64_t op) {
    Value*& value = on_[op];
    if (value == nullptr) {
      value = insert_op(first_, first_, "aten::__getitem__", {switches_, constant(first_, op)});
    }
    return value;
  }

  Value* is_either_on(std::optional<int64_t> one, std::optional<int64_t> other) {
    if (!one || !other || *one == *other) {
      const auto last = static_cast<int64_t>(ops_.nodes().size());
      return is_on(one ? *one : other.value_or(last));
    }
    Value*& value = either_[{*one, *other}];
    if (value == nullptr) {
      value = insert_op(first_, first_, "aten::__or__", {is_on(*one), is_on(*other)});
    }
    return value;
  }

  // What the condition chooses, before a node; the blocks are still empty.
  Node* insert_choice(Node* before, Value* condition, const c10::TypePtr& type) {
    Node* choice = graph_->create(c10::prim::If, {condition}, 1);
    choice->output()->setType(type);
    choice->insertBefore(before)->copyMetadata(before);
    choice->addBlock();
    choice->addBlock();
    ++count_;
    return choice;
  }

  Value* choose(Node* before, Value* condition, const at::Tensor& on, const at::Tensor& off) {
    Value* first = constant(before, on.detach());
    Value* second = constant(before, off.detach());
    Node* choice = insert_choice(before, condition, c10::TensorType::get());
    choice->blocks()[0]->registerOutput(first);
    choice->blocks()[1]->registerOutput(second);
    return choice->output();
  }

  void switch_weight(Node* node, const TensorSlot& slot) {
    const auto weight = c10::Symbol::fromQualString(kFloatWeight);
    const auto bias = c10::Symbol::fromQualString(kFloatBias);
    auto rounded = evaluate(slot.value());
    auto number = ops_.number(node);
    if (!node->hasAttribute(weight) || !rounded || !number) {
      return;
    }
    slot.set(choose(node, is_on(*number), rounded->toTensor(), node->t(weight)));
    switch_bias(node, is_on(*number), node->hasAttribute(bias) ? std::optional(node->t(bias)) : std::nullopt);
    node->removeAttribute(weight);
    if (node->hasAttribute(bias)) {
      node->removeAttribute(bias);
    }
  }

  void switch_bias(Node* node, Value* condition, const std::optional<at::Tensor>& before) {
    const OpRow* row = find_row(node);
    auto now = row->bias ? context_.static_tensor(node->namedInput(*row->bias)) : std::nullopt;
    if (!now || (before && before->is_same(*now))) {
      return;
    }
    Value* chosen = choose(node, condition, *now, before.value_or(at::zeros_like(*now)));
    set_input(node, row->bias->c_str(), chosen);
  }

  // What quantize and dequantize make of a static value.
  std::optional<c10::IValue> evaluate(Value* value) const {
    if (auto known = context_.static_value(value)) {
      return known;
    }
    if (!is_rounded(value) &&
        !is_op(value->node(), {"aten::quantize_per_tensor", "aten::quantize_per_channel"})) {
      return std::nullopt;
    }
    torch::jit::Stack stack;
    for (Value* input : value->node()->inputs()) {
      auto known = evaluate(input);
      if (!known) {
        return std::nullopt;
      }
      stack.push_back(*known);
    }
    value->node()->getOperation()(stack);
    return stack.back();
  }

  void switch_value(Node* dequantize) {
    Value* value = dequantize->input()->node()->input(0);
    const auto giver = ops_.giver(is_op(value->node(), kSmooth) ? value->node()->input(0) : value);
    std::unordered_map<Value*, Value*> by_condition;
    for (const auto& use : std::vector(dequantize->output()->uses())) {
      Value* condition = is_either_on(giver, ops_.taker(use.user));
      Value*& chosen = by_condition[condition];
      if (chosen == nullptr) {
        chosen = insert_rounding(dequantize, value, condition);
      }
      use.user->replaceInput(use.offset, chosen);
    }
  }

  // Only what is on takes time.
  Value* insert_rounding(Node* dequantize, Value* value, Value* condition) {
    Node* choice = insert_choice(dequantize, condition, dequantize->output()->type());
    torch::jit::Block* on = choice->blocks()[0];
    auto copy = [&](Node* node, Value* input) {
      Node* copied = graph_->createClone(node, [](Value* other) { return other; });
      copied->replaceInput(0, input);
      on->appendNode(copied);
      return copied->output();
    };
    on->registerOutput(copy(dequantize, copy(dequantize->input()->node(), value)));
    choice->blocks()[1]->registerOutput(value);
    return choice->output();
  }

  const Context& context_;
  const Ops& ops_;
  std::shared_ptr<Graph> graph_;
  Node* first_;
  Value* switches_;
  std::map<int64_t, Value*> on_;
  std::map<std::pair<int64_t, int64_t>, Value*> either_;
  int64_t count_ = 0;
};

}  // namespace

int64_t InsertSwitches(Context& context) {
  const at::NoGradGuard no_grad;
  const Ops ops(context);
  c10::List<bool> on;
  on.resize(ops.nodes().size() + 1, true);
  context.module.register_attribute(kParts, c10::ListType::ofInts(), parts_of(context, ops));
  context.module.register_attribute(kSwitches, c10::ListType::ofBools(), on);
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    Switcher switcher(context, ops, graph);
    std::vector<Node*> nodes;  // those in new blocks are done
    for_each_node(graph->block(), [&](Node* node) { nodes.push_back(node); });
    for (Node* node : nodes) {
      switcher.visit(node);
    }
    count += switcher.count();
    eliminate_dead_code(graph);
  }
  return count;
}

JITQUANT_PASS(InsertSwitches, "insert_switches", "Each op can be made float or integer between two calls.");

}  // namespace jitquant
