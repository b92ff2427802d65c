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
// range of the integers ends where the clamp does; else it is done on the integers. An op of which the input
// gets its range at each call becomes the target's dynamic op (csrc/dynamic.h), and one that looks rows of an
// integer weight up becomes the op that takes them packed. Left alone: ops of which an activation is float,
// or whose output something float uses before it is quantized, and ops with arguments that the integer op
// does not take.

#include <cmath>
#include <unordered_map>

#include <ATen/ATen.h>

#include "csrc/chain.h"
#include "csrc/dynamic.h"
#include "csrc/error.h"
#include "csrc/graph_edit.h"
#include "csrc/op_table.h"
#include "csrc/pass.h"
#include "csrc/places.h"
#include "csrc/quantization_params.h"
#include "csrc/recurrent.h"
#include "csrc/smoothing.h"
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

// Whether what has a float result takes integers, or something quantizes the result: else it has nothing to
// do with integers.
bool is_among_integers(const Value* result, const std::vector<ActivationSlot>& slots) {
  return std::any_of(slots.begin(), slots.end(),
                     [](const auto& slot) { return is_dequantize(slot.value()); }) ||
         std::any_of(result->uses().begin(), result->uses().end(), [](const auto& use) {
           return is_static_quantize(use.user) || is_op(use.user, kSmooth);
         });
}

class Fuser {
 public:
  Fuser(Context& context, const std::vector<Node*>& nodes)
      : context_(context),
        target_(context.target()),
        all_dynamic_(has_any(nodes, is_dynamic) && !has_any(nodes, is_static)) {}

  void visit(Node* node) {
    auto absorbed = absorbed_.find(node);
    Fate fate = absorbed == absorbed_.end() ? decide(node) : Fate{absorbed->second, ""};
    count_ += absorbed == absorbed_.end() && fate.reason.empty();
    reports_.push_back(report_on(context_, node, std::move(fate)));
  }

  std::vector<OpReport> reports() && { return std::move(reports_); }

  int64_t count() const { return count_; }

 private:
  Fate decide(Node* node) {
    if (auto reason = why_always_float(target_, node)) {
      return {"", *reason};
    }
    const OpRow* row = find_row(node);
    if (is_fenced(node)) {
      return {"", "its qconfig is None"};
    }
    if (is_dynamic(node, *row)) {
      return replace_dynamic(node, *row);
    }
    if (all_dynamic_ && !looks_up(*row)) {
      return {"", why_not_dynamic(node, *row)};
    }
    if (!has_integer_form(target_, *row)) {
      return {"", kOnlyDynamicForm};
    }
    if (!runs(node)) {
      return {"", "the engine " + context_.options.engine + " has no kernel for it that is right"};
    }
    const IntegerForm* form = find_form(target_, *row);
    const bool takes_float = form != nullptr && form->takes_float;
    const auto slots = activation_slots(node, *row);
    if (slots.empty() && !row->activations.empty()) {
      return {"", "the list that it takes comes from elsewhere"};
    }
    if (row->weight() && !is_dequantize(node->namedInput(*row->weight()))) {
      return {"", why_weight_is_float(node, *row)};
    }
    for (const auto& slot : slots) {
      if (!is_quint8(slot.value()) && !(takes_float && !is_dequantize(slot.value()))) {
        return {"", why_float(slot.value())};
      }
    }
    if (row->output == Output::Float) {
      return replace_weight(node, *row);
    }
    return form == nullptr ? move_to_integers(node, slots) : replace(node, *row, *form, slots);
  }

  static bool has_any(const std::vector<Node*>& nodes, bool (*is_kind)(Node*, const OpRow&)) {
    return std::any_of(nodes.begin(), nodes.end(), [&](Node* node) {
      const OpRow* row = find_row(node);
      return row != nullptr && is_kind(node, *row);
    });
  }

  std::string why_not_dynamic(Node* node, const OpRow& row) const {
    auto reason = why_never_dynamic(context_, node);
    reason = reason ? reason : why_not_recurrent(node, row);
    return reason ? *reason : why_weight_is_float(node, row);
  }

