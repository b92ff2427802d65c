// Values are watched while a method runs: an op stands at each of them in the method's graph, in branches and
// loops as elsewhere, and hands it to whoever watches.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/ir/ir.h>

namespace jitquant {

class Context;

// A node that makes tensors, as those who choose what to watch see it. It is named by its place among all of
// these in program order, which saving and loading do not change.
struct TensorNode {
  std::string op;
  std::string path;                     // of the module whose code it was
  std::string line;                     // in the user's source
  std::string kernel;                   // the spec of the native kernel that it runs, if it does
  std::vector<std::string> attributes;  // the paths of those it reads: kernels, packed weights
  // Scale and zero point, where it gives plain integers and says which.
  std::optional<std::pair<double, int64_t>> params;
  // For each tensor that it takes and that is not known beforehand, lists taken apart: the place of the node
  // that made it, or -1.
  std::vector<int64_t> producers;
};

std::vector<TensorNode> tensor_nodes(const Context& context, const std::shared_ptr<torch::jit::Graph>& graph);

// The places of the user's ops in the order of their reports; of the graph before fusion.
std::vector<int64_t> computing_places(const Context& context,
                                      const std::shared_ptr<torch::jit::Graph>& graph);

// What csrc/places.h says of each report: the place of its node and which output; takes it off the graph.
struct FinalPlace {
  int64_t node;
  int64_t output;
};
std::map<int64_t, FinalPlace> take_places(const std::shared_ptr<torch::jit::Graph>& graph);

// Where to watch. `id` is what the watcher is told.
struct WatchPoint {
  int64_t node;
  int64_t slot;  // of an output, or of an input as `producers` counts them
  int64_t id;
};

struct WatchPoints {
  std::vector<WatchPoint> outputs;
  std::vector<WatchPoint> inputs;
  std::vector<WatchPoint> substitutes;  // inputs that the watcher may give another value for
};

void insert_watch_points(const Context& context, const std::shared_ptr<torch::jit::Graph>& graph,
                         const WatchPoints& points);

// Who watches from now on, in all threads; nobody where they are empty.
struct Watcher {
  std::function<void(int64_t id, const at::Tensor& value)> see;
  std::function<std::optional<at::Tensor>(int64_t id, const at::Tensor& value)> substitute;
};
void set_watcher(Watcher watcher);

}  // namespace jitquant
