#include "csrc/input_statistics.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "csrc/graph_edit.h"
#include "csrc/observer_calls.h"
#include "csrc/observers/vectorized.h"
#include "csrc/op_table.h"
#include "csrc/quantization_params.h"
#include "csrc/walk.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;

constexpr const char* kLinear = "aten::linear";

// Of more patches a part stands for all: neighbours are alike.
constexpr int64_t kMostPatches = 1024;

void record_means(const at::Tensor& input, const at::Tensor& sums, int64_t axis) {
  const int64_t channels = sums.size(0) - 1;
  const int64_t at = axis + input.dim();
  if (input.scalar_type() != at::kFloat || input.numel() == 0 || at < 0 || input.size(at) != channels) {
    return;  // the op itself says what is wrong with it
  }
  at::NoGradGuard no_grad;
  std::vector<int64_t> others;
  for (int64_t i = 0; i < input.dim(); ++i) {
    if (i != at) {
      others.push_back(i);
    }
  }
  sums.slice(0, 0, channels).add_(others.empty() ? input : input.sum(others));
  sums.slice(0, channels).add_(static_cast<double>(input.numel() / channels));
}

// By how much a stride may grow for no more patches than that.
int64_t sparser(const at::Tensor& image, at::IntArrayRef stride) {
  const int64_t patches = image.size(0) * image.size(-2) * image.size(-1) / (stride[0] * stride[1]);
  return std::max<int64_t>(
      1, static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(patches) / kMostPatches))));
}

// Some of the patches that a convolution multiplies, [groups, K, patches]; of the rows that a linear does.
at::Tensor patches_of(const at::Tensor& input, at::IntArrayRef window, at::IntArrayRef stride,
                      at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups) {
  if (window.empty()) {
    const at::Tensor rows = input.reshape({-1, input.size(-1)});
    const int64_t step = (rows.size(0) + kMostPatches - 1) / kMostPatches;
    return rows.slice(0, 0, rows.size(0), step).t().unsqueeze(0);
  }
  at::Tensor image = input.dim() == static_cast<int64_t>(window.size()) + 1 ? input.unsqueeze(0) : input;
  auto both = [](at::IntArrayRef sizes, int64_t one) {
    return sizes.size() == 1 ? std::vector<int64_t>{one, sizes[0]} : sizes.vec();
  };
  image = window.size() == 1 ? image.unsqueeze(-2) : image;
  std::vector<int64_t> steps = both(stride, 1);
  const int64_t more = sparser(image, steps);
  for (int64_t& step : steps) {
    step *= more;
  }
  const auto sizes = both(window, 1);
  const auto around = both(padding, 0);
  const bool is_pixel = sizes == std::vector<int64_t>{1, 1} && around == std::vector<int64_t>{0, 0};
  const at::Tensor columns =
      is_pixel ? image.slice(2, 0, image.size(2), steps[0]).slice(3, 0, image.size(3), steps[1]).flatten(2)
               : at::im2col(image, sizes, both(dilation, 1), around, steps);
  const int64_t depth = columns.size(1) / groups;
  return columns.reshape({columns.size(0), groups, depth, columns.size(2)})
      .permute({1, 2, 0, 3})
      .reshape({groups, depth, -1});
}

void record_products(const at::Tensor& input, const at::Tensor& sums, at::IntArrayRef window,
                     at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                     int64_t groups) {
  if (input.scalar_type() != at::kFloat || input.numel() == 0) {
    return;
  }
  at::NoGradGuard no_grad;
  const at::Tensor patches = patches_of(input, window, stride, padding, dilation, groups);
  const int64_t depth = patches.size(1);
  const at::Tensor sum = patches.sum(2);
  sums.slice(1, 0, depth).slice(2, 0, depth).add_(at::bmm(patches, patches.transpose(1, 2)));
  sums.select(1, depth).slice(1, 0, depth).add_(sum);
  sums.select(2, depth).slice(1, 0, depth).add_(sum);
  sums.select(1, depth).select(1, depth).add_(static_cast<double>(patches.size(2)));
}

// Row after row, so that memory is read in its order.
JITQUANT_VECTORIZED void add_rows(const float* in, int64_t rows, int64_t step, int64_t columns, float* low,
                                  float* high, float* sums, float* squares) {
  for (int64_t row = 0; row < rows; ++row, in += step) {
    for (int64_t i = 0; i < columns; ++i) {
      const float x = in[i];
      low[i] = x < low[i] ? x : low[i];
      high[i] = x > high[i] ? x : high[i];
      sums[i] += x;
      squares[i] += x * x;
    }
  }
}

