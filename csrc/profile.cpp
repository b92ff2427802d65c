#include "csrc/profile.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <optional>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/runtime/custom_operator.h>

#include "csrc/error.h"
#include "csrc/graph_edit.h"
#include "csrc/module_path.h"
#include "csrc/pass.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Graph;
using torch::jit::GraphFunction;
using torch::jit::Node;
using torch::jit::Stack;
using Nanoseconds = int64_t;
using Samples = std::vector<double>;

// TorchScript specializes a graph in its first runs, and kernels make their plans.
constexpr int kWarmUps = 4;

Nanoseconds now() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// What the clocks around one op saw in one run.
struct Clock {
  Nanoseconds begin = 0;
  Nanoseconds total = 0;
  int64_t calls = 0;
};

// Clocks are global: the interpreter may go on in another thread where a graph waits for what it forked.
std::mutex one_profile_at_a_time;
std::vector<Clock> clocks;

size_t pop_index(Stack& stack) { return static_cast<size_t>(torch::jit::pop(stack).toInt()); }

void start_clock(Stack& stack) {
  Clock& clock = clocks[pop_index(stack)];
  clock.begin = now();
}

void stop_clock(Stack& stack) {
  const Nanoseconds end = now();
  Clock& clock = clocks[pop_index(stack)];
  clock.total += end - clock.begin;
  ++clock.calls;
}

// Conservative: the compiler has to leave them where they are. The index is an input, since the interpreter
// keeps one operation for all nodes of a kind.
const torch::jit::RegisterOperators registration({
    torch::jit::Operator("jitquant::start_clock(int index) -> ()", start_clock,
                         c10::AliasAnalysisKind::CONSERVATIVE),
    torch::jit::Operator("jitquant::stop_clock(int index) -> ()", stop_clock,
                         c10::AliasAnalysisKind::CONSERVATIVE),
});

Node* make_clock_op(Graph& graph, const char* name, torch::jit::Value* index) {
  return graph.create(c10::Symbol::fromQualString(name), {index}, /*num_outputs=*/0);
}

bool holds_tensor(const c10::TypePtr& type) {
  const auto inner = type->containedTypes();
  return type->kind() == c10::TypeKind::TensorType || std::any_of(inner.begin(), inner.end(), holds_tensor);
}

// Calls, and ops that make or change tensors. What asks for a shape or builds a list counts as time between.
bool is_timed(const Node* node) {
  static const std::vector<c10::Symbol> calls = {c10::prim::CallMethod, c10::prim::CallFunction,
                                                 c10::prim::PythonOp, c10::prim::fork, c10::aten::wait};
  if (std::find(calls.begin(), calls.end(), node->kind()) != calls.end()) {
    return true;
  }
  const auto* schema = node->maybeSchema();
  if (schema == nullptr || node->kind().is_prim()) {
    return false;
  }
  const auto& returns = schema->returns();
  const auto& arguments = schema->arguments();
  return std::any_of(returns.begin(), returns.end(),
                     [](const c10::Argument& value) { return holds_tensor(value.type()); }) ||
         std::any_of(arguments.begin(), arguments.end(), [](const c10::Argument& value) {
           return value.alias_info() != nullptr && value.alias_info()->isWrite() &&
                  holds_tensor(value.type());
         });
}

std::vector<Node*> put_clocks_around_ops(Graph& graph) {
  std::vector<Node*> ops;
  for_each_node(graph.block(), [&](Node* node) {
    if (is_timed(node)) {
      ops.push_back(node);
    }
  });
  for (size_t i = 0; i < ops.size(); ++i) {
    torch::jit::Value* index = constant(ops[i], static_cast<int64_t>(i));
    make_clock_op(graph, "jitquant::start_clock", index)->insertBefore(ops[i]);
    make_clock_op(graph, "jitquant::stop_clock", index)->insertAfter(ops[i]);
  }
  return ops;
}

double median(Samples samples) {
  const auto middle = samples.begin() + static_cast<Samples::difference_type>(samples.size() / 2);
  std::nth_element(samples.begin(), middle, samples.end());
  return *middle;
}

Nanoseconds time_run(torch::jit::Function& function, Stack stack) {
  clocks.assign(clocks.size(), {});
  const Nanoseconds begin = now();
  function.run(stack);
  return now() - begin;
}

// What a pair of clocks costs, and how much of it they see themselves.
struct ClockCost {
  double seen = 0;
  double whole = 0;
};

