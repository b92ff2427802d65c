// make_functional: in-place ops become their functional forms, where nobody else could see the change.
//
// Before: %y : Tensor = aten::relu_(%x)
// After:  %y : Tensor = aten::relu(%x)
//
// Before: %list : Tensor[] = prim::ListConstruct(%a)          After:
//         %1 : Tensor = aten::cat(%list, %dim)                  %1 : Tensor = aten::cat([%a], %dim)
//         %2 : Tensor[] = aten::append(%list, %b)
//         %3 : Tensor = aten::cat(%list, %dim)                  %3 : Tensor = aten::cat([%a, %b], %dim)
//
// Left alone: changes that the caller, a buffer or another view of the same memory would see.

#include <algorithm>
#include <optional>
#include <string>
#include <unordered_set>

#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/passes/remove_mutation.h>
#include <torch/csrc/jit/runtime/operator.h>

#include "csrc/graph_edit.h"
#include "csrc/pass.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

int64_t count_mutations(const std::shared_ptr<torch::jit::Graph>& graph) {
  int64_t count = 0;
  for_each_node(graph->block(), [&](torch::jit::Node* node) {
    const auto* schema = node->maybeSchema();
    count += schema != nullptr && schema->is_mutable();
  });
  return count;
}

using torch::jit::AliasDb;
using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;

bool may_share_memory(const AliasDb& aliases, at::ArrayRef<Value*> values, Value* value) {
  return std::any_of(values.begin(), values.end(),
                     [&](Value* other) { return aliases.mayContainAlias(other, value); });
}

// Whether the op gives fresh memory, as its schema says.
bool allocates(const Node* producer) {
  const auto* schema = producer->maybeSchema();
  return schema != nullptr && producer->kind().is_aten() &&
         std::all_of(schema->returns().begin(), schema->returns().end(),
                     [](const auto& result) { return result.alias_info() == nullptr; });
}

// Whether the value has memory of its own that nothing but the in-place op `writer` gives another name to.
bool is_private(const AliasDb& aliases, Value* value, Node* writer) {
  Node* producer = value->node();
  return producer->kind() != c10::prim::Param && producer->owningBlock() == writer->owningBlock() &&
         (allocates(producer) || !may_share_memory(aliases, producer->inputs(), value)) &&
         std::none_of(value->uses().begin(), value->uses().end(), [&](const auto& use) {
           return use.user != writer && may_share_memory(aliases, use.user->outputs(), value);
         });
}

// aten::relu of aten::relu_, if there is such an op.
std::optional<c10::Symbol> functional_variant(const Node* node) {
  const std::string name = node->kind().toQualString();
  if (name.back() != '_' || node->outputs().size() != 1 || node->inputs().empty()) {
    return std::nullopt;
  }
  const auto functional = c10::Symbol::fromQualString(name.substr(0, name.size() - 1));
  return torch::jit::getAllOperatorsFor(functional).empty() ? std::nullopt : std::optional(functional);
}

// What libtorch leaves, since it moves an op only next to where its operand was made: later uses are renamed
// instead.
int64_t rename_changed_values(const std::shared_ptr<Graph>& graph) {
  const AliasDb aliases(graph);
  std::unordered_set<Value*> unknown;  // to the analysis, which is done anew in the next round
  for_each_node(graph->block(), [&](Node* node) {
    const auto* schema = node->maybeSchema();
    if (schema == nullptr || !schema->is_mutable() || !functional_variant(node) ||
        unknown.count(node->input(0)) != 0 || !is_private(aliases, node->input(0), node)) {
      return;
    }
    Node* replacement = graph->create(*functional_variant(node), node->inputs())->insertAfter(node);
    replacement->copyMetadata(node);
    replacement->output()->setType(node->output()->type());
    node->output()->replaceAllUsesWith(replacement->output());
    node->input(0)->replaceAllUsesAfterNodeWith(replacement, replacement->output());
    node->destroy();
    unknown.insert(replacement->output());
  });
  return static_cast<int64_t>(unknown.size());
}

