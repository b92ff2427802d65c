#include "csrc/op_table.h"

#include <cmath>
#include <limits>
#include <unordered_map>

#include "csrc/graph_edit.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

OpRow weighted(std::string op, int64_t axis = 0) {
  return {.op = std::move(op),
          .activations = {"input"},
          .weights = {"weight"},
          .weight_axis = axis,
          .bias = "bias",
          .output = Output::Observed,
          .absorbs_clamp = true};
}

OpRow looked_up(std::string op) {
  return {.op = std::move(op), .activations = {}, .weights = {"weight"}, .output = Output::Float};
}

OpRow recurrent(std::string op, std::string activation, std::vector<std::string> weights) {
  return {.op = std::move(op),
          .activations = {std::move(activation)},
          .weights = std::move(weights),
          .output = Output::Float};
}

OpRow binary(std::string op) {
  return {.op = std::move(op),
          .activations = {"self", "other"},
          .output = Output::Observed,
          .absorbs_clamp = true};
}

OpRow observed(std::string op, std::string activation = "self") {
  return {.op = std::move(op), .activations = {std::move(activation)}, .output = Output::Observed};
}

OpRow same(std::string op, std::string activation = "self") {
  return {.op = std::move(op), .activations = {std::move(activation)}};
}

OpRow moves(std::string op) { return {.op = std::move(op), .activations = {"self"}, .moves = true}; }

OpRow fixed(std::string op, double scale, int64_t zero_point) {
  return {.op = std::move(op),
          .activations = {"self"},
          .output = Output::Fixed,
          .fixed = FixedQParams{scale, zero_point}};
}

OpRow clamp(std::string op, std::string low, std::string high) {
  return {.op = std::move(op), .activations = {"self"}, .bounds = std::pair(std::move(low), std::move(high))};
}

void add_recurrent(std::vector<OpRow>& rows) {
  for (const std::string name : {"lstm", "gru", "rnn_tanh", "rnn_relu"}) {
    rows.push_back(recurrent("aten::" + name + ".input", "input", {"params"}));
    rows.push_back(recurrent("aten::" + name + ".data", "data", {"params"}));
    rows.push_back(recurrent("aten::" + name + "_cell", "input", {"w_ih", "w_hh"}));
  }
}

