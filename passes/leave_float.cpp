// leave_float: ops of a calibrated model stay float after all, without preparing and calibrating it again.
//
// Before (the attribute `_left_float` names the number of the linear):
//   %w : Tensor = prim::CallMethod[name="forward"](%_observer_1, %weight)
//   %y : Tensor = aten::linear(%x, %w, %bias)
//   %y.1 : Tensor = prim::CallMethod[name="forward"](%_observer_2, %y)
// After:
//   %y : Tensor = aten::linear(%x, %weight, %bias)
//   %f : Tensor = aten::alias(%y)
//   %y.1 : Tensor = prim::CallMethod[name="forward"](%_observer_2, %f)
//
// The fence says what a qconfig of None says. Observers of activations stay, with what they saw: ops behind
// it may take integers, and where none does, conversion takes the quantize away. What only moves values and
// has the scale of its input is float as well, unless an integer op takes it right away: then it moves
// integers.
//
// Left alone: ops that have a fence.

#include <set>
#include <unordered_set>

#include "csrc/graph_edit.h"
#include "csrc/observer_calls.h"
#include "csrc/op_table.h"
#include "csrc/pass.h"
#include "csrc/switches.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

class Leaver {
 public:
  Leaver(const std::vector<Node*>& ops, const std::vector<int64_t>& numbers) : all_(ops.begin(), ops.end()) {
    for (int64_t number : numbers) {
      left_.insert(ops.at(number));
    }
  }

  // From the end, so that it is known of what takes a value whether it is float.
  void visit(Node* node) {
    const OpRow* row = find_row(node);
    if (left_.count(node) == 0 || row == nullptr || is_fenced(node)) {
      return;
    }
    for (const auto& slot : weight_slots(node, *row)) {
      release(slot);
    }
    if (row->output == Output::SameAsInput && goes_to_integers(node)) {
      return;
    }
    for (Value* output : tensor_outputs(node)) {
      Value* fenced = insert_op(first_point_after(output), node, kFence, {output});
      output->replaceAllUsesAfterNodeWith(fenced->node(), fenced);
    }
    ++count_;
  }

  // Of observers that nothing calls any more.
  const std::vector<std::string>& released() const { return released_; }
  int64_t count() const { return count_; }

 private:
  void release(const TensorSlot& slot) {
    Node* call = slot.value()->node();
    auto name = called_observer(call);
    if (!name) {
      return;
    }
    slot.set(call->input(1));
    if (call->output()->uses().empty()) {
      Node* read = call->input(0)->node();
      call->destroy();
      read->destroy();
      released_.push_back(*name);
    }
  }

  bool goes_to_integers(Node* node) const {
    for (Value* output : tensor_outputs(node)) {
      for (const auto& use : output->uses()) {
        Node* user = use.user;
        user = user->kind() == c10::prim::ListConstruct ? only_user(user->output()) : user;
        if (user != nullptr && all_.count(user) != 0 && !is_fenced(user) && find_row(user) != nullptr) {
          return true;
        }
      }
    }
    return false;
  }

  const std::unordered_set<const Node*> all_;
  std::unordered_set<const Node*> left_;
  std::vector<std::string> released_;
  int64_t count_ = 0;
};

}  // namespace

int64_t LeaveFloat(Context& context) {
  const auto numbers = context.attribute(kLeftFloat);
  if (!numbers) {
    return 0;
  }
  const auto ops = numbered_ops(context);
  Leaver leaver(ops, numbers->toIntVector());
  for (auto op = ops.rbegin(); op != ops.rend(); ++op) {
    leaver.visit(*op);
  }
  auto unused = leaver.released();
  unused.push_back(kLeftFloat);
  context.remove_attributes(unused);
  return leaver.count();
}

JITQUANT_PASS(LeaveFloat, "leave_float", "Chosen ops of a calibrated model stay float.");

}  // namespace jitquant
