#include "csrc/pass.h"

#include <algorithm>

#include <torch/csrc/jit/passes/inline_fork_wait.h>
#include <torch/csrc/jit/passes/inliner.h>

#include "csrc/error.h"
#include "csrc/graph_edit.h"
#include "csrc/module_path.h"
#include "csrc/observer_calls.h"
#include "csrc/target.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Module;
using torch::jit::Node;
using torch::jit::Value;

std::map<std::string, Pass>& registry() {
  static std::map<std::string, Pass> passes;
  return passes;
}

using Attribute = std::pair<const c10::ClassType*, std::string>;

std::optional<Attribute> attribute_read_by(const Value* value) {
  if (value->node()->kind() != c10::prim::GetAttr) {
    return std::nullopt;
  }
  auto owner = value->node()->input()->type()->cast<c10::ClassType>();
  return owner ? std::optional(Attribute(owner.get(), value->node()->s(c10::attr::name))) : std::nullopt;
}

// What a view was taken of; the value itself where it is no view. An observer gives what it was given.
const Value* viewed_by(const Value* value) {
  while (true) {
    const Node* node = value->node();
    if (called_observer(node)) {
      value = node->input(1);
      continue;
    }
    const auto* schema = node->maybeSchema();
    if (schema == nullptr || node->inputs().empty() || schema->returns().size() != 1 ||
        schema->returns()[0].alias_info() == nullptr) {
      return value;
    }
    value = node->input(0);
  }
}

// Attributes that a graph without calls assigns, or changes in place.
void collect_written(torch::jit::Block* block, std::set<Attribute>& written) {
  for_each_node(block, [&](Node* node) {
    if (node->kind() == c10::prim::SetAttr) {
      if (auto owner = node->input(0)->type()->cast<c10::ClassType>()) {
        written.emplace(owner.get(), node->s(c10::attr::name));
      }
      return;
    }
    const auto* schema = node->maybeSchema();
    if (schema == nullptr || !schema->is_mutable()) {
      return;
    }
    for (size_t i = 0; i < schema->arguments().size() && i < node->inputs().size(); ++i) {
      const auto* alias = schema->arguments()[i].alias_info();
      if (alias != nullptr && alias->isWrite()) {
        if (auto attribute = attribute_read_by(viewed_by(node->input(i)))) {
          written.insert(*attribute);
        }
      }
    }
  });
}

// Observers, of which a graph may have thousands, change nothing but themselves.
bool has_calls(torch::jit::Block* block) {
  bool found = false;
  for_each_node(block, [&](Node* node) {
    found = found || (node->kind() == c10::prim::CallMethod && !called_observer(node)) ||
            node->kind() == c10::prim::CallFunction || node->kind() == c10::prim::fork;
  });
  return found;
}

// The method's own graph, or a copy with its calls and forks inlined if it has any.
std::shared_ptr<torch::jit::Graph> graph_without_calls(const torch::jit::Method& method) {
  auto graph = method.graph();
  if (has_calls(graph->block())) {
    graph = graph->copy();
    torch::jit::Inline(*graph);
    torch::jit::InlineForkWait(graph);
    torch::jit::Inline(*graph);  // what the forks call
  }
  return graph;
}

}  // namespace

Context::Context(Module module, std::vector<std::string> methods, Options options)
    : module(std::move(module)),
      options(std::move(options)),
      target_(&find_target(this->options.target)),
      methods_(std::move(methods)) {
  for (const auto& method : this->module.get_methods()) {
    collect_written(graph_without_calls(method)->block(), written_);
  }
}

std::vector<std::shared_ptr<torch::jit::Graph>> Context::graphs() const {
  std::vector<std::shared_ptr<torch::jit::Graph>> graphs;
  for (const auto& name : methods_) {
    graphs.push_back(module.get_method(name).graph());
  }
  return graphs;
}

std::optional<c10::IValue> Context::static_value(const Value* value) const {
  if (auto known = constant_of(value)) {
    return known;
  }
  if (value->node()->kind() == c10::aten::t) {
    auto source = static_tensor(value->node()->input());
    return source ? std::optional<c10::IValue>(source->t()) : std::nullopt;
  }
  return read(value);
}

// What a prim::GetAttr gives, or a chain of them that starts at the method's self.
std::optional<c10::IValue> Context::read(const Value* attribute) const {
  auto read_by = attribute_read_by(attribute);
  if (!read_by || written_.count(*read_by) != 0) {
    return std::nullopt;
  }
  const Value* owner = attribute->node()->input();
  auto object = attribute_path(owner) == "" ? std::optional<c10::IValue>(module._ivalue()) : read(owner);
  if (!object || !object->isObject()) {
    return std::nullopt;
  }
  auto slot = find_slot(*object->toObjectRef().type(), read_by->second);
  return slot ? std::optional(object->toObjectRef().getSlot(*slot)) : std::nullopt;
}

std::optional<c10::IValue> Context::attribute(const std::string& name) const {
  auto slot = find_slot(*module.type(), name);
  return slot ? std::optional(module._ivalue()->getSlot(*slot)) : std::nullopt;
}

Context::Slots& Context::slots_of(const c10::ClassType& type) const {
  Slots& slots = slots_[&type];
  for (size_t slot = slots.size(); slot < type.numAttributes(); ++slot) {
    slots.emplace(type.getAttributes()[slot].getName(), slot);
  }
  return slots;
}

