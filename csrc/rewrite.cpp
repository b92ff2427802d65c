#include "csrc/rewrite.h"

#include <algorithm>
#include <unordered_set>

#include <torch/csrc/jit/ir/irparser.h>
#include <torch/csrc/jit/ir/subgraph_matcher.h>

#include "csrc/graph_edit.h"
#include "csrc/writes.h"

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

// The nodes of a match, users first.
std::vector<Node*> matched_nodes(const Graph& pattern, const Match& match) {
  std::vector<Node*> nodes;
  for (const Node* pattern_node : pattern.nodes().reverse()) {
    auto found = match.nodes_map.find(pattern_node);
    if (found != match.nodes_map.end()) {
      nodes.push_back(found->second);
    }
  }
  return nodes;
}

int64_t apply_rule(const Context& context, const Writes& writes, const std::shared_ptr<Graph>& graph,
                   const RewriteRule& rule) {
  Graph pattern;
  Names names;
  torch::jit::parseIR(rule.pattern, &pattern, names);
  Graph replacement;
  torch::jit::parseIR(rule.replacement, &replacement);

  // All matches are found before the first is rewritten: a value may by then have been replaced, and its
  // node, though dead, has to stay until the end for the comparison.
  std::vector<Node*> dead;
  std::unordered_set<Node*> rewritten;
  std::unordered_map<Value*, Value*> replaced;
  for (Match& match : torch::jit::findPatternMatches(pattern, *graph)) {
    const auto nodes = matched_nodes(pattern, match);
    if (std::any_of(nodes.begin(), nodes.end(),
                    [&](Node* node) { return rewritten.count(node) != 0 || writes.touch_any_of(node); })) {
      continue;
    }
    for (auto& [pattern_value, value] : match.values_map) {
      auto newer = replaced.find(value);
      value = newer == replaced.end() ? value : newer->second;
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
    replaced[old] = output;
    rewritten.insert(nodes.begin(), nodes.end());
    dead.insert(dead.end(), nodes.begin(), nodes.end());
  }
  for (Node* node : dead) {
    if (!node->hasUses()) {
      node->destroy();
    }
  }
  return static_cast<int64_t>(replaced.size());
}

}  // namespace

int64_t apply_rules(const Context& context, const std::shared_ptr<Graph>& graph,
                    const std::vector<RewriteRule>& rules) {
  int64_t count = 0;
  const Writes writes(context, graph);
  for (const RewriteRule& rule : rules) {
    count += apply_rule(context, writes, graph, rule);
  }
  return count;
}

}  // namespace jitquant
