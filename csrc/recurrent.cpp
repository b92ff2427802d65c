#include "csrc/recurrent.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "csrc/dynamic.h"
#include "csrc/graph_edit.h"
#include "csrc/quantization_params.h"

namespace jitquant {

namespace {

using torch::jit::Node;
using torch::jit::Value;
using Values = std::vector<Value*>;

struct RecurrentForm {
  std::string op;        // the row's name
  const char* kind;      // what jitquant::recurrent_prepack calls it
  const char* stock_op;  // nullptr where stock torch has none
  const char* native_op;
};

const std::vector<RecurrentForm>& recurrent_forms() {
  static const std::vector<RecurrentForm> forms{
      {"aten::lstm.input", "lstm", "aten::quantized_lstm", "jitquant::lstm_dynamic"},
      {"aten::lstm.data", "lstm", "aten::quantized_lstm", "jitquant::lstm_packed_dynamic"},
      {"aten::lstm_cell", "lstm", "quantized::quantized_lstm_cell_dynamic", "jitquant::lstm_cell_dynamic"},
      {"aten::gru.input", "gru", "aten::quantized_gru", "jitquant::gru_dynamic"},
      {"aten::gru.data", "gru", "aten::quantized_gru", "jitquant::gru_packed_dynamic"},
      {"aten::gru_cell", "gru", "quantized::quantized_gru_cell_dynamic", "jitquant::gru_cell_dynamic"},
      {"aten::rnn_tanh.input", "rnn_tanh", nullptr, "jitquant::rnn_dynamic"},
      {"aten::rnn_tanh.data", "rnn_tanh", nullptr, "jitquant::rnn_packed_dynamic"},
      {"aten::rnn_tanh_cell", "rnn_tanh", "quantized::quantized_rnn_tanh_cell_dynamic",
       "jitquant::rnn_cell_dynamic"},
      {"aten::rnn_relu.input", "rnn_relu", nullptr, "jitquant::rnn_dynamic"},
      {"aten::rnn_relu.data", "rnn_relu", nullptr, "jitquant::rnn_packed_dynamic"},
      {"aten::rnn_relu_cell", "rnn_relu", "quantized::quantized_rnn_relu_cell_dynamic",
       "jitquant::rnn_cell_dynamic"},
  };
  return forms;
}

const RecurrentForm* find_recurrent_form(const OpRow& row) {
  const auto& forms = recurrent_forms();
  auto found = std::find_if(forms.begin(), forms.end(), [&](const auto& form) { return form.op == row.op; });
  return found == forms.end() ? nullptr : &*found;
}

bool is_layer(const Node* node) { return node->schema().argumentIndexWithName("params").has_value(); }

// What one layer has in one direction, as it is packed: integers, or floats that fit into half precision.
struct Matrix {
  const Node* quantize;  // nullptr for half precision
  Value* weight;
  Value* bias;  // nullptr where there is none
};

bool has_biases(const Node* node) {
  return is_layer(node) ? constant_of(node->namedInput("has_biases"))->toBool()
                        : !node->namedInput("b_ih")->mustBeNone();
}

// In the order of weight_slots; empty where a weight is float.
std::vector<Matrix> matrices_of(Node* node, const OpRow& row) {
  std::vector<Matrix> matrices;
  for (const auto& slot : weight_slots(node, row)) {
    Value* value = slot.value();
    const bool half = is_op(value->node(), kSaturateToHalf);
    if (!half && !is_dequantize(value)) {
      return {};
    }
    Value* weight = half ? value : value->node()->input();
    Value* bias = has_biases(node) ? slot.node->input(slot.index + kBiasDistance) : nullptr;
    matrices.push_back({half ? nullptr : weight->node(), weight, bias});
  }
  return matrices;
}

bool are_half(const std::vector<Matrix>& matrices) { return matrices[0].quantize == nullptr; }

Value* list_of(const Values& values, const c10::TypePtr& type, Node* before) {
  Node* list = before->owningGraph()->createList(type, values)->insertBefore(before);
  list->copyMetadata(before);
  return list->output();
}

// An op with the outputs of `node`, before it.
Node* insert_like(Node* node, const char* op, const Values& inputs) {
  Node* made = node->owningGraph()->create(c10::Symbol::fromQualString(op), inputs, node->outputs().size());
  for (size_t i = 0; i < node->outputs().size(); ++i) {
    made->output(i)->setType(node->output(i)->type());
  }
  made->insertBefore(node)->copyMetadata(node);
  return made;
}

// What the op took before its input was quantized, which is the row's only activation.
Values inputs_with_float(Node* node, const OpRow& row) {
  Values inputs(node->inputs().begin(), node->inputs().end());
  const auto slot = activation_slots(node, row).front();
  if (const Node* chooser = chooser_of(slot.value())) {
    inputs[slot.index] = chooser->input(0);
  }
  return inputs;
}

// The biases that stock ops ask for, zeros where the model has none.
Value* bias_or_zeros(const Context& context, const Matrix& matrix, Node* before) {
  if (matrix.bias != nullptr) {
    return matrix.bias;
  }
  const auto weight = context.static_tensor(matrix.weight->node()->input(0));
  return constant(before, at::zeros({weight ? weight->size(0) : 0}, at::kFloat));
}

struct PackedMatrix {
  Value* packed;
  Value* bias;
};

std::vector<PackedMatrix> pack_for_stock(const Context& context, const std::vector<Matrix>& matrices,
                                         Node* before) {
  const char* prepack = are_half(matrices) ? "quantized::linear_prepack_fp16" : "quantized::linear_prepack";
  std::vector<PackedMatrix> packed;
  for (const Matrix& matrix : matrices) {
    Value* added = matrix.bias == nullptr ? constant(before, c10::IValue()) : matrix.bias;
    Value* packed_weight = insert_op(before, before, prepack, {matrix.weight, added});
    packed.push_back({packed_weight, bias_or_zeros(context, matrix, before)});
  }
  return packed;
}

// Whether the input's integers keep to 7 bits, and then those of the hidden states do as well.
Value* reduce_range_of(Node* node, const OpRow& row) {
  const Node* chooser = chooser_of(activation_slots(node, row).front().value());
  return chooser == nullptr ? constant(node, false) : chooser->input(1);
}

Value* list_of_cells(Node* node, const OpRow& row, const std::vector<PackedMatrix>& packed, bool half) {
  Values cells;
  for (size_t i = 0; i < packed.size(); i += 2) {
    const PackedMatrix& ih = packed[i];
    const PackedMatrix& hh = packed[i + 1];
    cells.push_back(
        half ? insert_op(node, node, "quantized::make_quantized_cell_params_fp16", {ih.packed, hh.packed})
             : insert_op(node, node, "quantized::make_quantized_cell_params_dynamic",
                         {ih.packed, hh.packed, ih.bias, hh.bias, reduce_range_of(node, row)}));
  }
  return list_of(cells, cells[0]->type(), node);
}

Node* build_stock(const Context& context, Node* node, const OpRow& row, const char* op,
                  const std::vector<Matrix>& matrices) {
  const auto packed = pack_for_stock(context, matrices, node);
  const bool half = are_half(matrices);
  Values inputs = inputs_with_float(node, row);
  if (!is_layer(node)) {  // stock cells keep to 7 bits, whatever the qconfig says
    inputs.resize(2);
    inputs.insert(inputs.end(), {packed[0].packed, packed[1].packed, packed[0].bias, packed[1].bias});
    return insert_like(node, op, inputs);
  }
  inputs[*node->schema().argumentIndexWithName("params")] = list_of_cells(node, row, packed, half);
  inputs[*node->schema().argumentIndexWithName("has_biases")] = constant(node, true);
  if (is_op(node, "aten::lstm")) {
    inputs.push_back(constant(node, static_cast<int64_t>(half ? at::kHalf : at::kQInt8)));
    inputs.push_back(constant(node, true));  // use_dynamic
  }
  return insert_like(node, op, inputs);
}

// The kernel of all layers, or nullptr where a weight is not symmetric.
Value* make_kernel(const Context& context, Node* node, const char* kind,
                   const std::vector<Matrix>& matrices) {
  Values weights, scales, biases;
  for (const Matrix& matrix : matrices) {
    auto params = weight_params(context, matrix.quantize, node, /*by_row=*/false);
    if (!params) {
      return nullptr;
    }
    weights.push_back(insert_op(node, node, kIntRepr, {matrix.weight}));
    scales.push_back(params->scales);
    if (matrix.bias != nullptr) {
      biases.push_back(matrix.bias);
    }
  }
  const auto tensor = c10::TensorType::get();
  Value* layers = is_layer(node) ? node->namedInput("num_layers") : constant(node, 1);
  Value* bidirectional = is_layer(node) ? node->namedInput("bidirectional") : constant(node, false);
  return insert_op(node, node, "jitquant::recurrent_prepack",
                   {constant(node, std::string(kind)), list_of(weights, tensor, node),
                    list_of(scales, tensor, node), list_of(biases, tensor, node), layers, bidirectional});
}

Node* build_native(const Context& context, Node* node, const OpRow& row, const RecurrentForm& form,
                   const std::vector<Matrix>& matrices) {
  Value* kernel = make_kernel(context, node, form.kind, matrices);
  if (kernel == nullptr) {
    return nullptr;
  }
  Values inputs = inputs_with_float(node, row);
  inputs.resize(*node->schema().argumentIndexWithName(row.weights[0]));  // input, and hidden states
  inputs.push_back(kernel);
  if (node->schema().argumentIndexWithName("batch_first")) {
    inputs.push_back(node->namedInput("batch_first"));
  }
  return insert_like(node, form.native_op, inputs);
}

}  // namespace

bool has_recurrent_form(const Target& target, const OpRow& row) {
  const RecurrentForm* form = find_recurrent_form(row);
  return form != nullptr && (form->stock_op != nullptr || target.plain_integers);
}

std::optional<std::string> why_not_recurrent(Node* node, const OpRow& row) {
  if (find_recurrent_form(row) == nullptr || !is_layer(node)) {
    return std::nullopt;
  }
  auto train = constant_of(node->namedInput("train"));
  if (!train || train->toBool()) {
    return "it is called with train=True, or with what is not a constant";
  }
  if (weight_slots(node, row).empty()) {
    return "its weights are not a list of two matrices for each layer and direction: they are computed, used "
           "elsewhere, or have projections, which no integer op takes";
  }
  return std::nullopt;
}

Node* build_recurrent(const Context& context, Node* node, const OpRow& row) {
  const RecurrentForm& form = *find_recurrent_form(row);
  const auto matrices = matrices_of(node, row);
  if (matrices.empty()) {
    return nullptr;
  }
  if (context.target().plain_integers && !are_half(matrices)) {
    if (Node* made = build_native(context, node, row, form, matrices)) {
      return made;
    }
  }
  return form.stock_op == nullptr ? nullptr : build_stock(context, node, row, form.stock_op, matrices);
}

}  // namespace jitquant
