#include "csrc/graph_edit.h"

#include <algorithm>
#include <cstring>

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include "csrc/walk.h"

namespace jitquant {

using torch::jit::Node;
using torch::jit::Value;

namespace {

bool is_written_to(const Value* value) {
  return std::any_of(value->uses().begin(), value->uses().end(), [](const auto& use) {
    const auto* schema = use.user->maybeSchema();
    const auto* alias = schema == nullptr || use.offset >= schema->arguments().size()
                            ? nullptr
                            : schema->arguments()[use.offset].alias_info();
    return alias != nullptr && alias->isWrite();
  });
}

// Where nothing branches or changes in place there is nothing to analyse, which takes longer than most
// passes.
bool is_straight(const std::shared_ptr<torch::jit::Graph>& graph) {
  const auto nodes = graph->nodes();
  return std::all_of(nodes.begin(), nodes.end(), [](const Node* node) {
    const auto* schema = node->maybeSchema();
    return node->blocks().empty() && !node->hasAttribute(c10::attr::Subgraph) &&
           (schema == nullptr || !schema->is_mutable());
  });
}

}  // namespace

Value* constant(Node* before, const c10::IValue& value) {
  torch::jit::WithInsertPoint guard(before);
  return before->owningGraph()->insertConstant(value);
}

std::optional<c10::IValue> constant_of(const Value* value) {
  if (auto direct = torch::jit::toIValue(value)) {
    return direct;
  }
  const Node* node = value->node();
  auto list_type = value->type()->cast<c10::ListType>();
  if (node->kind() != c10::prim::ListConstruct || !list_type || is_written_to(value)) {
    return std::nullopt;
  }
  c10::impl::GenericList list(list_type->getElementType());
  for (const Value* input : node->inputs()) {
    auto element = torch::jit::toIValue(input);
    if (!element) {
      return std::nullopt;
    }
    list.push_back(*element);
  }
  return c10::IValue(list);
}

bool is_op(const Node* node, const char* name) { return std::strcmp(node->kind().toQualString(), name) == 0; }

bool is_op(const Node* node, std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(), [&](const char* name) { return is_op(node, name); });
}

void set_input(Node* node, const char* name, Value* value) {
  node->replaceInput(*node->schema().argumentIndexWithName(name), value);
}

Value* insert_op(Node* before, const Node* origin, const std::string& op, const std::vector<Value*>& inputs) {
  torch::jit::WithInsertPoint guard(before);
  auto* graph = before->owningGraph();
  std::vector<torch::jit::NamedValue> arguments(inputs.begin(), inputs.end());
  Value* output = graph->insert(c10::Symbol::fromQualString(op), arguments);
  output->node()->copyMetadata(const_cast<Node*>(origin));
  return output;
}

Node* first_point_after(Value* value) {
  Node* node = value->node();
  return node->kind() == c10::prim::Param ? *node->owningBlock()->nodes().begin() : node->next();
}

Node* only_user(const Value* value) {
  if (value->uses().size() != 1) {
    return nullptr;
  }
  Node* user = value->uses()[0].user;
  return user->owningBlock() == value->node()->owningBlock() ? user : nullptr;
}

bool asks_for_shape(const Node* node) {
  static const std::vector<c10::Symbol> kinds{c10::aten::size, c10::aten::dim, c10::aten::numel,
                                              c10::aten::len};
  return std::find(kinds.begin(), kinds.end(), node->kind()) != kinds.end();
}

void eliminate_dead_code(const std::shared_ptr<torch::jit::Graph>& graph) {
  if (!is_straight(graph)) {
    torch::jit::EliminateDeadCode(graph);
    return;
  }
  for_each_node_from_the_end(graph->block(), [](Node* node) {
    // For libtorch an attribute that is set is no side effect.
    if (!node->hasUses() && !node->hasSideEffects() && node->kind() != c10::prim::SetAttr) {
      node->destroy();
    }
  });
}

}  // namespace jitquant
