// The one file that binds to Python.
#include <algorithm>

#include <torch/csrc/jit/ir/irparser.h>
#include <torch/csrc/jit/python/pybind_utils.h>
#include <torch/extension.h>

#include "csrc/dynamic.h"
#include "csrc/error.h"
#include "csrc/module_path.h"
#include "csrc/observer_calls.h"
#include "csrc/op_nodes.h"
#include "csrc/op_table.h"
#include "csrc/pass.h"
#include "csrc/profile.h"
#include "csrc/target.h"
#include "csrc/walk.h"
#include "csrc/watch.h"

namespace py = pybind11;

namespace jitquant {

namespace {

using torch::jit::Module;
using torch::jit::Node;

using PythonAssignments = std::map<std::string, std::vector<std::optional<std::pair<Module, Module>>>>;

Assignments to_assignments(const PythonAssignments& given) {
  Assignments assignments;
  for (const auto& [method, observers] : given) {
    auto& of_method = assignments[method];
    for (const auto& pair : observers) {
      of_method.push_back(pair ? std::optional(ObserverPair{pair->first, pair->second}) : std::nullopt);
    }
  }
  return assignments;
}

// A dict for each op that the pass decided about.
py::list to_records(const Context& context) {
  py::list records;
  for (const auto& [method, reports] : context.reports) {
    for (const OpReport& report : reports) {
      py::dict record;
      record["method"] = method;
      record["module"] = report.path;
      record["source"] = report.line;
      record["op"] = report.op;
      record["becomes"] = report.fate.becomes;
      record["reason"] = report.fate.reason;
      record["weights"] = report.weights;
      records.append(record);
    }
  }
  return records;
}

py::tuple run_pass_on(const std::string& name, const Module& module, const std::vector<std::string>& methods,
                      const std::string& engine, const std::string& target,
                      const PythonAssignments& assignments, const std::vector<std::string>& preserved_attrs,
                      const std::map<std::string, std::shared_ptr<torch::jit::Graph>>& formulas) {
  Context context(module, methods, {engine, target, to_assignments(assignments), preserved_attrs, formulas});
  const int64_t count = run_pass(name, context);
  return py::make_tuple(count, context.warnings, to_records(context));
}

// Registers a value under a dotted path, with empty modules on the way.
void add_attribute(Module root, const std::string& path, const py::object& value, const c10::TypePtr& type) {
  Module owner = root;
  size_t begin = 0;
  for (size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', begin)) {
    const std::string name = path.substr(begin, dot - begin);
    if (!owner.hasattr(name)) {
      const auto unit = root._ivalue()->compilation_unit();
      const auto type_name = c10::QualifiedName(*owner.type()->name(), name);
      owner.register_module(name, Module(unit, c10::ClassType::create(type_name, unit, /*is_module=*/true)));
    }
    owner = owner.attr(name).toModule();
    begin = dot + 1;
  }
  const std::string name = path.substr(begin);
  if (py::isinstance<Module>(value)) {
    owner.register_module(name, py::cast<Module>(value));
  } else {
    owner.register_attribute(name, type, torch::jit::toIValue(value, type));
  }
}

// IR text with attributes becomes a module whose forward is that graph. Its first input has to be %self.
// Each attribute comes with its type, or with nothing where it is a module.
Module parse_module(const std::string& text,
                    const std::map<std::string, std::pair<py::object, c10::TypePtr>>& attributes) {
  static int64_t next = 0;
  auto unit = std::make_shared<torch::jit::CompilationUnit>();
  Module module(c10::QualifiedName("__torch__.Parsed" + std::to_string(next++)), unit);
  for (const auto& [path, value] : attributes) {
    add_attribute(module, path, value.first, value.second);
  }
  auto graph = std::make_shared<torch::jit::Graph>();
  torch::jit::parseIR(text, graph.get());
  if (graph->inputs().empty()) {
    fail("parse", "the graph has no inputs",
         "write graph(%self, ...), since a method takes its module first");
  }
  graph->inputs()[0]->setType(module.type());
  for_each_node(graph->block(), [&](Node* node) {
    auto owner = node->kind() == c10::prim::GetAttr ? node->input()->type()->cast<c10::ClassType>() : nullptr;
    if (owner) {
      const auto& name = node->s(c10::attr::name);
      if (!owner->hasAttribute(name)) {
        fail("parse", "the graph reads '" + name + "', which no attribute has",
             "pass it among the attributes");
      }
      node->output()->setType(owner->getAttribute(name));
    }
  });
  module.type()->addMethod(
      unit->create_function(c10::QualifiedName(*module.type()->name(), "forward"), graph));
  return module;
}

py::list table_rows() {
  py::list rows;
  for (const OpRow& row : op_table()) {
    py::dict entry;
    entry["op"] = row.op;
    entry["activations"] = row.activations;
    entry["moves"] = row.moves;
    entry["weights"] = row.weights;
    entry["weight_axis"] = row.weight_axis;
    entry["bias"] = row.bias;
    entry["output"] = row.output == Output::Observed ? "observed"
                      : row.output == Output::Fixed  ? "fixed"
                      : row.output == Output::Float  ? "float"
                                                     : "same";
    entry["absorbs_clamp"] = row.absorbs_clamp;
    entry["clamp"] = row.bounds.has_value();
    for (const Target* target : {&quantized_target(), &native_target()}) {
      py::dict column;
      column["integer"] = has_integer_form(*target, row);
      column["dynamic"] = has_dynamic_form(*target, row);
      std::vector<std::string> recipes, becomes;
      for (const IntegerForm& form : target->forms()) {
        if (form.op == row.op) {
          recipes.push_back(form.recipe);
          becomes.push_back(form.becomes);
        }
      }
      column["recipes"] = recipes;
      column["becomes"] = becomes;
      entry[target->name.c_str()] = column;
    }
    rows.append(entry);
  }
  return rows;
}

// How errors and reports name each node of a method, constants and attribute reads aside.
std::vector<std::string> describe_nodes(const Module& module, const std::string& method) {
  std::vector<std::string> lines;
  for_each_node(module.get_method(method).graph()->block(), [&](Node* node) {
    if (node->kind() != c10::prim::Constant && node->kind() != c10::prim::GetAttr) {
      lines.push_back(describe(node));
    }
  });
  return lines;
}

// What a quantizer is told of each op, by method.
py::dict list_ops(const Module& module, const std::vector<std::string>& methods) {
  const Context context(module, methods, {});
  const auto graphs = context.graphs();
  py::dict found;
  for (size_t i = 0; i < methods.size(); ++i) {
    py::list nodes;
    for (const OpNode& node : op_nodes(context, graphs[i])) {
      py::dict entry;
      entry["op"] = node.op;
      entry["module"] = node.path;
      entry["source"] = node.line;
      entry["producers"] = node.producers;
      entry["weight_shape"] = node.weight_shape;
      nodes.append(entry);
    }
    found[methods[i].c_str()] = nodes;
  }
  return found;
}

// Observers by name, each with the path of the module whose op it stands at; the path is empty in the top
// module and where the model was loaded from a file.
std::map<std::string, std::string> observer_paths(const Module& module) {
  std::map<std::string, std::string> paths;
  for (const auto& method : module.get_methods()) {
    for_each_node(method.graph()->block(), [&](Node* node) {
      if (auto name = called_observer(node)) {
        paths[*name] = path_of(node);
      }
    });
  }
  return paths;
}

// The stack of a call of forward, with defaults filled in.
torch::jit::Stack stack_of(const Module& module, const py::tuple& inputs) {
  const auto& schema = module.get_method("forward").function().getSchema();
  try {
    return torch::jit::createStackForSchema(schema, inputs, {}, module._ivalue());
  } catch (const std::exception& error) {
    std::string cause = error.what();  // its first sentence says it; declarations follow
    cause.resize(std::min({cause.size(), cause.find('\n'), cause.find(" Declaration:")}));
    cause.resize(cause.find_last_not_of('.') + 1);
    fail("profile", "these inputs do not fit: " + cause, "pass a tuple of what forward takes");
  }
}

py::dict profile(const Module& module, const py::tuple& inputs, int64_t runs) {
  torch::jit::Stack stack = stack_of(module, inputs);
  for (size_t i = 1; i < stack.size(); ++i) {
    stack[i] = stack[i].deepcopy();  // forward may change its inputs
  }
  MethodProfile result;
  {
    const py::gil_scoped_release release;
    result = profile_forward(module, stack, runs);
  }
  py::list ops;
  for (const OpProfile& row : result.ops) {
    py::dict entry;
    entry["op"] = row.op;
    entry["module"] = row.path;
    entry["source"] = row.line;
    entry["calls"] = row.calls;
    entry["time_us"] = row.time_us;
    entry["kernel"] = row.kernel;
    entry["multiply_adds"] = row.multiply_adds;
    ops.append(entry);
  }
  py::dict entry;
  entry["ops"] = ops;
  entry["between_us"] = result.between_us;
  entry["unprofiled_us"] = result.unprofiled_us;
  return entry;
}

py::list list_tensor_nodes(const Module& module, const std::string& method) {
  const Context context(module, {method}, {});
  py::list nodes;
  for (const TensorNode& node : tensor_nodes(context, context.graphs()[0])) {
    py::dict entry;
    entry["op"] = node.op;
    entry["module"] = node.path;
    entry["source"] = node.line;
    entry["kernel"] = node.kernel;
    entry["attributes"] = node.attributes;
    entry["params"] = node.params;
    entry["producers"] = node.producers;
    nodes.append(entry);
  }
  return nodes;
}

std::vector<int64_t> list_computing_places(const Module& module, const std::string& method) {
  const Context context(module, {method}, {});
  return computing_places(context, context.graphs()[0]);
}

std::map<int64_t, std::pair<int64_t, int64_t>> take_places_of(const Module& module,
                                                              const std::string& method) {
  std::map<int64_t, std::pair<int64_t, int64_t>> places;
  for (const auto& [report, place] : take_places(module.get_method(method).graph())) {
    places[report] = {place.node, place.output};
  }
  return places;
}

using Triples = std::vector<std::tuple<int64_t, int64_t, int64_t>>;

void watch_method(const Module& module, const std::string& method, const Triples& outputs,
                  const Triples& inputs, const Triples& substitutes) {
  const auto points = [](const Triples& triples) {
    std::vector<WatchPoint> made;
    for (const auto& [node, slot, id] : triples) {
      made.push_back({node, slot, id});
    }
    return made;
  };
  const Context context(module, {method}, {});
  insert_watch_points(context, context.graphs()[0], {points(outputs), points(inputs), points(substitutes)});
}

// None takes the watcher away. The graph runs without the interpreter lock.
void watch_with(const py::object& see, const py::object& substitute) {
  Watcher next;
  if (!see.is_none()) {
    next.see = [see](int64_t id, const at::Tensor& value) {
      const py::gil_scoped_acquire lock;
      see(id, value);
    };
  }
  if (!substitute.is_none()) {
    next.substitute = [substitute](int64_t id, const at::Tensor& value) {
      const py::gil_scoped_acquire lock;
      const py::object other = substitute(id, value);
      return other.is_none() ? std::nullopt : std::optional(py::cast<at::Tensor>(other));
    };
  }
  set_watcher(std::move(next));
}

void register_attribute(Module& module, const std::string& name, const std::string& value) {
  if (module.hasattr(name)) {
    module.setattr(name, value);
  } else {
    module.register_attribute(name, c10::StringType::get(), value);
  }
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, binding) {
  py::register_exception<QuantizationError>(binding, "QuantizationError", PyExc_ValueError);
  binding.def("run_pass", &run_pass_on, py::arg("name"), py::arg("module"), py::arg("methods"),
              py::arg("engine"), py::arg("target"), py::arg("assignments"), py::arg("preserved_attrs"),
              py::arg("formulas"));
  binding.def("parse_module", &parse_module, py::arg("text"), py::arg("attributes"));
  binding.def("passes", [] {
    std::map<std::string, std::string> purposes;
    for (const auto& [name, pass] : all_passes()) {
      purposes[name] = pass.purpose;
    }
    return purposes;
  });
  // Types and graphs of its own; the tensors too, unless they are to be shared.
  binding.def(
      "clone",
      [](const Module& module, bool share_tensors) {
        at::NoGradGuard no_grad;  // a copy is no part of the caller's gradients
        return module.clone(share_tensors);
      },
      py::arg("module"), py::arg("share_tensors"));
  binding.def("list_ops", &list_ops, py::arg("module"), py::arg("methods"));
  binding.def("describe_nodes", &describe_nodes, py::arg("module"), py::arg("method"));
  binding.def("observer_paths", &observer_paths, py::arg("module"));
  binding.def("profile", &profile, py::arg("module"), py::arg("inputs"), py::arg("runs"));
  binding.def("tensor_nodes", &list_tensor_nodes, py::arg("module"), py::arg("method"));
  binding.def("computing_places", &list_computing_places, py::arg("module"), py::arg("method"));
  binding.def("take_places", &take_places_of, py::arg("module"), py::arg("method"));
  binding.def("watch_method", &watch_method, py::arg("module"), py::arg("method"), py::arg("outputs"),
              py::arg("inputs"), py::arg("substitutes"));
  binding.def("watch_with", &watch_with, py::arg("see"), py::arg("substitute"));
  binding.def("op_table", &table_rows);
  binding.def(
      "count_round_trips",
      [](const Module& module, const std::vector<std::string>& methods) {
        int64_t count = 0;
        for (const auto& method : methods) {
          count += count_round_trips(module.get_method(method).graph());
        }
        return count;
      },
      py::arg("module"), py::arg("methods"));
  binding.def("set_string", &register_attribute);
}

}  // namespace jitquant