std::vector<OpRow> make_table() {
  std::vector<OpRow> rows{
      // Convolutions and linear: integer products with the weight.
      weighted("aten::conv1d"),
      weighted("aten::conv2d"),
      weighted("aten::conv3d"),
      weighted("aten::linear"),
      weighted("aten::conv_transpose1d", 1),
      weighted("aten::conv_transpose2d.input", 1),
      weighted("aten::conv_transpose3d.input", 1),
      // Rows of a weight.
      looked_up("aten::embedding"),
      looked_up("aten::embedding_bag"),
      looked_up("aten::embedding_bag.padding_idx"),
      // Arithmetic on activations.
      binary("aten::add.Tensor"),
      binary("aten::sub.Tensor"),
      binary("aten::mul.Tensor"),
      observed("aten::add.Scalar"),
      observed("aten::sub.Scalar"),
      observed("aten::rsub.Scalar"),
      observed("aten::mul.Scalar"),
      observed("aten::div.Scalar"),
      observed("aten::cat", "tensors"),
      // Activation functions with a range of their own.
      observed("aten::hardswish"),
      observed("aten::leaky_relu"),
      observed("aten::elu"),
      observed("aten::celu"),
      observed("aten::prelu"),
      fixed("aten::sigmoid", 1.0 / 256, 0),
      fixed("aten::hardsigmoid", 1.0 / 256, 0),
      fixed("aten::tanh", 2.0 / 256, 128),
      // Clamps: absorbed by the op before them where they can be, else integer ops on the same parameters.
      clamp("aten::relu", "0", "inf"),
      clamp("aten::hardtanh", "min_val", "max_val"),
      clamp("aten::clamp", "min", "max"),
      // Products of two activations, and functions along an axis.
      {.op = "aten::matmul", .activations = {"self", "other"}, .output = Output::Observed},
      {.op = "aten::einsum", .activations = {"tensors"}, .output = Output::Observed},
      // Of a long row all values are far below 1.
      observed("aten::softmax.int"),
      observed("aten::layer_norm", "input"),
      {.op = "aten::batch_norm", .activations = {"input"}, .output = Output::Observed, .absorbs_clamp = true},
      observed("aten::group_norm", "input"),
      observed("aten::instance_norm", "input"),
      observed("aten::gelu"),
      observed("aten::silu"),
      // Padding with zero.
      same("aten::constant_pad_nd"),
      moves("aten::reflection_pad1d"),
      moves("aten::reflection_pad2d"),
      // Pooling and resampling.
      same("aten::max_pool1d"),
      same("aten::max_pool2d"),
      same("aten::max_pool3d"),
      same("aten::avg_pool1d"),
      same("aten::avg_pool2d"),
      same("aten::avg_pool3d"),
      same("aten::adaptive_avg_pool1d"),
      same("aten::adaptive_avg_pool2d"),
      same("aten::adaptive_avg_pool3d"),
      same("aten::mean.dim"),
      same("aten::upsample_nearest2d.vec", "input"),
      same("aten::upsample_nearest3d.vec", "input"),
      same("aten::upsample_bilinear2d.vec", "input"),
      same("aten::upsample_nearest2d"),
      same("aten::upsample_nearest3d"),
      same("aten::upsample_bilinear2d"),
      // Shape.
      moves("aten::flatten.using_ints"),
      moves("aten::reshape"),
      moves("aten::permute"),
      moves("aten::transpose.int"),
      moves("aten::t"),
      moves("aten::squeeze"),
      moves("aten::squeeze.dim"),
      moves("aten::unsqueeze"),
      moves("aten::chunk"),
      moves("aten::split.Tensor"),
      moves("aten::split_with_sizes"),
      moves("aten::tensor_split.sections"),
      moves("aten::tensor_split.indices"),
      moves("aten::slice.Tensor"),
      moves("aten::select.int"),
      moves("aten::channel_shuffle"),
      moves("aten::pixel_shuffle"),
      moves("aten::pixel_unshuffle"),
      moves("aten::squeeze.dims"),
      moves("aten::unflatten.int"),
      moves("aten::movedim.int"),
      moves("aten::movedim.intlist"),
      moves("aten::narrow"),
      moves("aten::expand"),
      moves("aten::expand_as"),
      moves("aten::repeat"),
      moves("aten::tile"),
      moves("aten::repeat_interleave.self_int"),
      moves("aten::unbind.int"),
      moves("aten::unfold"),
      moves("aten::flip"),
      moves("aten::roll"),
      moves("aten::diagonal"),
      moves("aten::index_select"),
      moves("aten::index.Tensor"),
      moves("aten::gather"),
      same("aten::masked_fill.Scalar"),
      moves("aten::contiguous"),
      moves("aten::clone"),
      // The order of integers is that of what they stand for.
      moves("aten::max"),
      moves("aten::min"),
      moves("aten::max.dim"),
      moves("aten::min.dim"),
      moves("aten::amax"),
      moves("aten::amin"),
      moves("aten::topk"),
      moves("aten::sort"),
      moves("aten::sort.stable"),
  };
  add_recurrent(rows);
  return rows;
}

// "aten::add.Tensor" belongs to aten::add, restricted to one overload.
std::pair<std::string, std::optional<std::string>> split_overload(const std::string& op) {
  const size_t dot = op.find('.');
  return dot == std::string::npos ? std::pair(op, std::optional<std::string>())
                                  : std::pair(op.substr(0, dot), std::optional(op.substr(dot + 1)));
}

using Index = std::unordered_multimap<c10::Symbol, const OpRow*>;

const Index& table_index() {
  static const Index index = [] {
    Index built;
    for (const OpRow& row : op_table()) {
      built.emplace(c10::Symbol::fromQualString(split_overload(row.op).first), &row);
    }
    return built;
  }();
  return index;
}

double bound(const Node* node, const std::string& text, double absent) {
  if (text == "inf") {
    return absent;
  }
  if (text == "0") {
    return 0;
  }
  auto value = constant_of(node->namedInput(text));
  if (!value) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  return value->isNone() ? absent : value->toScalar().toDouble();
}

