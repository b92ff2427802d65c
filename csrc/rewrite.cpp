#include "csrc/rewrite.h"

#include <unordered_set>

#include <torch/csrc/jit/ir/irparser.h>
#include <torch/csrc/jit/ir/subgraph_matcher.h>

#include "csrc/graph_edit.h"

namespace jitquant {

namespace {

using torch::jit::Graph;
using torch::jit::Match;
using torch::jit::Node;
using torch::jit::Value;
using Names = std::unordered_map<std::string, Value*>;

MatchedValues name_values(const Match& match, const Names& names) {
  MatchedValues values;
  for (const auto& [name, pattern_value] : names) {
    auto found = match.values_map.find(pattern_value);
    if (found != match.values_map.end()) {
      values[name] = found->second;
    }
  }
  return values;
}

bool constants_hold(const RewriteRule& rule, const MatchedValues& values) {
  for (const auto& [name, expected] : rule.where) {
    auto given = constant_of(values.at(name));
    if (!given) {
      return false;
    }
    const bool equal = given->isScalar() && expected.isScalar()
                           ? given->toScalar().toDouble() == expected.toScalar().toDouble()
                           : *given == expected;
    if (!equal) {
      return false;
    }
  }
  return true;
}

// Puts the replacement before the anchor and gives its output.
Value* insert_replacement(Graph& replacement, Node* anchor, const std::vector<Value*>& inputs) {
  Node* before = anchor->prev();
  torch::jit::WithInsertPoint guard(anchor);
  Value* output = torch::jit::insertGraph(*anchor->owningGraph(), replacement, inputs).at(0);
  for (Node* node = before->next(); node != anchor; node = node->next()) {
    node->copyMetadata(anchor);
  }
  return output;
}

// The nodes of a match that nothing uses any more, users first.
void destroy_unused(const Graph& pattern, const Match& match, std::unordered_set<Node*>& destroyed) {
  std::vector<Node*> nodes;
  for (const Node* pattern_node : pattern.nodes()) {
    auto found = match.nodes_map.find(pattern_node);
    if (found != match.nodes_map.end()) {
      nodes.push_back(found->second);
    }
  }
  for (auto it = nodes.rbegin(); it != nodes.rend(); ++it) {
    if (!(*it)->hasUses()) {
      destroyed.insert(*it);
      (*it)->destroy();
    }
  }
}

int64_t apply_rule(const Context& context, const std::shared_ptr<Graph>& graph, const RewriteRule& rule) {
  Graph pattern;
  Names names;
  torch::jit::parseIR(rule.pattern, &pattern, names);
  Graph replacement;
  torch::jit::parseIR(rule.replacement, &replacement);

  int64_t count = 0;
  std::unordered_set<Node*> destroyed;
  for (const Match& match : torch::jit::findPatternMatches(pattern, *graph)) {
    const bool overlaps = std::any_of(match.nodes_map.begin(), match.nodes_map.end(),
                                      [&](const auto& pair) { return destroyed.count(pair.second) != 0; });
    if (overlaps) {
      continue;
    }
    const MatchedValues values = name_values(match, names);
    if (!constants_hold(rule, values) || (rule.condition != nullptr && !rule.condition(context, values))) {
      continue;
    }
    std::vector<Value*> inputs;
    for (const Value* input : pattern.inputs()) {
      inputs.push_back(match.values_map.at(input));
    }
    Value* old = match.values_map.at(pattern.outputs()[0]);
    Value* output = insert_replacement(replacement, old->node(), inputs);
    old->replaceAllUsesWith(output);
    destroy_unused(pattern, match, destroyed);
    ++count;
  }
  return count;
}

}  // namespace

int64_t apply_rules(const Context& context, const std::shared_ptr<Graph>& graph,
                    const std::vector<RewriteRule>& rules) {
  int64_t count = 0;
  for (const RewriteRule& rule : rules) {
    count += apply_rule(context, graph, rule);
  }
  return count;
}

}  // namespace jitquant
