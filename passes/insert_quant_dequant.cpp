// insert_quant_dequant: what the observers saw becomes scale and zero point, and each observed value is
// quantized and dequantized where its observer stood. Ops that only move values are quantized with the
// parameters of their input, and those of a known range with fixed ones.
//
// Before:
//   %x.1 : Tensor = prim::CallMethod[name="forward"](%_observer_0, %x)
//   %y : Tensor = aten::max_pool2d(%x.1, ...)
// After:
//   %_scale_0 : float = prim::GetAttr[name="_scale_0"](%self)
//   %_zero_point_0 : int = prim::GetAttr[name="_zero_point_0"](%self)
//   %q : Tensor = aten::quantize_per_tensor(%x, %_scale_0, %_zero_point_0, %dtype)
//   %x.1 : Tensor = aten::dequantize(%q)
//   %y : Tensor = aten::max_pool2d(%x.1, ...)
//   %q.1 : Tensor = aten::quantize_per_tensor(%y, %_scale_0, %_zero_point_0, %dtype)
//   %y.1 : Tensor = aten::dequantize(%q.1)
//
// Weights whose rows have float zero points keep these. A placeholder becomes quantize and dequantize with
// the range of each call, or casts to bfloat16 and back, or before a weight of half precision what keeps it
// within that, or where only the weight is integer a mark on the op; csrc/dynamic.h shows all.
//
// Refused: a module without observers, observers of which none has seen data, and values that were NaN or
// infinite. Left float, with a warning: values on a path that calibration did not take, and those that turned
// out not to be float.

#include "csrc/dynamic.h"
#include "csrc/error.h"
#include "csrc/graph_edit.h"
#include "csrc/module_path.h"
#include "csrc/observer_calls.h"
#include "csrc/op_table.h"
#include "csrc/pass.h"
#include "csrc/quantization_params.h"
#include "csrc/target.h"
#include "csrc/walk.h"
#include "csrc/writes.h"

namespace jitquant {

namespace {

using torch::jit::Module;
using torch::jit::Node;
using torch::jit::Value;

constexpr const char* kName = "insert_quant_dequant";

struct Observed {
  Node* call;
  Module observer;
  Placeholder placeholder;
  std::optional<QParams> params;  // nothing where the value stays float
};

std::vector<Observed> find_observed(const Context& context) {
  std::vector<Observed> found;
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(), [&](Node* node) {
      if (auto name = called_observer(node)) {
        const Module observer(context.attribute(*name)->toObject());
        found.push_back({node, observer, placeholder_of(observer), std::nullopt});
      }
    });
  }
  return found;
}

// The op a user knows: the one that gave the observed value, or where that is an input one that takes it.
const Node* op_of(const Observed& observed) {
  const Node* producer = observed.call->input(1)->node();
  if (producer->kind() != c10::prim::Param && producer->kind() != c10::prim::GetAttr) {
    return producer;
  }
  for (const auto& use : observed.call->output()->uses()) {
    const Node* list_user =
        use.user->kind() == c10::prim::ListConstruct ? only_user(use.user->output()) : nullptr;
    const Node* user = list_user == nullptr ? use.user : list_user;
    if (find_row(user) != nullptr) {
      return user;
    }
  }
  return producer;
}

// Observers see nothing of a model of doubles or halves.
bool has_other_float_types(const Module& module) {
  for (const at::Tensor& parameter : module.parameters()) {
    if (parameter.is_floating_point() && parameter.scalar_type() != at::kFloat) {
      return true;
    }
  }
  return false;
}