// In-place dropout writes nothing in evaluation mode.
void remove_dropout(torch::jit::Block* block) {
  for_each_node(block, [&](Node* node) {
    const bool is_dropout = is_op(node, {"aten::dropout_", "aten::feature_dropout_", "aten::alpha_dropout_",
                                         "aten::feature_alpha_dropout_"});
    if (is_dropout && constant_of(node->namedInput("train")) == c10::IValue(false)) {
      node->output()->replaceAllUsesWith(node->input(0));
      node->destroy();
    }
  });
}

// Where a list is used: by ops that append to it and by those that read it, in the order of the block.
// Nothing where it is used otherwise, or where something keeps it that a later append would change.
std::optional<std::vector<Node*>> users_of_growing_list(Node* list) {
  std::unordered_set<Node*> users;
  for (const auto& use : list->output()->uses()) {
    if (use.user->owningBlock() != list->owningBlock()) {
      return std::nullopt;
    }
    users.insert(use.user);
  }
  std::vector<Node*> ordered;
  bool kept = false;
  for (Node* node = list->next(); ordered.size() < users.size(); node = node->next()) {
    if (users.count(node) == 0) {
      continue;
    }
    ordered.push_back(node);
    const bool appends = node->kind() == c10::aten::append && node->input(0) == list->output();
    const auto* schema = node->maybeSchema();
    if (appends) {
      if (kept || !node->output()->uses().empty() || node->input(1) == list->output()) {
        return std::nullopt;
      }
      continue;
    }
    if (schema != nullptr && schema->is_mutable()) {
      return std::nullopt;
    }
    // An op with a schema only reads it, unless what it gives is the list again.
    kept = kept || schema == nullptr ||
           std::any_of(node->outputs().begin(), node->outputs().end(), [&](const Value* output) {
             return output->type()->kind() == c10::TypeKind::ListType && !schema->returns().empty() &&
                    schema->returns()[0].alias_info() != nullptr;
           });
  }
  return ordered;
}

// A list that grows becomes a list for each of its readers, with what it held at that point.
bool spell_out_growing_list(Node* list) {
  const auto& uses = list->output()->uses();
  const bool grows = std::any_of(uses.begin(), uses.end(),
                                 [](const auto& use) { return use.user->kind() == c10::aten::append; });
  auto users = grows ? users_of_growing_list(list) : std::nullopt;
  if (!users) {
    return false;
  }
  auto type = list->output()->type()->expect<c10::ListType>()->getElementType();
  std::vector<Value*> elements(list->inputs().begin(), list->inputs().end());
  for (Node* user : *users) {
    if (user->kind() == c10::aten::append) {
      elements.push_back(user->input(1));
      user->destroy();
      continue;
    }
    Node* held = list->owningGraph()->createList(type, elements)->insertBefore(user);
    held->copyMetadata(list);
    user->replaceInputWith(list->output(), held->output());
  }
  list->destroy();
  return true;
}

}  // namespace

int64_t MakeFunctional(Context& context) {
  int64_t count = 0;
  for (const auto& graph : context.graphs()) {
    const int64_t before = count_mutations(graph);
    remove_dropout(graph->block());
    std::vector<Node*> lists;
    for_each_node(graph->block(), [&](Node* node) {
      if (node->kind() == c10::prim::ListConstruct) {
        lists.push_back(node);
      }
    });
    for (Node* list : lists) {
      spell_out_growing_list(list);
    }
    torch::jit::RemoveListMutation(graph);
    torch::jit::RemoveTensorMutation(graph);
    while (count_mutations(graph) != 0 && rename_changed_values(graph) != 0) {
    }
    count += before - count_mutations(graph);
  }
  return count;
}

JITQUANT_PASS(MakeFunctional, "make_functional", "In-place ops become their functional forms.");

}  // namespace jitquant
