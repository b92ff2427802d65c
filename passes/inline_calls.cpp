// inline_calls: puts the body of every called method and function in the place of the call, and gives each node the path
// of the module it came from as its scope.
//
// Before:
//   %conv : __torch__.Conv2d = prim::GetAttr[name="conv"](%self)
//   %y : Tensor = prim::CallMethod[name="forward"](%conv, %x)
// After:
//   %conv : __torch__.Conv2d = prim::GetAttr[name="conv"](%self)
//   %weight : Tensor = prim::GetAttr[name="weight"](%conv)
//   %y : Tensor = aten::conv2d(%x, %weight, ...), scope: conv
//
// Left alone: calls of observers, calls through a module interface, and functions that are not TorchScript.

#include <torch/csrc/jit/passes/inliner.h>

#include "csrc/module_path.h"
#include "csrc/observers.h"
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

void set_paths(Node* begin, Node* end, const std::string& path) {
  for (Node* node = begin; node != end; node = node->next()) {
    set_path(node, path);
    for (Block* block : node->blocks()) {
      for_each_node(block, [&](Node* inner) { set_path(inner, path); });
    }
  }
}

int64_t inline_block(Block* block) {
  int64_t count = 0;
  for (Node* node = *block->nodes().begin(); node != block->return_node();) {
    const bool is_call = node->kind() == c10::prim::CallMethod || node->kind() == c10::prim::CallFunction;
    torch::jit::GraphFunction* callee = is_call && !called_observer(node) ? torch::jit::tryToGraphFunction(node) : nullptr;
    if (callee == nullptr) {
      for (Block* inner : node->blocks()) {
        count += inline_block(inner);
      }
      node = node->next();
      continue;
    }
    const std::string path = path_of_callee(node);
    Node* before = node->prev();
    Node* after = node->next();
    if (node->kind() == c10::prim::CallFunction) {
      node->removeInput(0);
    }
    torch::jit::inlineCallTo(node, callee);
    set_paths(before->next(), after, path);
    node = before->next();
    ++count;
  }
  return count;
}

}  // namespace

int64_t InlineCalls(Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    count += inline_block(graph->block());
  }
  return count;
}

JITQUANT_PASS(InlineCalls, "inline_calls", "Inlines every call; each node keeps its module path and source line.");

}  // namespace jitquant