// Adds what stands in some columns of `in` to the columns of `table`, whose rows are `channels` + 1 apart.
void add_columns(const float* in, int64_t rows, int64_t channels, double* table, int64_t begin, int64_t end) {
  constexpr int64_t part = 64;  // floats add up well only so many at a time
  const int64_t columns = end - begin;
  auto row_of_table = [&](int64_t row) { return table + row * (channels + 1) + begin; };
  std::vector<float> low(row_of_table(0), row_of_table(0) + columns);
  std::vector<float> high(row_of_table(1), row_of_table(1) + columns);
  for (int64_t row = 0; row < rows; row += part) {
    std::vector<float> sums(static_cast<size_t>(columns)), squares(static_cast<size_t>(columns));
    add_rows(in + row * channels + begin, std::min(part, rows - row), channels, columns, low.data(),
             high.data(), sums.data(), squares.data());
    std::transform(sums.begin(), sums.end(), row_of_table(2), row_of_table(2), std::plus<>());
    std::transform(squares.begin(), squares.end(), row_of_table(3), row_of_table(3), std::plus<>());
  }
  std::copy(low.begin(), low.end(), row_of_table(0));
  std::copy(high.begin(), high.end(), row_of_table(1));
}

// Which integers the values become is for whoever reads the node.
void record_channels(const at::Tensor& input, const at::Tensor& sums, int64_t /*lowest*/,
                     int64_t /*highest*/) {
  const int64_t channels = sums.size(1) - 1;
  if (input.scalar_type() != at::kFloat || input.numel() == 0 || input.size(-1) != channels) {
    return;
  }
  const at::Tensor rows = input.detach().contiguous();
  const int64_t count = rows.numel() / channels;
  auto* data = sums.mutable_data_ptr<double>();
  at::parallel_for(0, channels, std::max<int64_t>(65536 / count, 64), [&](int64_t begin, int64_t end) {
    add_columns(rows.const_data_ptr<float>(), count, channels, data, begin, end);
  });
  data[4 * (channels + 1) - 1] += static_cast<double>(count);
}

bool has_weight_of_integers(const Node* op) {
  const Value* weight = op->namedInput(*find_row(op)->weight());
  return is_observed(weight) || is_dequantize(weight);
}

const std::string& name_of_sums(const Node* record) { return record->input(1)->node()->s(c10::attr::name); }

std::optional<at::Tensor> observed_weight(const Context& context, const Node* op) {
  const OpRow* row = find_row(op);
  if (row == nullptr || !row->weight() || !row->bias || row->weight_axis != 0 ||
      !is_observed(op->namedInput(*row->weight()))) {
    return std::nullopt;
  }
  return context.static_tensor(op->namedInput(*row->weight())->node()->input(1));
}

std::optional<Recorded> read_recorded(const Context& context, Node* op, const at::Tensor& sums) {
  Node* quantize = op->namedInput(*find_row(op)->weight())->node()->input()->node();
  auto weight = context.static_tensor(quantize->input(0));
  auto scale = context.static_value(quantize->input(1));
  auto zero_point = context.static_value(quantize->input(2));
  auto groups = groups_of(op);
  if (!weight || !scale || !zero_point || !groups) {
    return std::nullopt;
  }
  const int64_t channels = weight->size(0);
  const bool per_channel = scale->isTensor();
  const at::Tensor scales =
      per_channel ? scale->toTensor().to(at::kFloat) : at::full({channels}, scale->toDouble(), at::kFloat);
  const at::Tensor zeros =
      per_channel ? zero_point->toTensor().to(at::kInt) : at::full({channels}, zero_point->toInt(), at::kInt);
  if (scales.numel() != channels || zeros.any().item<bool>()) {
    return std::nullopt;  // along another axis, or not symmetric
  }
  auto rows = [&](const at::Tensor& tensor) { return tensor.reshape({*groups, channels / *groups, -1}); };
  return Recorded{op, quantize, rows(weight->contiguous()), rows(scales), sums};
}

TORCH_LIBRARY_FRAGMENT(jitquant, library) {
  library.def("record_means(Tensor input, Tensor(a!) sums, int axis) -> ()", record_means);
  library.def(
      "record_products(Tensor input, Tensor(a!) sums, int[] window, int[] stride, int[] padding,"
      " int[] dilation, int groups) -> ()",
      record_products);
  library.def("record_channels(Tensor input, Tensor(a!) sums, int lowest, int highest) -> ()",
              record_channels);
}

}  // namespace

bool is_record(const Node* node) { return is_op(node, kRecordChannels) || records_sums(node); }

