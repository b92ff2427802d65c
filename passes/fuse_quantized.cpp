// fuse_quantized: dequantize, op and quantize become the integer op of the target.
//
// Before:
//   %x : Tensor = aten::dequantize(%xq)
//   %w : Tensor = aten::dequantize(%wq)
//   %c : Tensor = aten::conv2d(%x, %w, %b, ...)
//   %y : Tensor = aten::relu(%c)
//   %yq : Tensor = aten::quantize_per_tensor(%y, %scale, %zero_point, %dtype)
// After:
//   %packed = quantized::conv2d_prepack(%wq, %b, ...)
//   %yq : Tensor = quantized::conv2d_relu(%xq, %packed, %scale, %zero_point)
//
// A clamp before the quantize goes: into the op where the target has it with a relu; into nothing where the
// range of the integers ends where the clamp does; else it is done on the integers. Left alone: ops of which
// an activation is float, or whose output something float uses before it is quantized, and ops with arguments
// that the integer op does not take.

#include <cmath>

#include <ATen/ATen.h>

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

Value* integers_of(Value* dequantized) { return dequantized->node()->input(); }

// Whether integers with these parameters cannot leave the bounds by more than half a step.
bool saturates_within(const Context& context, const Node* quantize, std::pair<double, double> bounds) {
  auto scale = context.static_value(quantize->input(1));
  auto zero_point = context.static_value(quantize->input(2));
  auto dtype = constant_of(quantize->input(3));
  if (!scale || !zero_point || !dtype) {
    return false;
  }
  const bool is_signed = static_cast<at::ScalarType>(dtype->toInt()) == at::kQInt8;
  const double step = scale->toDouble();
  const double lowest = ((is_signed ? -128.0 : 0.0) - static_cast<double>(zero_point->toInt())) * step;
  const double highest = ((is_signed ? 127.0 : 255.0) - static_cast<double>(zero_point->toInt())) * step;
  return lowest >= bounds.first - step / 2 && highest <= bounds.second + step / 2;
}

struct Weight {
  Value* scales;
  Value* zero_points;
};

// Scales and zero points of symmetric weights, as tensors of one element or of one for each channel.
std::optional<Weight> weight_params(const Context& context, const Node* quantize, Node* before) {
  auto scale = context.static_value(quantize->input(1));
  auto zero_point = context.static_value(quantize->input(2));
  const bool known = scale && zero_point;
  const bool symmetric = known && (zero_point->isTensor() ? !zero_point->toTensor().any().item<bool>()
                                                          : zero_point->toInt() == 0);
  if (!symmetric) {
    return std::nullopt;
  }
  if (scale->isTensor()) {
    return Weight{quantize->input(1), quantize->input(2)};
  }
  return Weight{constant(before, at::full({1}, scale->toDouble())),
                constant(before, at::full({1}, zero_point->toInt(), at::kLong))};
}

// Stock integer ops take quint8; what is quantized otherwise stays as it is.
bool is_quint8(const Value* dequantized) {
  if (!is_dequantize(dequantized)) {
    return false;
  }
  const Node* source = dequantized->node()->input()->node();
  if (!is_quantize(source)) {
    return true;
  }
  auto dtype = constant_of(source->input(3));
  return dtype && static_cast<at::ScalarType>(dtype->toInt()) == at::kQUInt8;
}

class Fuser {
 public:
  explicit Fuser(Context& context) : context_(context) {}

  void visit(Node* node) {
    const OpRow* row = find_row(node);
    if (row == nullptr || casts(node) || !engine_runs(context_.options.engine, node)) {
      return;
    }
    const auto slots = activation_slots(node, *row);
    const bool integer_inputs =
        !slots.empty() &&
        std::all_of(slots.begin(), slots.end(), [](const auto& slot) { return is_quint8(slot.value()); });
    if (!integer_inputs || (row->weight && !is_dequantize(node->namedInput(*row->weight)))) {
      return;
    }
    count_ += runs_as_it_is(*row) ? move_to_integers(node, slots) : replace(node, *row, slots);
  }

  int64_t count() const { return count_; }