std::optional<size_t> Context::find_slot(const c10::ClassType& type, const std::string& name) const {
  const Slots& slots = slots_of(type);
  auto found = slots.find(name);
  return found == slots.end() ? std::nullopt : std::optional(found->second);
}

// Modules of one class share its slots, so that all have to change when one does.
const std::vector<Module>& Context::modules_of(const c10::ClassTypePtr& type) {
  if (modules_.empty()) {
    for (const Module& each : module.modules()) {
      modules_[each.type().get()].push_back(each);
    }
  }
  return modules_[type.get()];
}

std::optional<at::Tensor> Context::static_tensor(const Value* value) const {
  auto known = static_value(value);
  return known && known->isTensor() ? std::optional(known->toTensor()) : std::nullopt;
}

std::unordered_map<std::string, size_t> Context::attribute_uses() const {
  std::unordered_map<std::string, size_t> uses;
  for (const auto& method : module.get_methods()) {
    for_each_node(graph_without_calls(method)->block(), [&](Node* node) {
      if (node->kind() == c10::prim::GetAttr &&
          node->output()->type()->isSubtypeOf(*c10::TensorType::get())) {
        if (auto path = attribute_path(node->output())) {
          uses[*path] += node->output()->uses().size();
        }
      }
    });
  }
  return uses;
}

// Turns an attribute that was None for good into an optional tensor; it stays None in all modules of the
// class.
void Context::make_optional(const c10::ClassTypePtr& type, const std::string& name) {
  const auto& modules = modules_of(type);  // before the type differs from them
  const size_t old_slot = type->getAttributeSlot(name);
  const bool is_parameter = type->is_parameter(old_slot);
  type->unsafeRemoveAttribute(name);
  const size_t slot = type->addAttribute(name, c10::OptionalType::ofTensor(), is_parameter);
  slots_.erase(type.get());
  for (const Module& each : modules) {
    each._ivalue()->unsafeRemoveSlot(old_slot);
    each._ivalue()->setSlot(slot, c10::IValue());
  }
}

// Gives all modules of the class a tensor of that name, an empty one for now.
void Context::add_tensor(const c10::ClassTypePtr& type, const std::string& name) {
  const auto& modules = modules_of(type);
  const size_t slot = type->addAttribute(name, c10::TensorType::get());
  for (const Module& each : modules) {
    each._ivalue()->setSlot(slot, at::empty({0}));
  }
}

Value* Context::set_static(Node* node, Value* like, const std::string& name, const at::Tensor& data,
                           Value* replaced) {
  auto path = attribute_path(like);
  if (!path) {
    return constant(node, data);
  }
  auto [owner, like_name] = owner_of(module, *path);
  const std::string parent = path->substr(0, path->size() - like_name.size());
  std::string target = name;
  const bool overwrite = replaced != nullptr && attribute_path(replaced) == parent + name;
  for (size_t i = 0; !overwrite && owner.hasattr(target) && !owner.attr(target).isNone(); ++i) {
    target = name + "_" + std::to_string(i);
  }
  if (!owner.hasattr(target)) {
    add_tensor(owner.type(), target);
  } else if (owner.type()->getAttribute(target) == c10::NoneType::get()) {
    make_optional(owner.type(), target);
  }
  owner.setattr(target, data);
  torch::jit::WithInsertPoint guard(node);
  Value* read = node->owningGraph()->insertGetAttr(like->node()->input(), target);
  read->setType(c10::TensorType::get());
  read->node()->copyMetadata(node);
  return read;
}

Value* Context::new_attribute(Node* node, const std::string& prefix, const c10::IValue& value,
                              const c10::TypePtr& type) {
  std::string name;
  do {
    name = prefix + std::to_string(next_number_[prefix]++);
  } while (find_slot(*module.type(), name));
  module._ivalue()->setSlot(module.type()->addAttribute(name, type), value);
  auto* graph = node->owningGraph();
  Node* read = graph->create(c10::prim::GetAttr, {graph->inputs()[0]});
  read->s_(c10::attr::name, name);
  read->output()->setType(type);
  read->insertBefore(node);
  read->copyMetadata(node);
  return read->output();
}

Value* Context::new_submodule(Node* node, const std::string& prefix, const Module& submodule) {
  return new_attribute(node, prefix, submodule._ivalue(), submodule.type());
}

// From the last to the first: what lies behind one has to move.
void Context::remove_attributes(const std::vector<std::string>& names) {
  std::map<size_t, std::string, std::greater<>> by_slot;
  for (const auto& name : names) {
    by_slot.emplace(slots_of(*module.type()).at(name), name);
  }
  for (const auto& [slot, name] : by_slot) {
    module._ivalue()->unsafeRemoveSlot(slot);
    module.type()->unsafeRemoveAttribute(name);
  }
  slots_.erase(module.type().get());
}

const std::map<std::string, Pass>& all_passes() { return registry(); }

RegisterPass::RegisterPass(const char* name, const char* purpose, int64_t (*run)(Context&)) {
  registry()[name] = Pass{name, purpose, run};
}

int64_t run_pass(const std::string& name, Context& context) {
  auto found = registry().find(name);
  if (found == registry().end()) {
    std::string known;
    for (const auto& [known_name, pass] : registry()) {
      known += (known.empty() ? "" : ", ") + known_name;
    }
    fail("run_pass", "there is no pass '" + name + "'", "the passes are " + known);
  }
  return found->second.run(context);
}

}  // namespace jitquant