  std::string why_weight_is_float(Node* node, const OpRow& row) const {
    const auto slots = weight_slots(node, row);
    const bool are_known = std::all_of(slots.begin(), slots.end(), [&](const auto& slot) {
      auto weight = context_.static_tensor(slot.value());
      return weight && weight->scalar_type() == at::kFloat;
    });
    return are_known ? kUnsuited : "its weight is not a float32 constant or attribute of the model";
  }

  // Of an op that takes and gives float, whatever its input becomes inside.
  Fate replace_dynamic(Node* node, const OpRow& row) {
    if (has_recurrent_form(target_, row)) {
      return replace_recurrent(node, row);
    }
    const auto slot = activation_slots(node, row).front();
    Chain chain = find_chain(node, row, *find_dynamic_form(target_, row), /*through_pairs=*/false);
    Node* before = chain.end->node()->next();
    Lowering lowering = collect_dynamic(chain, row, slot.value(), before);
    const IntegerForm* form = choose_dynamic_form(context_, lowering);
    if (form == nullptr) {
      const std::string reason = find_dynamic_form(target_, row)->otherwise;
      return {"", reason.empty() ? "no dynamic op takes its input and its weight as they are" : reason};
    }
    const bool is_relu = chain.activation != nullptr && chain.activation->kind() == c10::aten::relu;
    const bool takes_relu = chain.add == nullptr && is_relu && !form->relu_recipe.empty();
    if (!form->takes_activation) {
      Node* relu = takes_relu ? chain.activation : nullptr;
      chain = {.op = node, .activation = relu, .end = takes_relu ? relu->output() : node->output()};
      before = chain.end->node()->next();
      lowering = collect_dynamic(chain, row, slot.value(), before);
      lowering.relu = takes_relu;
    }
    Value* result = build_form(*form, lowering, before);
    const bool is_result = std::string(form->becomes).empty();
    const std::string becomes = is_result ? result->node()->kind().toQualString() : form->becomes;
    join_places({node, chain.add, chain.activation}, result->node());
    for (const Node* absorbed : {chain.add, chain.activation}) {
      if (absorbed != nullptr) {
        absorbed_[absorbed] = becomes;
      }
    }
    chain.end->replaceAllUsesWith(result);
    return {becomes, ""};
  }

  Fate replace_recurrent(Node* node, const OpRow& row) {
    Node* made = build_recurrent(context_, node, row);
    if (made == nullptr) {
      return {"", kNoDynamicForm};
    }
    for (size_t i = 0; i < node->outputs().size(); ++i) {
      node->output(i)->replaceAllUsesWith(made->output(i));
    }
    join_places({node}, made);
    return {made->kind().toQualString(), ""};
  }

  Lowering collect_dynamic(const Chain& chain, const OpRow& row, const Value* input, Node* before) {
    Lowering lowering = collect(chain, row, {}, nullptr, before);
    if (Node* chooser = chooser_of(input)) {
      lowering.names["input"] = chooser->input(0);
      lowering.names["$input_scale"] = chooser->output(0);
      lowering.names["$input_zero_point"] = chooser->output(1);
      lowering.names["$reduce_range"] = chooser->input(1);
    }
    if (Value* rounded = rounded_to_bfloat16(input)) {
      add_bfloat16(lowering, row, rounded, before);
    }
    return lowering;
  }

  static void add_bfloat16(Lowering& lowering, const OpRow& row, Value* rounded, Node* before) {
    auto& names = lowering.names;
    Value* weight = row.weight() ? rounded_to_bfloat16(lowering.node->namedInput(*row.weight())) : nullptr;
    if (weight == nullptr) {
      return;
    }
    Value* bias = lowering.node->namedInput("bias");
    const bool has_bias = bias->type()->isSubtypeOf(*c10::TensorType::get());
    Value* dtype = constant(before, static_cast<int64_t>(at::kBFloat16));
    names["input"] = rounded->node()->input(0);
    names["$input16"] = rounded;
    names["$weight16"] = weight;
    names["$bias16"] = has_bias ? insert_op(before, before, "aten::to", {bias, dtype}) : bias;
  }

  static std::string why_float(const Value* input) {
    if (is_dequantize(input)) {
      return "its input is not of quint8";
    }
    const Node* source = input->node();
    return source->kind() == c10::prim::Param ? "its input is not quantized"
                                              : "its input is float: " + describe(source);
  }