// All checks come before the first change.
void ask_all(Context& context, std::vector<Observed>& all) {
  if (all.empty()) {
    fail(kName, "the module has no observers", "call prepare_jit first and calibrate what it returns");
  }
  auto is_weight = [&](const Observed& observed) {
    return context.static_tensor(observed.call->input(1)).has_value();
  };
  const bool needs_data = !std::all_of(all.begin(), all.end(), [&](const Observed& observed) {
    return is_weight(observed) || observed.placeholder != Placeholder::None;
  });
  const bool none_ran = std::none_of(all.begin(), all.end(), [&](const Observed& observed) {
    return !is_weight(observed) && has_observed(observed.observer);
  });
  if (needs_data && none_ran && !has_other_float_types(context.module)) {
    fail(kName, op_of(all.front()), "was never observed",
         "run calibration data through the prepared model first");
  }
  for (Observed& observed : all) {
    if (observed.placeholder != Placeholder::None) {
      continue;
    }
    if (is_weight(observed) && !has_observed(observed.observer)) {
      observed.observer.get_method("forward")({*context.static_tensor(observed.call->input(1))});
    }
    if (!has_observed(observed.observer)) {
      context.warnings.push_back(
          std::string(kName) + ": " + describe(op_of(observed)) +
          " stays float: calibration never reached it, or its value is not a float tensor");
      continue;
    }
    observed.params = ask_observer(observed.observer);
    if (observed.params && observed.params->dtype != at::kQUInt8 && !is_weight(observed)) {
      context.warnings.push_back(std::string(kName) + ": " + describe(op_of(observed)) +
                                 " stays float: integer ops take quint8 activations only");
      observed.params.reset();
      continue;
    }
    if (!observed.params) {
      fail(kName, op_of(observed),
           "saw NaN or infinity (value %" + observed.call->input(1)->debugName() + ")",
           "look for it in the calibration data and in the float model's weights");
    }
  }
}

Value* finish(Value* value, Value* quantized, Node* origin) {
  Node* before = quantized->node()->next();
  Value* dequantized = insert_op(before, origin, "aten::dequantize", {quantized});
  dequantized->setType(value->type());
  return dequantized;
}

class Inserter {
 public:
  explicit Inserter(Context& context) : context_(context) {}

  void replace_observer(const Observed& observed) {
    Value* value = observed.call->input(1);
    Value* result = value;
    if (observed.placeholder == Placeholder::Dynamic) {
      result = quantize_anew(observed.call, value, reduces_range(observed.observer));
    } else if (observed.placeholder == Placeholder::Half && context_.static_tensor(value)) {
      result = insert_op(observed.call, observed.call, kSaturateToHalf, {value});
      ++count_;
    } else if (observed.placeholder == Placeholder::Bfloat16) {
      result = round_to_bfloat16(observed.call, value);
    } else if (observed.placeholder == Placeholder::Float) {
      mark_takers(observed.call->output());
    } else if (observed.params) {
      result = quantize(observed.call, value, params_for_kernel(observed));
    }
    observed.call->output()->replaceAllUsesWith(result);
    observed.call->destroy();
  }

  // Gives the outputs of ops that move values, or that have a known range, their parameters. What is changed
  // in place later on stays as it is, as the change would go to one copy.
  void visit(Node* node, const Writes& writes) {
    const OpRow* row = find_row(node);
    if (row == nullptr || row->activations.empty() || row->output == Output::Observed || is_fenced(node) ||
        casts(node) || !has_integer_form(context_.target(), *row)) {
      return;
    }
    const auto slots = activation_slots(node, *row);
    const bool integer = !slots.empty() && std::all_of(slots.begin(), slots.end(), [](const auto& slot) {
      return is_dequantize(slot.value()) && is_quantize(slot.value()->node()->input()->node());
    });
    if (!integer) {
      return;
    }
    const Node* source = slots[0].value()->node()->input()->node();
    const auto outputs = tensor_outputs(node);
    if (std::any_of(outputs.begin(), outputs.end(), [&](Value* output) { return writes.touch(output); })) {
      return;
    }
    for (Value* output : outputs) {
      quantize_like(output, node, *row, source);
    }
  }

  int64_t count() const { return count_; }

 private:
  // One scale for all channels where the integer op takes no more.
  QParams params_for_kernel(const Observed& observed) const {
    QParams params = *observed.params;
    const auto& uses = observed.call->output()->uses();
    const OpRow* row = uses.empty() ? nullptr : find_row(uses[0].user);
    const IntegerForm* form = row == nullptr ? nullptr : find_form(context_.target(), *row);
    const bool symmetric = !params.zero_point.any().item<bool>();
    if (params.axis && form != nullptr && form->per_tensor_weight && symmetric) {
      params = {params.scale.max(), at::zeros({}, at::kLong), params.dtype, std::nullopt};
    }
    return params;
  }

