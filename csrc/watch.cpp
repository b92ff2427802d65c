#include "csrc/watch.h"

#include <algorithm>
#include <unordered_map>

#include <torch/csrc/jit/runtime/custom_operator.h>

#include "csrc/error.h"
#include "csrc/graph_edit.h"
#include "csrc/module_path.h"
#include "csrc/op_table.h"
#include "csrc/pass.h"
#include "csrc/places.h"
#include "csrc/quantization_params.h"
#include "csrc/report.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Stack;
using torch::jit::Value;

// Never destroyed: what it calls may belong to an interpreter that is gone before static objects are.
Watcher& watcher() {
  static auto* const current = new Watcher;
  return *current;
}

void watch(Stack& stack) {
  const int64_t id = torch::jit::pop(stack).toInt();
  const at::Tensor value = torch::jit::pop(stack).toTensor();
  if (watcher().see && value.defined()) {
    watcher().see(id, value);
  }
}

void substitute(Stack& stack) {
  const int64_t id = torch::jit::pop(stack).toInt();
  at::Tensor value = torch::jit::pop(stack).toTensor();
  auto other = watcher().substitute ? watcher().substitute(id, value) : std::nullopt;
  torch::jit::push(stack, other ? std::move(*other) : std::move(value));
}

// Conservative: the compiler has to leave them where they are.
const torch::jit::RegisterOperators registration({
    torch::jit::Operator("jitquant::watch(Tensor value, int id) -> ()", watch,
                         c10::AliasAnalysisKind::CONSERVATIVE),
    torch::jit::Operator("jitquant::substitute(Tensor value, int id) -> Tensor", substitute,
                         c10::AliasAnalysisKind::CONSERVATIVE),
});

bool is_tensor(const Value* value) { return value->type()->kind() == c10::TypeKind::TensorType; }

bool is_tensor_list(const Value* value) {
  auto list = value->type()->cast<c10::ListType>();
  return list && list->getElementType()->kind() == c10::TypeKind::TensorType;
}

bool makes_tensors(const Node* node) {
  return node->maybeSchema() != nullptr && !node->kind().is_prim() &&
         std::any_of(node->outputs().begin(), node->outputs().end(),
                     [](const Value* value) { return is_tensor(value) || is_tensor_list(value); });
}

std::vector<Node*> all_that_make_tensors(const std::shared_ptr<Graph>& graph) {
  std::vector<Node*> nodes;
  for_each_node(graph->block(), [&](Node* node) {
    if (makes_tensors(node)) {
      nodes.push_back(node);
    }
  });
  return nodes;
}

std::vector<TensorSlot> input_slots(const Context& context, Node* node) {
  std::vector<TensorSlot> slots;
  const auto add = [&](Node* taker, size_t index) {
    const Value* value = taker->input(index);
    if (is_tensor(value) && !context.static_tensor(value)) {
      slots.push_back({taker, index});
    }
  };
  for (size_t i = 0; i < node->inputs().size(); ++i) {
    Node* source = node->input(i)->node();
    if (is_tensor_list(node->input(i)) && source->kind() == c10::prim::ListConstruct) {
      for (size_t k = 0; k < source->inputs().size(); ++k) {
        add(source, k);
      }
    } else {
      add(node, i);
    }
  }
  return slots;
}

// The tensors that a node gives, its list of them taken apart.
std::vector<Value*> given_tensors(Node* node) {
  std::vector<Value*> tensors;
  for (Value* output : node->outputs()) {
    if (is_tensor(output)) {
      tensors.push_back(output);
    } else if (is_tensor_list(output)) {
      const auto& uses = output->uses();
      auto unpack = std::find_if(uses.begin(), uses.end(),
                                 [](const auto& use) { return use.user->kind() == c10::prim::ListUnpack; });
      if (unpack != uses.end()) {
        const auto parts = unpack->user->outputs();
        tensors.insert(tensors.end(), parts.begin(), parts.end());
      }
    }
  }
  return tensors;
}

std::string kernel_of(const Context& context, const Node* node) {
  for (const auto* input : node->inputs()) {
    auto type = input->type()->cast<c10::ClassType>();
    if (type != nullptr && type->findMethod("spec") != nullptr) {
      auto object = context.static_value(input);
      return object ? type->getMethod("spec")({*object}).toStringRef() : "";
    }
  }
  return "";
}

std::vector<std::string> attributes_of(const Node* node) {
  std::vector<std::string> paths;
  for (const Value* input : node->inputs()) {
    auto path = attribute_path(input);
    if (path && !path->empty()) {
      paths.push_back(*path);
    }
  }
  return paths;
}