  // Who takes as float what should become integers.
  static std::string why_not_quantized(const Value* result) {
    for (const auto& use : result->uses()) {
      if (is_op(use.user, kChooseQParams)) {
        return "its result is float and gets a range at each call";
      }
      if (!is_quantize(use.user)) {
        return use.user->kind() == c10::prim::Return ? "its result is returned as float"
                                                     : "its result is taken as float: " + describe(use.user);
      }
    }
    return "its result is quantized in several ways";
  }

  bool runs(const Node* node) const { return target_.runs(context_.options.engine, node); }

  // The integers of a dequantized value, in the shape that the target's ops take.
  Value* take(Value* dequantized, Node* before) {
    if (!is_dequantize(dequantized)) {
      return dequantized;
    }
    Value* integers = integers_of(dequantized);
    return target_.plain_integers ? insert_op(before, before, kIntRepr, {integers}) : integers;
  }

  Value* give(Value* integers, Node* before, Value* scale, Value* zero_point) {
    return target_.plain_integers ? insert_op(before, before, kMakeQuantized, {integers, scale, zero_point})
                                  : integers;
  }

  // An op that keeps parameters runs on the integers as it is.
  Fate move_to_integers(Node* node, const std::vector<ActivationSlot>& slots) {
    const auto source = qparams_of(integers_of(slots[0].value()));
    std::vector<Node*> quantizes;
    for (Value* output : tensor_outputs(node)) {
      if (output->uses().empty()) {
        continue;
      }
      Node* user = only_user(output);
      if (user == nullptr || !is_quantize(user) || !source ||
          !same_qparams(context_, *source, qparams_of_quantize(user))) {
        return {"", why_not_quantized(output)};
      }
      quantizes.push_back(user);
    }
    if (quantizes.empty()) {
      return {"", "nothing takes its result as a tensor"};
    }
    for (const auto& slot : slots) {
      slot.set(take(slot.value(), slot.node));
    }
    for (Node* quantize : quantizes) {
      Value* moved = give(quantize->input(0), quantize, quantize->input(1), quantize->input(2));
      quantize->output()->replaceAllUsesWith(moved);
    }
    return {node->kind().toQualString(), ""};
  }

  // Of an op that takes and gives float.
  Fate replace_weight(Node* node, const OpRow& row) {
    Node* before = node->next();
    const Lowering lowering = collect({.op = node, .end = node->output(0)}, row, {}, nullptr, before);
    const IntegerForm* form = choose_form(context_, lowering);
    if (form == nullptr) {
      return {"", why_no_form(context_, lowering)};
    }
    Value* result = build_form(*form, lowering, before);
    join_places({node}, result->node());
    node->output(0)->replaceAllUsesWith(result);
    return {form->becomes, ""};
  }

  Fate replace(Node* node, const OpRow& row, const IntegerForm& first,
               const std::vector<ActivationSlot>& slots) {
    const Chain chain = find_chain(node, row, first, /*through_pairs=*/false);
    Node* quantize = only_user(chain.end);
    if (quantize != nullptr && !is_quantize(quantize)) {
      const bool takes_factors = first.takes_factors && chain.add == nullptr;
      quantize = takes_factors ? smoothed_quantize(chain.end) : nullptr;
    }
    if (quantize == nullptr && !(first.gives_float && is_among_integers(chain.end, slots))) {
      return {"", why_not_quantized(chain.end)};
    }
    Node* before = quantize == nullptr ? chain.end->node()->next() : quantize;
    Lowering lowering = collect(chain, row, slots, quantize, before);
    const IntegerForm* form = choose_form(context_, lowering);
    if (form == nullptr) {
      return {"", why_no_form(context_, lowering)};
    }
    Node* clamp = form->takes_activation ? nullptr : chain.activation;
    lowering.relu = clamp != nullptr && clamp->kind() == c10::aten::relu && !form->relu_recipe.empty();
    const bool clamp_is_left = clamp != nullptr && !lowering.relu &&
                               !saturates_within(context_, quantize, *clamp_bounds(clamp, *find_row(clamp)));
    if (clamp_is_left && !runs(clamp)) {
      return {"", "the engine has no kernel for " + describe(clamp) + " that is right"};
    }
    for (const auto& slot : slots) {
      if (slot.node != node) {
        slot.set(take(slot.value(), slot.node));
      }
    }
    Value* result = build_form(*form, lowering, before);
    Node* computing = computing_op(result);
    const std::string becomes = computing->kind().toQualString();
    if (clamp != nullptr && !lowering.relu && !clamp_is_left) {
      computing->i_(c10::Symbol::fromQualString(kSaturates), 1);
    }
    if (clamp_is_left) {
      result = clamp_integers(clamp, result);
    }
    join_places({node, chain.add, chain.activation}, computing_op(result));
    for (const Node* absorbed : {chain.add, chain.activation}) {
      if (absorbed != nullptr) {
        absorbed_[absorbed] = absorbed == clamp && clamp_is_left ? clamp->kind().toQualString() : becomes;
      }
    }
    if (quantize == nullptr) {
      chain.end->replaceAllUsesWith(result);
    } else {
      quantize->output()->replaceAllUsesWith(
          give(result, quantize, lowering.names.at("$scale"), lowering.names.at("$zero_point")));
    }
    return {becomes, ""};
  }