  Value* quantize(Node* before, Value* value, const QParams& params) {
    Value* dtype = constant(before, static_cast<int64_t>(params.dtype));
    const std::string kind = params.axis ? "aten::quantize_per_channel" : "aten::quantize_per_tensor";
    std::vector<Value*> inputs{value};
    if (params.axis) {
      const auto tensor = c10::TensorType::get();
      inputs.push_back(context_.new_attribute(before, "_scale_", params.scale, tensor));
      inputs.push_back(context_.new_attribute(before, "_zero_point_", params.zero_point, tensor));
      inputs.push_back(constant(before, *params.axis));
    } else {
      inputs.push_back(
          context_.new_attribute(before, "_scale_", params.scale.item().toDouble(), c10::FloatType::get()));
      inputs.push_back(context_.new_attribute(before, "_zero_point_", params.zero_point.item().toLong(),
                                              c10::IntType::get()));
    }
    inputs.push_back(dtype);
    ++count_;
    return finish(value, insert_op(before, before, kind, inputs), before);
  }

  // With the range of each call.
  Value* quantize_anew(Node* before, Value* value, bool reduce_range) {
    Value* reduce = constant(before, reduce_range);
    Node* choose =
        before->owningGraph()->create(c10::Symbol::fromQualString(kChooseQParams), {value, reduce}, 2);
    choose->output(0)->setType(c10::FloatType::get());
    choose->output(1)->setType(c10::IntType::get());
    choose->insertBefore(before)->copyMetadata(before);
    Value* dtype = constant(before, static_cast<int64_t>(at::kQUInt8));
    ++count_;
    return finish(value,
                  insert_op(before, before, "aten::quantize_per_tensor",
                            {value, choose->output(0), choose->output(1), dtype}),
                  before);
  }

  Value* round_to_bfloat16(Node* before, Value* value) {
    auto cast = [&](Value* from, at::ScalarType to) {
      return insert_op(before, before, "aten::to", {from, constant(before, static_cast<int64_t>(to))});
    };
    ++count_;
    Value* result = cast(cast(value, at::kBFloat16), at::kFloat);
    result->setType(value->type());
    return result;
  }

  void mark_takers(Value* value) const {
    for (const auto& use : value->uses()) {
      const OpRow* row = find_row(use.user);
      if (row != nullptr && row->weight() && find_dynamic_form(context_.target(), *row) != nullptr) {
        use.user->i_(c10::Symbol::fromQualString(kWeightOnly), 1);
      }
    }
  }

  void quantize_like(Value* output, Node* node, const OpRow& row, const Node* source) {
    Node* before = first_point_after(output);
    std::vector<Value*> inputs{output, source->input(1), source->input(2), source->input(3)};
    if (row.output == Output::Fixed) {
      inputs[1] = constant(before, row.fixed->scale);
      inputs[2] = constant(before, row.fixed->zero_point);
    }
    Value* quantized = insert_op(before, node, "aten::quantize_per_tensor", inputs);
    Value* dequantized = finish(output, quantized, node);
    output->replaceAllUsesAfterNodeWith(dequantized->node(), dequantized);
    ++count_;
  }

  Context& context_;
  int64_t count_ = 0;
};

// Before scales and zero points follow them: what lies behind has to move.
void remove_observers(Context& context, const std::vector<Observed>& all) {
  std::vector<std::string> names;
  for (const Observed& observed : all) {
    names.push_back(*called_observer(observed.call));
  }
  context.remove_attributes(names);
}

}  // namespace

int64_t InsertQuantDequant(Context& context) {
  std::vector<Observed> all = find_observed(context);
  ask_all(context, all);
  remove_observers(context, all);
  Inserter inserter(context);
  for (const Observed& observed : all) {
    inserter.replace_observer(observed);
  }
  for (const auto& graph : context.graphs()) {
    const Writes writes(context, graph);
    for_each_node(graph->block(), [&](Node* node) { inserter.visit(node, writes); });
    eliminate_dead_code(graph);
  }
  return inserter.count();
}

JITQUANT_PASS(InsertQuantDequant, "insert_quant_dequant", "Observers become quantize and dequantize.");

}  // namespace jitquant
