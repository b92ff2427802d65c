// inline_calls: puts the body of every called method and function in the place of the call, and gives each
// node the path of the module it came from as its scope.
//
// Before:
//   %conv : __torch__.Conv2d = prim::GetAttr[name="conv"](%self)
//   %y : Tensor = prim::CallMethod[name="forward"](%conv, %x)
// After:
//   %conv : __torch__.Conv2d = prim::GetAttr[name="conv"](%self)
//   %weight : Tensor = prim::GetAttr[name="weight"](%conv)
//   %y : Tensor = aten::conv2d(%x, %weight, ...), scope: conv
//
// A method of the top module that only the inlined ones called is dropped: else freezing would keep it, and
// its float weights with it. One that is named in preserved_attrs stays. Left alone: calls of observers,
// calls through a module interface, and functions that are not TorchScript.

#include <set>
#include <string>

#include <torch/csrc/jit/passes/inliner.h>

#include "csrc/module_path.h"
#include "csrc/observer_calls.h"
#include "csrc/pass.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Block;
using torch::jit::Node;

std::string path_of_callee(const Node* call) {
  if (call->kind() == c10::prim::CallMethod) {
    if (auto path = attribute_path(call->input(0))) {
      return *path;
    }
  }
  return path_of(call);
}

using CallStack = std::vector<torch::jit::InlinedCallStackEntry>;

CallStack call_stack_of(const Node* node) {
  return node->callstack() ? (*node->callstack())->vec() : CallStack();
}

// inlineCallTo notes the call it takes away; the calls that one was reached by are put around it.
void add_outer_calls(Node* node, const CallStack& outer) {
  if (!node->callstack()) {
    return;
  }
  auto stack = *node->callstack();
  for (auto it = outer.rbegin(); it != outer.rend(); ++it) {
    auto [function, line, instance] = *it;
    stack = c10::make_intrusive<torch::jit::InlinedCallStack>(stack, function, line, instance);
  }
  node->setCallStack(stack);
}

void set_origin(Node* begin, Node* end, const std::string& path, const CallStack& outer) {
  auto set = [&](Node* node) {
    set_path(node, path);
    add_outer_calls(node, outer);
  };
  for (Node* node = begin; node != end; node = node->next()) {
    set(node);
    for (Block* block : node->blocks()) {
      for_each_node(block, set);
    }
  }
}

using Names = std::set<std::string>;

bool is_call_on_self(const Node* node) {
  return node->kind() == c10::prim::CallMethod && attribute_path(node->input(0)) == "";
}

int64_t inline_block(Block* block, Names& own_methods) {
  int64_t count = 0;
  for (Node* node = *block->nodes().begin(); node != block->return_node();) {
    const bool is_call = node->kind() == c10::prim::CallMethod || node->kind() == c10::prim::CallFunction;
    torch::jit::GraphFunction* callee =
        is_call && !called_observer(node) ? torch::jit::tryToGraphFunction(node) : nullptr;
    if (callee == nullptr) {
      for (Block* inner : node->blocks()) {
        count += inline_block(inner, own_methods);
      }
      node = node->next();
      continue;
    }
    const std::string path = path_of_callee(node);
    if (is_call_on_self(node)) {
      own_methods.insert(node->s(c10::attr::name));
    }
    const CallStack outer = call_stack_of(node);
    Node* before = node->prev();
    Node* after = node->next();
    if (node->kind() == c10::prim::CallFunction) {
      node->removeInput(0);
    }
    torch::jit::inlineCallTo(node, callee, callee->graph().get());
    set_origin(before->next(), after, path, outer);
    node = before->next();
    ++count;
  }
  return count;
}

// The methods of the module's own class that a block calls, those in forked graphs too.
void collect_own_calls(Block* block, const c10::TypePtr& own, Names& called) {
  for_each_node(block, [&](Node* node) {
    if (node->kind() == c10::prim::CallMethod && node->input(0)->type() == own) {
      called.insert(node->s(c10::attr::name));
    }
    if (node->hasAttribute(c10::attr::Subgraph)) {
      collect_own_calls(node->g(c10::attr::Subgraph)->block(), own, called);
    }
  });
}

void drop_unused(Context& context, const Names& candidates) {
  const auto type = context.module.type();
  std::vector<std::string> kept(context.options.preserved_attrs.begin(),
                                context.options.preserved_attrs.end());
  kept.insert(kept.end(), context.methods().begin(), context.methods().end());
  for (const auto& method : context.module.get_methods()) {
    if (candidates.count(method.name()) == 0) {
      kept.push_back(method.name());
    }
  }
  Names reached;
  while (!kept.empty()) {
    const std::string name = kept.back();
    kept.pop_back();
    if (!reached.insert(name).second || type->findMethod(name) == nullptr) {
      continue;
    }
    Names called;
    collect_own_calls(context.module.get_method(name).graph()->block(), type, called);
    kept.insert(kept.end(), called.begin(), called.end());
  }
  for (const auto& name : candidates) {
    if (reached.count(name) == 0) {
      type->unsafeRemoveMethod(name);
    }
  }
}

}  // namespace

int64_t InlineCalls(Context& context) {
  int64_t count = 0;
  Names own_methods;
  for (const auto& graph : context.graphs()) {
    count += inline_block(graph->block(), own_methods);
  }
  drop_unused(context, own_methods);
  return count;
}

JITQUANT_PASS(InlineCalls, "inline_calls",
              "Inlines every call; each node keeps its module path and source line.");

}  // namespace jitquant