  // The op that computes it, not the one that gives its integers a scale.
  static Node* computing_op(Value* result) {
    return is_op(result->node(), kMakeQuantized) ? result->node()->input(0)->node() : result->node();
  }

  // A tensor that holds the number exactly.
  static Value* quantized_number(double number, Node* before) {
    const double scale = number == 0 ? 1 : std::abs(number);
    return constant(before, at::quantize_per_tensor(at::scalar_tensor(number, at::kFloat), scale,
                                                    number < 0 ? 1 : 0, at::kQUInt8));
  }

  // In a range that holds 1, as ATen's kernel asks for.
  static Value* quantized_slopes(const at::Tensor& slopes, Node* before) {
    const double widest = std::max(1.0, slopes.abs().max().item<double>());
    return constant(before, at::quantize_per_tensor(slopes, widest / 127, 128, at::kQUInt8));
  }

  Lowering collect(const Chain& chain, const OpRow& row, const std::vector<ActivationSlot>& slots,
                   Node* quantize, Node* before) {
    Node* node = chain.op;
    Lowering lowering{.node = node, .names = {}};
    auto& names = lowering.names;
    const auto& arguments = node->schema().arguments();
    for (size_t i = 0; i < arguments.size(); ++i) {
      names[arguments[i].name()] = node->input(i);
    }
    Value* none = constant(before, c10::IValue());
    Value* zero = constant(before, 0);
    names["$scale"] = quantize == nullptr ? none : quantize->input(1);
    names["$zero_point"] = quantize == nullptr ? zero : quantize->input(2);
    add_activations(names, node, row, slots, before);
    if (row.weight()) {
      add_weight(names, node, row);
    }
    const Node* activation =
        activation_words(node) && find_form(target_, row)->is_activation ? node : chain.activation;
    names["$activation"] =
        constant(before, activation == nullptr ? std::string() : activation_words(activation).value_or(""));
    if (auto linear = linear_of(node)) {
      const bool is_factor = is_op(node, {"aten::mul", "aten::div"});
      names["$number"] = quantized_number(is_factor ? linear->first : linear->second, before);
    }
    if (auto slopes = is_op(node, "aten::prelu") ? context_.static_tensor(names["weight"]) : std::nullopt) {
      names["$slopes"] = quantized_slopes(*slopes, before);
    }
    names["$factors"] =
        quantize != nullptr && is_smoothed(quantize) ? quantize->input(0)->node()->input(1) : none;
    lowering.sum = chain.add != nullptr;
    names["$sum"] = constant(before, std::string(lowering.sum ? "copy" : ""));
    if (names.count("$other_scale") == 0) {
      names["$other_scale"] = none;
      names["$other_zero_point"] = zero;
    }
    if (lowering.sum && quantize == nullptr) {
      // A float result is added to a float one.
      names["$other"] = chain.other;
    } else if (lowering.sum) {
      add_params(names, "other", chain.other, before);
      names["$other"] = take(chain.other, before);
    }
    return lowering;
  }

