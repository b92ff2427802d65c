// What the inputs of a convolution or linear are on average, recorded while the prepared model runs: a node
// in front of the op adds to a tensor of the top module, _statistics_0, _statistics_1, …
//
// A linear and each output pixel of a convolution multiply weights with a patch of K inputs. Recorded are
//   means:     the sums of each channel and their number, [channels + 1], or
//   products:  the sums of patch * patch' with a one behind each patch, [groups, K + 1, K + 1], or
//   channels:  of a linear, [4, K + 1]: the lowest and the highest number of each channel, or zero, the sums
//              and the sums of squares, with how many there were behind them.
// Linears that take the same value share a node.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/ir/ir.h>

#include "csrc/pass.h"

namespace jitquant {

constexpr const char* kRecordMeans = "jitquant::record_means";
constexpr const char* kRecordProducts = "jitquant::record_products";
constexpr const char* kRecordChannels = "jitquant::record_channels";

// Whether a node is one of these; and whether it is one of the first two, from which biases are corrected.
bool is_record(const torch::jit::Node* node);
bool records_sums(const torch::jit::Node* node);

// An op whose inputs were recorded.
struct Recorded {
  torch::jit::Node* op;
  torch::jit::Node* quantize;  // of its weight
  at::Tensor weight;           // what that quantizes, as [groups, outputs of a group, K]
  at::Tensor scale;            // of each row, [groups, outputs of a group, 1]
  at::Tensor sums;             // double
};

// What is to be recorded of an op: the sums, all zero, and what the node takes besides its input and them.
struct Record {
  at::Tensor sums;
  std::vector<torch::jit::Value*> arguments;
};

// Puts a node of that name in front of each convolution (not transposed) and linear whose weight goes through
// an observer, where `plan` gives something for it and its weight. Returns how many nodes there are.
int64_t insert_records(
    Context& context, const char* name,
    const std::function<std::optional<Record>(torch::jit::Node*, const at::Tensor&)>& plan);

// The ops of which a node records the input.
std::vector<torch::jit::Node*> ops_behind(const torch::jit::Node* record);

// The same where it saw data, and for those whose weight is quantized symmetrically by now.
std::vector<Recorded> recorded_by(const Context& context, const torch::jit::Node* record);

// Calls `visit` with what nodes of that name record, and takes the nodes away with that.
void take_records(Context& context, const char* name,
                  const std::function<void(torch::jit::Node*, const std::vector<Recorded>&)>& visit);

// Calls `visit` for each op behind a node of that name, and takes the nodes away with what they recorded.
// Returns how many ops there were.
int64_t visit_recorded(Context& context, const char* name, const std::function<void(const Recorded&)>& visit);

// What linears take as `value` becomes `scaled`, with a factor for each channel: their sums are those of
// that.
void scale_records(Context& context, torch::jit::Value* value, torch::jit::Value* scaled,
                   const at::Tensor& factors);

// Adds to the bias of an op; `more` is [groups, outputs of a group].
void add_to_bias(Context& context, const Recorded& recorded, const at::Tensor& more);

}  // namespace jitquant
