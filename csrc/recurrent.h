// Recurrent layers and cells in dynamic quantization. A recipe (csrc/target.h) cannot loop over layers and
// directions, so what a target makes of them is built here. For a layer on the target `quantized`:
//   %packed_ih = quantized::linear_prepack(%w_ih, %b_ih)
//   %packed_hh = quantized::linear_prepack(%w_hh, %b_hh)
//   %cell = quantized::make_quantized_cell_params_dynamic(%packed_ih, %packed_hh, %b_ih, %b_hh, %reduce)
//   %cells = prim::ListConstruct(%cell, ...)
//   %y, %h, %c = aten::quantized_lstm(%x, %hx, %cells, ...)
// and on the target `native`:
//   %kernel = jitquant::recurrent_prepack(%kind, %weights, %scales, %biases, %num_layers, %bidirectional)
//   %y, %h, %c = jitquant::lstm_dynamic(%x, %hx, %kernel, %batch_first)
// Hidden states stay float in the graph; both make integers of them at each step, inside the op.
#pragma once

#include <optional>
#include <string>

#include <torch/csrc/jit/ir/ir.h>

#include "csrc/op_table.h"
#include "csrc/target.h"

namespace jitquant {

// Whether the target has an op for what the row stands for, a recurrent layer or cell.
bool has_recurrent_form(const Target& target, const OpRow& row);

// Why a recurrent layer stays float on every target; nothing where it need not, and of other ops.
std::optional<std::string> why_not_recurrent(torch::jit::Node* node, const OpRow& row);

// Inserts before a node with quantized weights what the target makes of it. The result has the node's
// outputs. nullptr where the target has nothing for weights such as these.
torch::jit::Node* build_recurrent(const Context& context, torch::jit::Node* node, const OpRow& row);

}  // namespace jitquant