 private:
  // An op that keeps parameters runs on the integers as it is.
  bool move_to_integers(Node* node, const std::vector<ActivationSlot>& slots) {
    const auto outputs = tensor_outputs(node);
    const auto source = qparams_of(integers_of(slots[0].value()));
    std::vector<Node*> quantizes;
    for (Value* output : outputs) {
      if (output->uses().empty()) {
        continue;
      }
      Node* user = only_user(output);
      if (user == nullptr || !is_quantize(user) || !source ||
          !same_qparams(context_, *source, qparams_of_quantize(user))) {
        return false;
      }
      quantizes.push_back(user);
    }
    if (quantizes.empty()) {
      return false;
    }
    for (const auto& slot : slots) {
      slot.set(integers_of(slot.value()));
    }
    for (Node* quantize : quantizes) {
      quantize->output()->replaceAllUsesWith(quantize->input(0));
    }
    return true;
  }

  bool replace(Node* node, const OpRow& row, const std::vector<ActivationSlot>& slots) {
    Node* clamp = absorbed_clamp(node->output(), row);
    Node* quantize = only_user(clamp == nullptr ? node->output() : clamp->output());
    if (quantize == nullptr || !is_quantize(quantize)) {
      return false;
    }
    Lowering lowering = collect(node, row, slots, quantize);
    const IntegerForm* form = choose_form(context_, lowering);
    if (form == nullptr) {
      return false;
    }
    lowering.relu = clamp != nullptr && clamp->kind() == c10::aten::relu && !form->relu_recipe.empty();
    const bool clamp_is_left = clamp != nullptr && !lowering.relu &&
                               !saturates_within(context_, quantize, *clamp_bounds(clamp, *find_row(clamp)));
    if (clamp_is_left && !engine_runs(context_.options.engine, clamp)) {
      return false;
    }
    for (const auto& slot : slots) {
      if (slot.node != node) {
        slot.set(integers_of(slot.value()));
      }
    }
    Value* result = build_form(*form, lowering, quantize);
    if (clamp_is_left) {
      result = clamp_integers(clamp, result);
    }
    quantize->output()->replaceAllUsesWith(result);
    return true;
  }

  Lowering collect(Node* node, const OpRow& row, const std::vector<ActivationSlot>& slots, Node* quantize) {
    Lowering lowering{.node = node, .names = {}};
    const auto& arguments = node->schema().arguments();
    for (size_t i = 0; i < arguments.size(); ++i) {
      lowering.names[arguments[i].name()] = node->input(i);
    }
    for (const auto& slot : slots) {
      if (slot.node == node) {
        lowering.names[arguments[slot.index].name()] = integers_of(slot.value());
      }
    }
    lowering.names["$scale"] = quantize->input(1);
    lowering.names["$zero_point"] = quantize->input(2);
    if (auto input = qparams_of(integers_of(slots[0].value()))) {
      lowering.names["$input_scale"] = input->scale;
      lowering.names["$input_zero_point"] = input->zero_point;
    }
    if (row.weight) {
      Value* weight = integers_of(node->namedInput(*row.weight));
      lowering.names[*row.weight] = weight;
      if (auto params = weight_params(context_, weight->node(), node)) {
        lowering.names["$weight_scales"] = params->scales;
        lowering.names["$weight_zero_points"] = params->zero_points;
      }
    }
    return lowering;
  }

  Value* clamp_integers(Node* clamp, Value* integers) {
    Node* copy = clamp->owningGraph()->createClone(clamp, [](Value* value) { return value; });
    copy->replaceInput(0, integers);
    copy->insertAfter(integers->node());
    return copy->output();
  }

  Context& context_;
  int64_t count_ = 0;
};

}  // namespace

int64_t FuseQuantized(Context& context) {
  Fuser fuser(context);
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(), [&](Node* node) { fuser.visit(node); });
    eliminate_dead_code(graph);
  }
  return fuser.count();
}

JITQUANT_PASS(FuseQuantized, "fuse_quantized", "Dequantize, op and quantize become the target's integer op.");

}  // namespace jitquant
