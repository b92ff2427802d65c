// merge_linears: dynamic linears that take the same value become one, so that its range is looked for once
// and it is made integer once: query, key and value of attention.
//
// Before:
//   %kernel.1 = jitquant::linear_dynamic_prepack(%integers.1, %scales.1, %bias.1, "", "")
//   %q : Tensor = jitquant::linear_dynamic(%x, %kernel.1)
//   %kernel.2 = jitquant::linear_dynamic_prepack(%integers.2, %scales.2, %bias.2, "", "")
//   %k : Tensor = jitquant::linear_dynamic(%x, %kernel.2)
// After:
//   %integers : Tensor = aten::cat([%integers.1, %integers.2], 0)
//   %kernel = jitquant::linear_dynamic_prepack(%integers, %scales, %bias, "", "")
//   %y : Tensor = jitquant::linear_dynamic(%x, %kernel)
//   %q : Tensor, %k : Tensor = aten::split_with_sizes(%y, [rows of each], -1)
//
// The results are views now, side by side in memory. Left alone, therefore: graphs that ask for a view of a
// value (aten::view, which normalize_ops leaves only where something is changed in place), and values that
// are changed in place; also linears that do an activation function or a sum as well, and weights that are
// not known.

#include <map>

#include <ATen/ATen.h>

#include "csrc/graph_edit.h"
#include "csrc/pass.h"
#include "csrc/places.h"
#include "csrc/quantization_params.h"
#include "csrc/walk.h"
#include "csrc/writes.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;
using Values = std::vector<Value*>;

// What the prepack takes as the weight.
enum class Weight {
  Integers,   // and scales as its second input
  Quantized,  // with its scales
  Floats,
};

struct Kind {
  const char* op;
  const char* prepack;
  Weight weight;
};

constexpr Kind kKinds[]{
    {"jitquant::linear_dynamic", "jitquant::linear_dynamic_prepack", Weight::Integers},
    {"jitquant::linear_bfloat16", "jitquant::linear_bfloat16_prepack", Weight::Floats},
    {"quantized::linear_dynamic", "quantized::linear_prepack", Weight::Quantized},
};

const Kind* kind_of(const Node* node) {
  for (const Kind& kind : kKinds) {
    if (is_op(node, kind.op) && is_op(node->input(1)->node(), kind.prepack)) {
      return &kind;
    }
  }
  return nullptr;
}

struct Part {
  Node* op;
  Node* prepack;
  int64_t rows;
  at::Tensor scales;  // of each row; undefined where the weight is float
  at::Tensor bias;    // undefined where there is none
};

// The float weight behind what the prepack takes.
std::optional<at::Tensor> float_weight(const Context& context, const Value* value) {
  while (!context.static_tensor(value)) {
    const Node* node = value->node();
    if (!is_quantize(node) && !is_op(node, {kIntRepr, "aten::quantize_per_channel", "aten::to"})) {
      return std::nullopt;
    }
    value = node->input(0);
  }
  return context.static_tensor(value);
}

// Of symmetric weights, of each row; nothing where they are not known.
std::optional<at::Tensor> scales_of(const Context& context, const Node* prepack, Weight kind, int64_t rows) {
  if (kind == Weight::Integers) {
    auto scales = context.static_tensor(prepack->input(1));
    return scales ? std::optional(scales->to(at::kFloat).expand({rows})) : std::nullopt;
  }
  const Node* quantize = prepack->input(0)->node();
  auto scale = context.static_value(quantize->input(1));
  auto zero_point = context.static_value(quantize->input(2));
  if (!scale || !zero_point) {
    return std::nullopt;
  }
  const bool is_symmetric =
      zero_point->isTensor() ? !zero_point->toTensor().any().item<bool>() : zero_point->toInt() == 0;
  const at::Tensor scales =
      scale->isTensor() ? scale->toTensor() : at::scalar_tensor(scale->toDouble(), at::kDouble);
  return is_symmetric ? std::optional(scales.expand({rows})) : std::nullopt;
}

bool is_empty_word(const Value* value) {
  auto word = constant_of(value);
  return word && word->isString() && word->toStringRef().empty();
}

// Nothing where the linear cannot be part of another.
std::optional<Part> part_of(const Context& context, const Kind& kind, Node* op) {
  Node* prepack = op->input(1)->node();
  auto weight = float_weight(context, prepack->input(0));
  Value* bias = prepack->input(kind.weight == Weight::Integers ? 2 : 1);
  auto known_bias = context.static_tensor(bias);
  const size_t count = prepack->inputs().size();
  const bool is_plain = kind.weight == Weight::Quantized || (is_empty_word(prepack->input(count - 2)) &&
                                                             is_empty_word(prepack->input(count - 1)));
  if (!weight || !is_plain || (!known_bias && !bias->mustBeNone())) {
    return std::nullopt;
  }
  Part part{op, prepack, weight->size(0), {}, known_bias.value_or(at::Tensor())};
  if (kind.weight != Weight::Floats) {
    auto scales = scales_of(context, prepack, kind.weight, part.rows);
    if (!scales) {
      return std::nullopt;
    }
    part.scales = *scales;
  }
  return part;
}

// What a value follows from stands before a node; none of that does anything but compute.
void hoist(Value* value, Node* before) {
  Node* node = value->node();
  if (node->kind() == c10::prim::Param || node->isBefore(before)) {
    return;
  }
  for (Value* input : node->inputs()) {
    hoist(input, before);
  }
  node->moveBefore(before);
}

