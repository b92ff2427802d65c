// Facts about ops, stated once. Observer insertion, quantize/dequantize insertion, fusion and the
// documentation read them here.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torch/csrc/jit/ir/ir.h>

namespace jitquant {

// Where the quantization parameters of an op's output come from.
enum class Output {
  Observed,     // an observer of its own
  SameAsInput,  // the op moves or selects values
  Fixed,        // the range is known beforehand, as sigmoid's
  Float,        // none: only the weight is quantized
};

struct FixedQParams {
  double scale;
  int64_t zero_point;
};

struct OpRow {
  std::string op;  // "aten::conv2d", or "aten::add.Tensor" for one overload only
  std::vector<std::string>
      activations;  // names of the schema's arguments, as all below; lists of tensors too
  // Of a list of a recurrent layer's parameters the matrices are weights, and the others biases.
  std::vector<std::string> weights = {};
  int64_t weight_axis = 0;  // the axis of a weight along which it is quantized
  std::optional<std::string> bias = std::nullopt;
  Output output = Output::SameAsInput;
  std::optional<FixedQParams> fixed = std::nullopt;
  bool moves = false;          // it only moves or selects values, of whatever dtype
  bool absorbs_clamp = false;  // a clamp behind it is done by the saturation of the integer op
  // A clamp's bounds: a number, or the name of the argument that holds it.
  std::optional<std::pair<std::string, std::string>> bounds = std::nullopt;

  // The weight of an op that has one, else nullptr.
  const std::string* weight() const { return weights.size() == 1 ? &weights[0] : nullptr; }
};

const std::vector<OpRow>& op_table();

// The row of a node, or nullptr.
const OpRow* find_row(const torch::jit::Node* node);

// One place where a node takes a tensor: an input of the node itself, or of the list that it takes.
struct TensorSlot {
  torch::jit::Node* node;
  size_t index;
  torch::jit::Value* value() const { return node->input(index); }
  void set(torch::jit::Value* value) const { node->replaceInput(index, value); }
};
using ActivationSlot = TensorSlot;

// The activation slots of a node with that row; empty where a list comes from elsewhere or has other users.
std::vector<ActivationSlot> activation_slots(torch::jit::Node* node, const OpRow& row);

// The weight slots of a node with that row. Of a recurrent layer: for each layer and direction the matrix
// that the input is multiplied with, and that of the hidden state; if it has biases they stand in the same
// order kBiasDistance places behind, and so they do in a recurrent cell. Empty where the list comes from
// elsewhere, has other users, or holds other things as well, as one with projections does.
std::vector<TensorSlot> weight_slots(torch::jit::Node* node, const OpRow& row);
inline constexpr size_t kBiasDistance = 2;

// The tensors that a node gives: its output (the first, of an op in the table), or those its list of outputs
// is taken apart into. Empty where the list goes elsewhere.
std::vector<torch::jit::Value*> tensor_outputs(torch::jit::Node* node);

// The groups of a convolution; 1 of an op that has none. Nothing where they are not constant.
std::optional<int64_t> groups_of(const torch::jit::Node* op);

// Whether the op is told to give another dtype than it takes, as mean(dtype=...) is: then it stays float.
bool casts(const torch::jit::Node* node);

// The bounds of a node whose row is a clamp; an absent bound is infinite. Nothing where they are not
// constants.
std::optional<std::pair<double, double>> clamp_bounds(const torch::jit::Node* node, const OpRow& row);

// The clamp right behind `value` that an op with `row` absorbs: the only user, in the same block.
torch::jit::Node* absorbed_clamp(const torch::jit::Value* value, const OpRow& row);

// A fence (aten::alias) keeps an op float that has an integer form: it stands behind the op's output,
// survives saving, and every pass takes it for an op it does not know. remove_fences takes it away.
bool is_fenced(torch::jit::Node* node);
constexpr const char* kFence = "aten::alias";

}  // namespace jitquant
