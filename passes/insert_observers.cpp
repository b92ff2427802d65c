// insert_observers: each value that is to become integer goes through an observer, and each weight through
// one of its own.
//
// Before:
//   %c : Tensor = aten::conv2d(%x, %weight, ...)
//   %y : Tensor = aten::relu(%c)
// After:
//   %_observer_0 : __torch__.HistogramObserver = prim::GetAttr[name="_observer_0"](%self)
//   %x.1 : Tensor = prim::CallMethod[name="forward"](%_observer_0, %x)
//   %weight.1 : Tensor = prim::CallMethod[name="forward"](%_observer_1, %weight)
//   %c : Tensor = aten::conv2d(%x.1, %weight.1, ...)
//   %y : Tensor = aten::relu(%c)
//   %y.1 : Tensor = prim::CallMethod[name="forward"](%_observer_2, %y)
//
// A value is observed where it ends up: behind the clamp that the integer op absorbs. Ops that only move
// values take over what their input has. Which observers an op gets was chosen beforehand; one that has an
// integer form and gets none has a fence behind it, so that it stays float. Where the observer is a
// placeholder, an op that has a dynamic form has its inputs and its weight observed, and no other has
// anything to do with it. Where it stands for a float value, weights are observed whose rows are looked up,
// and nothing else. Left alone: weights that are not constants or attributes, and ops whose row has no
// integer form on the target.

#include <map>
#include <unordered_map>
#include <unordered_set>

#include "csrc/dynamic.h"
#include "csrc/error.h"
#include "csrc/graph_edit.h"
#include "csrc/observer_calls.h"
#include "csrc/op_nodes.h"
#include "csrc/op_table.h"
#include "csrc/pass.h"
#include "csrc/quantization_params.h"
#include "csrc/recurrent.h"
#include "csrc/target.h"
#include "csrc/walk.h"
#include "csrc/writes.h"

namespace jitquant {

namespace {

using torch::jit::Module;
using torch::jit::Node;
using torch::jit::Value;

using ObserversOf = std::unordered_map<const Node*, const ObserverPair*>;

ObserversOf observers_of(const Context& context, const std::string& method,
                         const std::shared_ptr<torch::jit::Graph>& graph) {
  ObserversOf found;
  auto assigned = context.options.assignments.find(method);
  if (assigned == context.options.assignments.end()) {
    return found;
  }
  const auto nodes = nodes_with_rows(graph);
  if (nodes.size() != assigned->second.size()) {
    fail("insert_observers",
         method + " has " + std::to_string(nodes.size()) +
             " ops to be told of, and qconfigs were chosen for " + std::to_string(assigned->second.size()),
         "run no other pass between choosing and inserting");
  }
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (assigned->second[i]) {
      found[nodes[i]] = &*assigned->second[i];
    }
  }
  return found;
}

class Inserter {
 public:
  Inserter(Context& context, const std::string& method, const std::shared_ptr<torch::jit::Graph>& graph)
      : context_(context), observers_(observers_of(context, method, graph)), writes_(context, graph) {}

  void visit(Node* node) {
    if (is_quantize(node)) {
      fence(node, {node->output()});  // the model's own rounds, and is there for that
      return;
    }
    if (computes(context_, node)) {
      Fate fate = decide(node);
      reports_.push_back(report_on(context_, node, std::move(fate)));
    }
  }

  std::vector<OpReport> reports() && { return std::move(reports_); }

  int64_t count() const { return count_; }

 private:
  Fate decide(Node* node) {
    if (auto reason = why_float(node)) {
      return {"", *reason};
    }
    const OpRow* row = find_row(node);
    auto observers = observers_.find(node);
    if (observers == observers_.end()) {
      fence(node, tensor_outputs(node));
      return {"", "its qconfig is None"};
    }
    const Placeholder placeholder = placeholder_of(observers->second->activation);
    if (!suits(context_.target(), *row, placeholder, observers->second->weight)) {
      return {"", kUnsuited};
    }
    if (placeholder == Placeholder::Float && looks_up(*row)) {
      observe_weights(node, *row, *observers->second);
      return {"observed", ""};
    }
    if (placeholder != Placeholder::None) {
      return observe_inputs(node, *row, *observers->second);
    }
    if (absorbed_.count(node) != 0) {
      return {"part of the op before it", ""};
    }
    return row->output == Output::SameAsInput ? pass_on(node, *row)
                                              : observe_op(node, *row, *observers->second);
  }

  // Why an op with a row stays float whatever came before it, or nothing.
  std::optional<std::string> why_float(Node* node) const {
    if (auto reason = why_always_float(context_.target(), node)) {
      return reason;
    }
    const OpRow* row = find_row(node);
    const auto outputs = tensor_outputs(node);
    const auto slots = activation_slots(node, *row);
    if (outputs.empty() || (slots.empty() && !row->activations.empty())) {
      return "a list that it takes or gives is used elsewhere";
    }
    auto observers = observers_.find(node);
    const bool dynamic =
        observers != observers_.end() && placeholder_of(observers->second->activation) != Placeholder::None;
    if (dynamic ? changes_too_early(node, *row, slots) : is_changed_in_place(slots, outputs)) {
      return "what it takes or gives is changed in place";
    }
    return observers == observers_.end() ? std::nullopt : why_not_observed(node, *row, *observers->second);
  }