std::optional<std::pair<double, int64_t>> params_of_integers(const Node* node) {
  const auto& schema = node->schema();
  const bool quantizes = is_quantize(node);
  const bool rounds =
      schema.argumentIndexWithName("output_scale") && schema.argumentIndexWithName("output_dtype");
  if (!quantizes && !rounds) {
    return std::nullopt;
  }
  auto scale = constant_of(node->namedInput(quantizes ? "scale" : "output_scale"));
  auto zero_point = constant_of(node->namedInput(quantizes ? "zero_point" : "output_zero_point"));
  if (!scale || !scale->isDouble() || !zero_point || !zero_point->isInt()) {
    return std::nullopt;
  }
  return std::pair(scale->toDouble(), zero_point->toInt());
}

std::unordered_map<const Node*, int64_t> numbered(const std::vector<Node*>& nodes) {
  std::unordered_map<const Node*, int64_t> numbers;
  for (size_t i = 0; i < nodes.size(); ++i) {
    numbers[nodes[i]] = static_cast<int64_t>(i);
  }
  return numbers;
}

int64_t producer_of(const std::unordered_map<const Node*, int64_t>& numbers, const Value* value) {
  const Node* node = value->node();
  if (node->kind() == c10::prim::ListUnpack) {
    node = node->input()->node();
  }
  auto known = numbers.find(node);
  return known == numbers.end() ? -1 : known->second;
}

template <typename T>
const T& at_slot(const std::vector<T>& slots, const WatchPoint& point) {
  if (point.slot < 0 || static_cast<size_t>(point.slot) >= slots.size()) {
    fail("watch", "node " + std::to_string(point.node) + " has no tensor " + std::to_string(point.slot),
         "watch what tensor_nodes lists");
  }
  return slots[static_cast<size_t>(point.slot)];
}

Node* make_watch(Graph& graph, const char* op, Value* value, Value* id, size_t outputs) {
  return graph.create(c10::Symbol::fromQualString(op), {value, id}, outputs);
}

}  // namespace

void set_watcher(Watcher next) { watcher() = std::move(next); }

std::vector<TensorNode> tensor_nodes(const Context& context, const std::shared_ptr<Graph>& graph) {
  const auto nodes = all_that_make_tensors(graph);
  const auto numbers = numbered(nodes);
  std::vector<TensorNode> described;
  for (Node* node : nodes) {
    TensorNode row{node->kind().toQualString(),
                   path_of(node),
                   source_line(node),
                   kernel_of(context, node),
                   attributes_of(node),
                   params_of_integers(node),
                   {},
                   static_cast<int64_t>(given_tensors(node).size())};
    for (const auto& slot : input_slots(context, node)) {
      row.producers.push_back(producer_of(numbers, slot.value()));
    }
    described.push_back(std::move(row));
  }
  return described;
}

std::vector<int64_t> computing_places(const Context& context, const std::shared_ptr<Graph>& graph) {
  std::vector<int64_t> places;
  const auto nodes = all_that_make_tensors(graph);
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (computes(context, nodes[i])) {
      places.push_back(static_cast<int64_t>(i));
    }
  }
  return places;
}

std::map<int64_t, FinalPlace> take_places(const std::shared_ptr<Graph>& graph) {
  std::map<int64_t, FinalPlace> places;
  const auto nodes = all_that_make_tensors(graph);
  for (size_t i = 0; i < nodes.size(); ++i) {
    for (const Place& place : places_of(nodes[i])) {
      places[place.report] = {static_cast<int64_t>(i), place.output};
    }
    remove_places(nodes[i]);
  }
  return places;
}

void insert_watch_points(const Context& context, const std::shared_ptr<Graph>& graph,
                         const WatchPoints& points) {
  const auto nodes = all_that_make_tensors(graph);
  const auto node_of = [&](const WatchPoint& point) { return nodes.at(static_cast<size_t>(point.node)); };
  // Inputs are looked up before any of them is replaced.
  std::vector<std::pair<TensorSlot, int64_t>> inputs, substitutes;
  for (const auto& point : points.inputs) {
    inputs.emplace_back(at_slot(input_slots(context, node_of(point)), point), point.id);
  }
  for (const auto& point : points.substitutes) {
    substitutes.emplace_back(at_slot(input_slots(context, node_of(point)), point), point.id);
  }
  for (const auto& point : points.outputs) {
    Value* value = at_slot(given_tensors(node_of(point)), point);
    Node* next = first_point_after(value);
    make_watch(*graph, "jitquant::watch", value, constant(next, point.id), 0)->insertBefore(next);
  }
  for (const auto& [slot, id] : inputs) {
    Value* number = constant(slot.node, id);
    make_watch(*graph, "jitquant::watch", slot.value(), number, 0)->insertBefore(slot.node);
  }
  for (const auto& [slot, id] : substitutes) {
    Value* number = constant(slot.node, id);
    Node* other = make_watch(*graph, "jitquant::substitute", slot.value(), number, 1);
    other->insertBefore(slot.node);
    slot.set(other->output());
  }
}

}  // namespace jitquant