  void add_activations(std::map<std::string, Value*>& names, Node* node, const OpRow& row,
                       const std::vector<ActivationSlot>& slots, Node* before) {
    const auto& arguments = node->schema().arguments();
    for (const auto& slot : slots) {
      if (slot.node == node) {
        const auto& name = arguments[slot.index].name();
        add_params(names, name, slot.value(), before);
        names[name] = take(slot.value(), before);
      }
    }
    if (slots.empty()) {
      return;
    }
    if (slots[0].node != node) {
      add_list_params(names, row.activations[0], slots, before);
    }
    if (is_dequantize(slots[0].value())) {
      if (auto input = qparams_of(integers_of(slots[0].value()))) {
        names["$input_scale"] = input->scale;
        names["$input_zero_point"] = input->zero_point;
      }
    } else {
      add_params(names, "input", slots[0].value(), before);
    }
  }

  // $<name>_scale and $<name>_zero_point; None and 0 where the value is float.
  void add_params(std::map<std::string, Value*>& names, const std::string& name, Value* value, Node* before) {
    const auto params = is_dequantize(value) ? qparams_of(integers_of(value)) : std::nullopt;
    if (params || !is_dequantize(value)) {
      names["$" + name + "_scale"] = params ? params->scale : constant(before, c10::IValue());
      names["$" + name + "_zero_point"] = params ? params->zero_point : constant(before, 0);
    }
  }

  void add_list_params(std::map<std::string, Value*>& names, const std::string& name,
                       const std::vector<ActivationSlot>& slots, Node* before) {
    std::vector<Value*> scales, zero_points;
    for (const auto& slot : slots) {
      const auto params = qparams_of(integers_of(slot.value()));
      if (!params) {
        return;
      }
      scales.push_back(params->scale);
      zero_points.push_back(params->zero_point);
    }
    auto list = [&](const c10::TypePtr& type, const std::vector<Value*>& values) {
      return before->owningGraph()->createList(type, values)->insertBefore(before)->output();
    };
    names["$" + name + "_scales"] = list(c10::FloatType::get(), scales);
    names["$" + name + "_zero_points"] = list(c10::IntType::get(), zero_points);
  }

  void add_weight(std::map<std::string, Value*>& names, Node* node, const OpRow& row) {
    if (!is_dequantize(node->namedInput(*row.weight()))) {
      return;  // in half precision
    }
    Value* weight = integers_of(node->namedInput(*row.weight()));
    names[*row.weight()] = weight;
    const bool by_row = row.output == Output::Float;
    auto values = context_.static_tensor(weight->node()->input(0));
    if (by_row && values) {
      const int64_t features = values->size(1);
      names["$features"] = constant(node, features);
      names["$row_shape"] = constant(node, c10::List<int64_t>({features}));
    }
    if (auto params = weight_params(context_, weight->node(), node, by_row)) {
      names["$weight_scales"] = params->scales;
      names["$weight_zero_points"] = params->zero_points;
    }
  }

  Value* clamp_integers(Node* clamp, Value* integers) {
    Node* copy = clamp->owningGraph()->createClone(clamp, [](Value* value) { return value; });
    copy->replaceInput(0, integers);
    copy->insertAfter(integers->node());
    return copy->output();
  }

  Context& context_;
  const Target& target_;
  const bool all_dynamic_;  // of a graph where each input gets its range at each call
  int64_t count_ = 0;
  std::unordered_map<const Node*, std::string> absorbed_;  // what became part of another op
  std::vector<OpReport> reports_;
};

}  // namespace

int64_t FuseQuantized(Context& context) {
  int64_t count = 0;
  const auto graphs = context.graphs();
  for (size_t i = 0; i < graphs.size(); ++i) {
    std::vector<Node*> nodes;  // what fusion makes is none of the user's ops
    for_each_node(graphs[i]->block(), [&](Node* node) {
      if (computes(context, node)) {
        nodes.push_back(node);
      }
    });
    Fuser fuser(context, nodes);
    for (Node* node : nodes) {
      fuser.visit(node);
    }
    count += fuser.count();
    context.reports[context.methods()[i]] = std::move(fuser).reports();
    eliminate_dead_code(graphs[i]);
  }
  return count;
}

JITQUANT_PASS(FuseQuantized, "fuse_quantized", "Dequantize, op and quantize become the target's integer op.");

}  // namespace jitquant