  std::optional<std::string> why_not_observed(Node* node, const OpRow& row,
                                              const ObserverPair& observers) const {
    const bool dynamic = placeholder_of(observers.activation) != Placeholder::None && !looks_up(row);
    if (auto reason = dynamic ? why_never_dynamic(context_, node) : std::nullopt) {
      return reason;
    }
    if (!dynamic && !has_integer_form(context_.target(), row)) {
      return kOnlyDynamicForm;
    }
    if (auto reason = why_not_recurrent(node, row)) {
      return reason;
    }
    for (const auto& slot : weight_slots(node, row)) {
      auto weight = context_.static_tensor(slot.value());
      if (!weight || weight->scalar_type() != at::kFloat) {
        return "its weight is not a float32 constant or attribute of the model";
      }
    }
    return std::nullopt;
  }

  void fence(Node* node, const std::vector<Value*>& outputs) {
    for (Value* output : outputs) {
      Value* fenced = insert_op(first_point_after(output), node, kFence, {output});
      output->replaceAllUsesAfterNodeWith(fenced->node(), fenced);
    }
  }

  // A quantized copy would not see the change.
  bool is_changed_in_place(const std::vector<ActivationSlot>& slots,
                           const std::vector<Value*>& outputs) const {
    return std::any_of(slots.begin(), slots.end(),
                       [&](const auto& slot) { return writes_.touch(slot.value()); }) ||
           std::any_of(outputs.begin(), outputs.end(), [&](Value* output) { return writes_.touch(output); });
  }

  // The last op that a dynamic op may take along: an add behind it, and an activation function.
  static Node* end_of_chain(Node* node) {
    Node* end = node;
    for (int i = 0; i < 2; ++i) {
      Node* user = only_user(end->output(0));
      const OpRow* row = user == nullptr ? nullptr : find_row(user);
      if (row == nullptr || row->moves) {
        break;
      }
      end = user;
    }
    return end;
  }

  // A dynamic op makes integers of its input where it stands, and gives float, so that changes may come
  // before and after. Only what it takes along moves it behind a change.
  bool changes_too_early(Node* node, const OpRow& row, const std::vector<ActivationSlot>& slots) const {
    const bool moves = find_dynamic_form(context_.target(), row) != nullptr;
    if (!moves || std::none_of(slots.begin(), slots.end(),
                               [&](const auto& slot) { return writes_.touch(slot.value()); })) {
      return false;
    }
    const Node* end = end_of_chain(node);
    for (const Node* between = node; between != end; between = between->next()) {
      const auto* schema = between->maybeSchema();
      if (!between->blocks().empty() || (schema != nullptr && schema->is_mutable())) {
        return true;
      }
    }
    return false;
  }

  bool are_integer(const std::vector<ActivationSlot>& slots) const {
    return std::all_of(slots.begin(), slots.end(),
                       [&](const auto& slot) { return integer_.count(slot.value()) != 0; });
  }

  Fate pass_on(Node* node, const OpRow& row) {
    const auto slots = activation_slots(node, row);
    for (const auto& slot : slots) {
      observe_input_for_others(slot.value());
    }
    if (!are_integer(slots)) {
      return {"", "its input is float"};
    }
    for (Value* output : tensor_outputs(node)) {
      integer_.insert(output);
    }
    return {"integers of the same scale", ""};
  }

  // An input of the method is observed in front of all that takes it, so also if that comes behind this op.
  void observe_input_for_others(Value* value) {
    if (value->node()->kind() != c10::prim::Param || integer_.count(value) != 0) {
      return;
    }
    for (const auto& use : value->uses()) {
      const OpRow* row = find_row(use.user);
      const IntegerForm* form = row == nullptr ? nullptr : find_form(context_.target(), *row);
      auto observers = observers_.find(use.user);
      const bool wants_integers = form == nullptr || !(form->only_among_integers || form->takes_float);
      if (row != nullptr && row->output != Output::SameAsInput && observers != observers_.end() &&
          placeholder_of(observers->second->activation) == Placeholder::None && wants_integers &&
          computes(context_, use.user) && !why_float(use.user)) {
        observe_all_uses(value, observers->second->activation, use.user);
        return;
      }
    }
  }