ClockCost measure_clocks() {
  constexpr int kPairs = 256;
  auto graph = std::make_shared<Graph>();
  torch::jit::Value* index = graph->insertConstant(0);
  for (int i = 0; i < kPairs; ++i) {
    graph->appendNode(make_clock_op(*graph, "jitquant::start_clock", index));
    graph->appendNode(make_clock_op(*graph, "jitquant::stop_clock", index));
  }
  graph->registerOutput(index);
  GraphFunction function("clocks", graph, nullptr);
  clocks.assign(1, {});
  Samples seen;
  Samples whole;
  for (int run = 0; run < 20 + kWarmUps; ++run) {
    const Nanoseconds time = time_run(function, {});
    if (run >= kWarmUps) {
      whole.push_back(static_cast<double>(time) / kPairs);
      seen.push_back(static_cast<double>(clocks[0].total) / kPairs);
    }
  }
  return {median(seen), median(whole)};
}

// The samples of all runs.
struct Record {
  explicit Record(size_t ops) : ops(ops) {}

  // Takes over what the clocks saw in a run of that length.
  void add(Nanoseconds whole, const ClockCost& cost) {
    double between = static_cast<double>(whole);
    for (size_t i = 0; i < ops.size(); ++i) {
      const auto calls = static_cast<double>(clocks[i].calls);
      ops[i].push_back(std::max(0.0, static_cast<double>(clocks[i].total) - calls * cost.seen));
      between -= ops[i].back() + calls * cost.whole;
    }
    this->between.push_back(std::max(0.0, between));
  }

  std::vector<Samples> ops;
  Samples between;
  Samples unprofiled;
};

Record record_runs(torch::jit::Function& profiled, torch::jit::Function& unprofiled, const Stack& inputs,
                   size_t ops, int64_t runs) {
  const ClockCost cost = measure_clocks();
  clocks.assign(ops, {});
  Record record(ops);
  for (int64_t run = -kWarmUps; run < runs; ++run) {
    const Nanoseconds plain = time_run(unprofiled, inputs);
    const Nanoseconds whole = time_run(profiled, inputs);
    if (run >= 0) {
      record.unprofiled.push_back(static_cast<double>(plain));
      record.add(whole, cost);
    }
  }
  return record;
}

// An object that the op is given, such as a kernel, may say what it did when it ran last.
std::optional<c10::IValue> ask(const Context& context, const Node* node, const std::string& method) {
  for (const auto* input : node->inputs()) {
    auto type = input->type()->cast<c10::ClassType>();
    if (type != nullptr && type->findMethod(method) != nullptr) {
      auto object = context.static_value(input);
      return object ? std::optional(type->getMethod(method)({*object})) : std::nullopt;
    }
  }
  return std::nullopt;
}

std::string op_name(const Node* node) {
  const std::string kind = node->kind().toQualString();
  return node->kind() == c10::prim::CallMethod ? kind + " " + node->s(c10::attr::name) : kind;
}

// A call that is left is named by the module that it calls.
std::string path_of_op(const Node* node) {
  if (node->kind() == c10::prim::CallMethod) {
    return attribute_path(node->input(0)).value_or(path_of(node));
  }
  return path_of(node);
}

OpProfile describe_op(const Context& context, const Node* node) {
  OpProfile row;
  row.op = op_name(node);
  row.path = path_of_op(node);
  row.line = source_line(node);
  if (auto name = ask(context, node, "implementation")) {
    row.kernel = name->toStringRef();
  }
  if (auto count = ask(context, node, "multiply_adds")) {
    row.multiply_adds = count->toInt();
  }
  return row;
}

}  // namespace

MethodProfile profile_forward(const torch::jit::Module& module, const Stack& inputs, int64_t runs) {
  const std::lock_guard<std::mutex> guard(one_profile_at_a_time);
  const at::NoGradGuard no_grad;
  const auto forward = module.get_method("forward");
  auto graph = forward.graph()->copy();
  const std::vector<Node*> ops = put_clocks_around_ops(*graph);
  GraphFunction profiled("profiled_forward", graph, nullptr);

  const Record record = record_runs(profiled, forward.function(), inputs, ops.size(), runs);
  const Context context(module, {"forward"}, {});
  MethodProfile result;
  for (size_t i = 0; i < ops.size(); ++i) {
    result.ops.push_back(describe_op(context, ops[i]));
    result.ops.back().calls = clocks[i].calls;
    result.ops.back().time_us = median(record.ops[i]) / 1e3;
  }
  result.between_us = median(record.between) / 1e3;
  result.unprofiled_us = median(record.unprofiled) / 1e3;
  return result;
}

}  // namespace jitquant
