#include "csrc/op_nodes.h"

#include <algorithm>
#include <unordered_map>

#include "csrc/error.h"
#include "csrc/graph_edit.h"
#include "csrc/module_path.h"
#include "csrc/op_table.h"
#include "csrc/pass.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

using Places = std::vector<size_t>;

// Finds out of each value, on one walk, which ops it comes from.
class Sources {
 public:
  Places of_inputs(const Node* node) const { return of(node->inputs()); }

  // Of a loop's or branch's own values: what goes in, as what goes round is known only later.
  void enter(const Node* node) {
    if (node->kind() == c10::prim::Loop) {
      const auto inner = node->blocks()[0]->inputs();
      for (size_t i = 1; i < inner.size(); ++i) {
        places_[inner[i]] = find(node->input(i + 1));
      }
    }
  }

  void leave(const Node* node) {
    for (size_t i = 0; i < node->outputs().size(); ++i) {
      std::vector<const Value*> given;
      if (node->kind() == c10::prim::If) {
        for (const auto* block : node->blocks()) {
          given.push_back(block->outputs()[i]);
        }
      } else if (node->kind() == c10::prim::Loop) {
        given = {node->input(i + 2), node->blocks()[0]->outputs()[i + 1]};  // it may go round not once
      } else if (only_passes_on(node)) {
        given.assign(node->inputs().begin(), node->inputs().end());
      }
      auto places = of(given);
      if (!places.empty()) {
        places_[node->output(i)] = std::move(places);
      }
    }
  }

  void set(const Node* node, size_t place) {
    for (const Value* output : node->outputs()) {
      places_[output] = {place};
    }
  }

 private:
  static bool only_passes_on(const Node* node) {
    return node->kind() == c10::prim::ListConstruct || node->kind() == c10::prim::ListUnpack ||
           node->kind() == c10::prim::TupleConstruct || node->kind() == c10::prim::TupleUnpack ||
           node->kind() == c10::prim::TupleIndex || is_op(node, "aten::__getitem__");
  }

  Places find(const Value* value) const {
    auto found = places_.find(value);
    return found == places_.end() ? Places() : found->second;
  }

  template <typename Values>
  Places of(const Values& values) const {
    Places all;
    for (const Value* value : values) {
      const Places places = find(value);
      all.insert(all.end(), places.begin(), places.end());
    }
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end()), all.end());
    return all;
  }

  std::unordered_map<const Value*, Places> places_;
};

class Lister {
 public:
  explicit Lister(const Context& context) : context_(context) {}

  void visit(torch::jit::Block* block) {
    for (Node* node : block->nodes()) {
      if (const OpRow* row = find_row(node)) {
        found_.push_back({node->kind().toQualString(), path_of(node), source_line(node),
                          sources_.of_inputs(node), weight_shape(node, *row)});
        sources_.set(node, found_.size() - 1);
        continue;
      }
      sources_.enter(node);
      for (torch::jit::Block* inner : node->blocks()) {
        visit(inner);
      }
      sources_.leave(node);
    }
  }

  std::vector<OpNode> found() && { return std::move(found_); }

 private:
  std::optional<std::vector<int64_t>> weight_shape(const Node* node, const OpRow& row) const {
    auto weight = row.weight() ? context_.static_tensor(node->namedInput(*row.weight())) : std::nullopt;
    return weight ? std::optional(weight->sizes().vec()) : std::nullopt;
  }

  const Context& context_;
  Sources sources_;
  std::vector<OpNode> found_;
};

}  // namespace

std::vector<Node*> nodes_with_rows(const std::shared_ptr<torch::jit::Graph>& graph) {
  std::vector<Node*> nodes;
  for_each_node(graph->block(), [&](Node* node) {
    if (find_row(node) != nullptr) {
      nodes.push_back(node);
    }
  });
  return nodes;
}

std::vector<OpNode> op_nodes(const Context& context, const std::shared_ptr<torch::jit::Graph>& graph) {
  Lister lister(context);
  lister.visit(graph->block());
  return std::move(lister).found();
}

}  // namespace jitquant