  Fate observe_op(Node* node, const OpRow& row, const ObserverPair& observers) {
    const auto slots = activation_slots(node, row);
    const IntegerForm* form = find_form(context_.target(), row);
    if (form != nullptr && form->only_among_integers && !are_integer(slots)) {
      return {"", "its input is float, and it is not worth quantizing for it alone"};
    }
    for (const auto& slot : slots) {
      const bool stays_float = form != nullptr && form->takes_float;
      if (integer_.count(slot.value()) == 0 && !stays_float) {
        observe_all_uses(slot.value(), observers.activation, node);
      }
    }
    observe_weights(node, row, observers);
    if (row.output == Output::Float) {
      return {"observed", ""};
    }
    if (row.output == Output::Fixed) {
      integer_.insert(node->output());
      return {"integers of a known range", ""};
    }
    Value* end = node->output();
    Node* clamp = absorbed_clamp(end, row);
    if (clamp != nullptr && observers_.count(clamp) != 0) {
      end = clamp->output();
      absorbed_.insert(clamp);
    }
    observe_all_uses(end, observers.activation, node);
    return {"observed", ""};
  }

  // Others that take the same value get it as it is.
  Fate observe_inputs(Node* node, const OpRow& row, const ObserverPair& observers) {
    for (const auto& slot : activation_slots(node, row)) {
      slot.set(observe(node, slot.value(), observers.activation, node));
    }
    for (const auto& slot : weight_slots(node, row)) {
      slot.set(observe_once(slot, observers.weight, node));
    }
    return {"observed", ""};
  }

  // A weight that ops before took with the same observer is already there: a cell that a loop of a traced
  // model calls at each step has its weights once.
  Value* observe_once(const TensorSlot& slot, const Module& prototype, Node* origin) {
    const at::Tensor weight = *context_.static_tensor(slot.value());
    auto& known = weights_[{weight.unsafeGetTensorImpl(), prototype._ivalue().get()}];
    if (known.observed == nullptr || !slot.node->isDominatedBy(known.observed->node())) {
      known = {weight, observe(slot.node, slot.value(), prototype, origin)};
    }
    return known.observed;
  }

  void observe_weights(Node* node, const OpRow& row, const ObserverPair& observers) {
    for (const auto& slot : weight_slots(node, row)) {
      slot.set(observe(slot.node, slot.value(), along_axis(observers.weight, row.weight_axis), node));
    }
  }

  // Transposed convolutions have their output channels elsewhere than an observer expects.
  static Module along_axis(const Module& prototype, int64_t axis) {
    Module copy = prototype.deepcopy();
    if (axis != 0 && copy.hasattr("ch_axis")) {
      copy.setattr("ch_axis", axis);
    }
    return copy;
  }

  // An input is observed behind what only asks for its shape: the model's own checks come before a kernel's.
  static Node* before_first_taker(Value* value) {
    if (value->node()->kind() != c10::prim::Param) {
      return first_point_after(value);
    }
    Node* first = nullptr;
    for (const auto& use : value->uses()) {
      Node* node = use.user;
      while (node->owningBlock() != value->node()->owningBlock()) {
        node = node->owningBlock()->owningNode();
      }
      if (!asks_for_shape(use.user) && (first == nullptr || node->isBefore(first))) {
        first = node;
      }
    }
    return first == nullptr ? first_point_after(value) : first;
  }

  void observe_all_uses(Value* value, const Module& prototype, Node* origin) {
    Value* observed = observe(before_first_taker(value), value, prototype, origin);
    value->replaceAllUsesAfterNodeWith(observed->node(), observed);
    integer_.insert(observed);
  }

  Value* observe(Node* before, Value* value, const Module& prototype, Node* origin) {
    Value* observer = context_.new_submodule(before, kObserverPrefix, prototype.deepcopy());
    auto* graph = before->owningGraph();
    Node* call = graph->create(c10::prim::CallMethod, {observer, value});
    call->s_(c10::attr::name, "forward");
    call->output()->setType(c10::TensorType::get());
    call->insertBefore(before);
    call->copyMetadata(origin);
    observer->node()->copyMetadata(origin);
    ++count_;
    return call->output();
  }

  Context& context_;
  const ObserversOf observers_;
  Writes writes_;
  std::unordered_set<Value*> integer_;  // what will be integer once the model is converted
  int64_t count_ = 0;
  struct ObservedWeight {
    at::Tensor data;  // held, so that no other gets its address
    Value* observed = nullptr;
  };
  std::map<std::pair<const void*, const void*>, ObservedWeight> weights_;  // by data and observer
  std::unordered_set<const Node*> absorbed_;  // clamps that the op before them does
  std::vector<OpReport> reports_;
};

}  // namespace

int64_t InsertObservers(Context& context) {
  int64_t count = 0;
  const auto graphs = context.graphs();
  for (size_t i = 0; i < graphs.size(); ++i) {
    Inserter inserter(context, context.methods()[i], graphs[i]);
    for_each_node(graphs[i]->block(), [&](Node* node) { inserter.visit(node); });
    count += inserter.count();
    context.reports[context.methods()[i]] = std::move(inserter).reports();
  }
  return count;
}

JITQUANT_PASS(InsertObservers, "insert_observers", "Values that are to become integer go through observers.");

}  // namespace jitquant
