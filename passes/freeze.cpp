// freeze: attributes become constants, and what nothing reads any more is dropped; the methods and attributes
// that a user asked for stay.
//
// Before: %weight : Tensor = prim::GetAttr[name="weight"](%conv)
// After:  %weight : Tensor = prim::Constant[value=<Tensor>]()
//
// libtorch's freezing compares all reads of one module with each other, and looks each attribute up among
// all: thousands of packed weights that stay, and of scales that were folded. It is handed them in a way
// that spares it both.

#include <unordered_set>

#include <torch/csrc/jit/passes/freeze_module.h>

#include "csrc/pass.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;

int64_t count_reads(const Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(), [&](Node* node) { count += node->kind() == c10::prim::GetAttr; });
  }
  return count;
}

// What the methods, and what they fork, do with the module itself.
struct Access {
  explicit Access(const torch::jit::Module& module) {
    for (const auto& method : module.get_methods()) {
      visit(method.graph()->block(), module.type());
    }
  }

  void visit(Block* block, const c10::TypePtr& self) {
    for_each_node(block, [&](Node* node) {
      const bool accesses = node->kind() == c10::prim::GetAttr || node->kind() == c10::prim::SetAttr;
      if (accesses && node->input(0)->type() == self) {
        attributes.insert(node->s(c10::attr::name));
      }
      const bool forks = node->hasAttribute(c10::attr::Subgraph);
      calls = calls || forks || node->kind() == c10::prim::CallMethod;
      if (forks) {
        visit(node->g(c10::attr::Subgraph)->block(), self);
      }
    });
  }

  std::unordered_set<std::string> attributes;
  bool calls = false;
};

void remove_others(Context& context, std::unordered_set<std::string> kept) {
  for (const auto& name : context.options.preserved_attrs) {
    kept.insert(name.substr(0, name.find('.')));
  }
  std::vector<std::string> others;
  for (const auto& attribute : context.module.named_attributes(/*recurse=*/false)) {
    if (kept.count(attribute.name) == 0) {
      others.push_back(attribute.name);
    }
  }
  context.remove_attributes(others);
}

// Objects that stay attributes: a file cannot hold one as a constant.
bool is_object(const Value* value) {
  auto type = value->type()->cast<c10::ClassType>();
  return type && !type->is_module();
}

// Each read of an object gets an input of its own in the place of self, until they are joined again. Its type
// is a small one: alias analysis looks at all that an input may contain.
void part_reads(Graph& graph) {
  Value* self = graph.inputs()[0];
  for_each_node(graph.block(), [&](Node* node) {
    if (node->kind() == c10::prim::GetAttr && node->input() == self && is_object(node->output())) {
      node->replaceInput(0, graph.addInput()->setType(node->output()->type()));
    }
  });
}

void join_reads(Graph& graph, size_t inputs) {
  for (size_t last = graph.inputs().size(); last-- > inputs;) {
    graph.inputs()[last]->replaceAllUsesWith(graph.inputs()[0]);
    graph.eraseInput(last);
  }
}

}  // namespace

int64_t Freeze(Context& context) {
  const int64_t before = count_reads(context);
  const Access access(context.module);
  remove_others(context, access.attributes);
  std::vector<std::string> kept = context.options.preserved_attrs;
  for (const auto& attribute : context.module.named_attributes(/*recurse=*/false)) {
    if (attribute.value.isObject() && !attribute.value.isModule()) {
      kept.push_back(attribute.name);
    }
  }
  for (const auto& method : context.module.get_methods()) {
    if (method.name() != "forward") {
      kept.push_back(method.name());
    }
  }
  std::vector<size_t> inputs;
  for (const auto& graph : context.graphs()) {
    inputs.push_back(graph->inputs().size());
    if (!access.calls) {  // else a call might lack the inputs
      part_reads(*graph);
    }
  }
  torch::jit::freeze_module_inplace(&context.module, kept);
  for (size_t i = 0; i < inputs.size(); ++i) {
    join_reads(*context.graphs()[i], inputs[i]);
  }
  return before - count_reads(context);
}

JITQUANT_PASS(Freeze, "freeze", "Attributes become constants.");

}  // namespace jitquant