// How many tensors of the list belong to each layer and direction, if it is two matrices, or these and
// biases.
std::optional<size_t> parameters_of_a_cell(const Node* layer, size_t count) {
  auto layers = constant_of(layer->namedInput("num_layers"));
  auto bidirectional = constant_of(layer->namedInput("bidirectional"));
  auto has_biases = constant_of(layer->namedInput("has_biases"));
  if (!layers || !bidirectional || !has_biases) {
    return std::nullopt;
  }
  const size_t cells = static_cast<size_t>(layers->toInt()) * (bidirectional->toBool() ? 2 : 1);
  const size_t each = has_biases->toBool() ? 2 * kBiasDistance : kBiasDistance;
  return count == cells * each ? std::optional(each) : std::nullopt;
}

bool is_tensor(const Value* value) { return value->type()->isSubtypeOf(*c10::TensorType::get()); }

bool is_list_for_one(const Value* value) {
  return value->node()->kind() == c10::prim::ListConstruct && value->uses().size() == 1;
}

}  // namespace

const std::vector<OpRow>& op_table() {
  static const std::vector<OpRow> table = make_table();
  return table;
}

const OpRow* find_row(const Node* node) {
  auto [begin, end] = table_index().equal_range(node->kind());
  for (auto it = begin; it != end; ++it) {
    const auto* schema = node->maybeSchema();
    if (schema == nullptr) {
      return nullptr;
    }
    auto [name, overload] = split_overload(it->second->op);
    if (schema->overload_name() == overload.value_or("")) {
      return it->second;
    }
  }
  return nullptr;
}

std::vector<ActivationSlot> activation_slots(Node* node, const OpRow& row) {
  std::vector<ActivationSlot> slots;
  for (const auto& name : row.activations) {
    const size_t index = *node->schema().argumentIndexWithName(name);
    Value* value = node->input(index);
    if (is_tensor(value)) {
      slots.push_back({node, index});
      continue;
    }
    if (!is_list_for_one(value)) {
      return {};
    }
    for (size_t i = 0; i < value->node()->inputs().size(); ++i) {
      slots.push_back({value->node(), i});
    }
  }
  return slots;
}

std::vector<TensorSlot> weight_slots(Node* node, const OpRow& row) {
  std::vector<TensorSlot> slots;
  for (const auto& name : row.weights) {
    const size_t index = *node->schema().argumentIndexWithName(name);
    Value* value = node->input(index);
    if (is_tensor(value)) {
      slots.push_back({node, index});
      continue;
    }
    const size_t count = value->node()->inputs().size();
    auto each = is_list_for_one(value) ? parameters_of_a_cell(node, count) : std::nullopt;
    for (size_t i = 0; each && i < count; i += *each) {
      slots.push_back({value->node(), i});
      slots.push_back({value->node(), i + 1});
    }
  }
  return slots;
}

std::vector<Value*> tensor_outputs(Node* node) {
  if (node->outputs().size() > 1 && find_row(node) != nullptr) {
    return {node->outputs()[0]};  // values first, then the places where they were
  }
  if (node->outputs().size() != 1) {
    return {};
  }
  Value* output = node->output();
  if (is_tensor(output)) {
    return {output};
  }
  Node* user = only_user(output);
  if (user == nullptr || user->kind() != c10::prim::ListUnpack) {
    return {};
  }
  return {user->outputs().begin(), user->outputs().end()};
}

std::optional<int64_t> groups_of(const Node* op) {
  if (!op->schema().argumentIndexWithName("groups")) {
    return 1;
  }
  auto groups = constant_of(op->namedInput("groups"));
  return groups ? std::optional(groups->toInt()) : std::nullopt;
}

bool casts(const Node* node) {
  return node->schema().argumentIndexWithName("dtype") && !node->namedInput("dtype")->mustBeNone();
}

std::optional<std::pair<double, double>> clamp_bounds(const Node* node, const OpRow& row) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const double low = bound(node, row.bounds->first, -infinity);
  const double high = bound(node, row.bounds->second, infinity);
  if (std::isnan(low) || std::isnan(high)) {
    return std::nullopt;
  }
  return std::pair(low, high);
}

Node* absorbed_clamp(const Value* value, const OpRow& row) {
  Node* user = row.absorbs_clamp ? only_user(value) : nullptr;
  const OpRow* user_row = user == nullptr ? nullptr : find_row(user);
  return user_row != nullptr && user_row->bounds && clamp_bounds(user, *user_row) ? user : nullptr;
}

bool is_fenced(Node* node) {
  for (Value* output : tensor_outputs(node)) {
    Node* user = only_user(output);
    if (user != nullptr && is_op(user, kFence)) {
      return true;
    }
  }
  return false;
}

}  // namespace jitquant