bool records_sums(const Node* node) { return is_op(node, {kRecordMeans, kRecordProducts}); }

int64_t insert_records(Context& context, const char* name,
                       const std::function<std::optional<Record>(Node*, const at::Tensor&)>& plan) {
  int64_t count = 0;
  std::set<std::pair<Value*, torch::jit::Block*>> of_linears;
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(), [&](Node* op) {
      auto weight = observed_weight(context, op);
      auto record = weight ? plan(op, *weight) : std::nullopt;
      if (!record || (is_op(op, kLinear) && !of_linears.emplace(op->input(0), op->owningBlock()).second)) {
        return;
      }
      Value* sums = context.new_attribute(op, "_statistics_", record->sums, c10::TensorType::get());
      record->arguments.insert(record->arguments.begin(), {op->input(0), sums});
      Node* node = graph->create(c10::Symbol::fromQualString(name), record->arguments, 0);
      node->insertBefore(op);
      node->copyMetadata(op);
      ++count;
    });
  }
  return count;
}

void add_to_bias(Context& context, const Recorded& recorded, const at::Tensor& more) {
  Value* value = recorded.op->namedInput("bias");
  auto bias = context.static_tensor(value);
  if (!bias && !value->mustBeNone()) {
    return;
  }
  const at::Tensor sum = more.flatten() + (bias ? bias->to(at::kDouble) : at::zeros({}, at::kDouble));
  set_input(recorded.op, "bias",
            context.new_attribute(recorded.op, "_bias_", sum.to(at::kFloat), c10::TensorType::get()));
}

std::vector<Node*> ops_behind(const Node* record) {
  Value* input = record->input(0);
  const Node* end = record->owningBlock()->return_node();
  Node* first = record->next();
  while (first != end && (find_row(first) == nullptr || !find_row(first)->weight())) {
    first = first->next();
  }
  if (first == end || first->input(0) != input || !has_weight_of_integers(first)) {
    return {};
  }
  if (!is_op(first, kLinear)) {
    return {first};
  }
  std::vector<Node*> linears;
  for (const auto& use : input->uses()) {
    if (is_op(use.user, kLinear) && use.offset == 0 && use.user->owningBlock() == record->owningBlock() &&
        has_weight_of_integers(use.user)) {
      linears.push_back(use.user);
    }
  }
  return linears;
}

std::vector<Recorded> recorded_by(const Context& context, const Node* record) {
  const at::Tensor sums = context.attribute(name_of_sums(record))->toTensor().to(at::kDouble);
  // The last number counts what was seen.
  if (!at::isfinite(sums).all().item<bool>() || !sums.flatten()[-1].is_nonzero()) {
    return {};
  }
  std::vector<Recorded> all;
  for (Node* op : ops_behind(record)) {
    if (auto recorded = read_recorded(context, op, sums)) {
      all.push_back(*recorded);
    }
  }
  return all;
}

void take_records(Context& context, const char* name,
                  const std::function<void(Node*, const std::vector<Recorded>&)>& visit) {
  at::NoGradGuard no_grad;
  std::vector<std::string> names;
  for (const auto& graph : context.graphs()) {
    for_each_node(graph->block(), [&](Node* node) {
      if (is_op(node, name)) {
        names.push_back(name_of_sums(node));
        visit(node, recorded_by(context, node));
        node->destroy();
      }
    });
    eliminate_dead_code(graph);
  }
  context.remove_attributes(names);
}

int64_t visit_recorded(Context& context, const char* name,
                       const std::function<void(const Recorded&)>& visit) {
  int64_t count = 0;
  take_records(context, name, [&](Node* /*record*/, const std::vector<Recorded>& all) {
    std::for_each(all.begin(), all.end(), visit);
    count += static_cast<int64_t>(all.size());
  });
  return count;
}

void scale_records(Context& context, Value* value, Value* scaled, const at::Tensor& factors) {
  const at::Tensor all = at::cat({factors.to(at::kDouble), at::ones({1}, at::kDouble)});
  for (const auto& use : std::vector(value->uses())) {
    Node* record = use.user;
    const bool of_linears =
        records_sums(record) && !ops_behind(record).empty() && is_op(ops_behind(record)[0], kLinear);
    if (of_linears) {
      const at::Tensor sums = context.attribute(name_of_sums(record))->toTensor();
      const at::Tensor changed = is_op(record, kRecordMeans) ? sums * all : sums * all * all.unsqueeze(1);
      context.module.setattr(name_of_sums(record), changed.to(sums.scalar_type()));
      record->replaceInput(0, scaled);
    }
  }
}

}  // namespace jitquant