Value* joined(const Values& values, Node* before) {
  Node* list = before->owningGraph()->createList(c10::TensorType::get(), values)->insertBefore(before);
  return insert_op(before, before, "aten::cat", {list->output(), constant(before, 0)});
}

Value* joined_weight(const std::vector<Part>& parts, Weight kind, const at::Tensor& scales, Node* before) {
  Values weights;
  for (const Part& part : parts) {
    hoist(part.prepack->input(0), before);
    Value* weight = part.prepack->input(0);
    weights.push_back(kind == Weight::Quantized ? insert_op(before, before, kIntRepr, {weight}) : weight);
  }
  Value* all = joined(weights, before);
  if (kind != Weight::Quantized) {
    return all;
  }
  return insert_op(before, before, "aten::_make_per_channel_quantized_tensor",
                   {all, constant(before, scales), constant(before, at::zeros_like(scales, at::kLong)),
                    constant(before, 0)});
}

Value* joined_bias(const std::vector<Part>& parts, Node* before) {
  std::vector<at::Tensor> all;
  bool has_bias = false;
  for (const Part& part : parts) {
    has_bias = has_bias || part.bias.defined();
    all.push_back(part.bias.defined() ? part.bias.detach() : at::zeros({part.rows}));
  }
  return constant(before, has_bias ? c10::IValue(at::cat(all)) : c10::IValue());
}

void merge(const Kind& kind, const std::vector<Part>& parts) {
  Node* first = parts[0].op;
  std::vector<int64_t> sizes;
  std::vector<at::Tensor> all_scales;
  for (const Part& part : parts) {
    sizes.push_back(part.rows);
    if (part.scales.defined()) {
      all_scales.push_back(part.scales);
    }
  }
  const at::Tensor scales = all_scales.empty() ? at::Tensor() : at::cat(all_scales);
  Values inputs{joined_weight(parts, kind.weight, scales, first)};
  if (kind.weight == Weight::Integers) {
    inputs.push_back(constant(first, scales));
  }
  inputs.push_back(joined_bias(parts, first));
  while (inputs.size() < parts[0].prepack->inputs().size()) {
    inputs.push_back(constant(first, std::string()));  // no activation function, and no sum
  }
  Values arguments(first->inputs().begin(), first->inputs().end());
  arguments[1] = insert_op(first, first, kind.prepack, inputs);
  Value* all = insert_op(first, first, kind.op, arguments);
  Value* list =
      insert_op(first, first, "aten::split_with_sizes", {all, constant(first, sizes), constant(first, -1)});
  Node* unpack = first->owningGraph()->createListUnpack(list, parts.size())->insertBefore(first);
  unpack->copyMetadata(first);
  std::vector<const Node*> ops;
  for (size_t i = 0; i < parts.size(); ++i) {
    ops.push_back(parts[i].op);
    parts[i].op->output()->replaceAllUsesWith(unpack->output(i));
  }
  part_places(ops, list->node());
}

// Linears with the same inputs but for their kernels, in the order in which the first of each stand.
class Groups {
 public:
  explicit Groups(const Context& context) : context_(context) {}

  void add(Node* node, const Writes& writes) {
    const Kind* kind = kind_of(node);
    if (kind == nullptr || writes.touch_any_of(node)) {
      return;
    }
    auto part = part_of(context_, *kind, node);
    if (!part) {
      return;
    }
    auto& place = places_[{kind, node->owningBlock(), node->input(0), reduces_range(node)}];
    if (place == 0) {
      groups_.emplace_back(kind, std::vector<Part>());
      place = groups_.size();
    }
    groups_[place - 1].second.push_back(std::move(*part));
  }

  int64_t merge_all() const {
    int64_t count = 0;
    for (const auto& [kind, parts] : groups_) {
      if (parts.size() > 1) {
        merge(*kind, parts);
        ++count;
      }
    }
    return count;
  }

 private:
  static bool reduces_range(const Node* node) {
    auto reduces = node->inputs().size() > 2 ? constant_of(node->input(2)) : std::nullopt;
    return reduces && reduces->isBool() && reduces->toBool();
  }

  using Key = std::tuple<const Kind*, const torch::jit::Block*, const Value*, bool>;

  const Context& context_;
  std::map<Key, size_t> places_;  // one more than the group's
  std::vector<std::pair<const Kind*, std::vector<Part>>> groups_;
};

bool asks_for_views(torch::jit::Block* block) {
  bool found = false;
  for_each_node(block, [&](const Node* node) {
    found = found || is_op(node, {"aten::view", "aten::view_as", "aten::as_strided"});
  });
  return found;
}

}  // namespace

int64_t MergeLinears(Context& context) {
  int64_t count = 0;
  at::NoGradGuard no_grad;
  for (const auto& graph : context.graphs()) {
    if (asks_for_views(graph->block())) {
      continue;
    }
    const Writes writes(context, graph);
    Groups groups(context);
    for_each_node(graph->block(), [&](Node* node) { groups.add(node, writes); });
    count += groups.merge_all();
    eliminate_dead_code(graph);
  }
  return count;
}

JITQUANT_PASS(MergeLinears, "merge_linears", "Dynamic linears that take the same value become one.");

}  // namespace jitquant
