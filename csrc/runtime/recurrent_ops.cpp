// The ops that make and run recurrent kernels, with the arguments of ATen's ops of these names.
#include <tuple>

#include <ATen/ATen.h>

#include "csrc/runtime/recurrent.h"

namespace jitquant::runtime {

namespace {

using KernelPtr = c10::intrusive_ptr<Kernel>;
using TensorList = std::vector<at::Tensor>;
using Two = std::tuple<at::Tensor, at::Tensor>;
using Three = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

KernelPtr prepack(const std::string& kind, const TensorList& weights, const TensorList& weight_scales,
                  const TensorList& biases, int64_t num_layers, bool bidirectional) {
  TORCH_CHECK(
      num_layers > 0 && weight_scales.size() == weights.size() &&
          (biases.empty() || biases.size() == weights.size()),
      "jitquant::recurrent_prepack: there are ", num_layers, " layers, ", weights.size(), " weights, ",
      weight_scales.size(), " tensors of scales and ", biases.size(),
      " biases; give at least one layer, and scales and a bias (or no biases at all) for each weight");
  Spec spec;
  spec.set("kernel", std::string("recurrent"));
  spec.set("kind", kind);
  spec.set("layers", std::vector<int64_t>{num_layers});
  spec.set("directions", std::vector<int64_t>{bidirectional ? 2 : 1});
  for (const auto* tensors : {&weights, &weight_scales, &biases}) {
    for (const auto& tensor : *tensors) {
      spec.tensors.push_back(tensor.contiguous());
    }
  }
  return make_kernel(std::move(spec));
}

// The kernel that an op can run: "rnn" stands for both of its kinds.
Recurrent& kernel_for(const char* op, const char* kind, const KernelPtr& kernel) {
  auto* recurrent = dynamic_cast<Recurrent*>(kernel.get());
  const std::string own = recurrent == nullptr ? kernel->spec().word("kernel") : recurrent->kind();
  TORCH_CHECK(recurrent != nullptr && own.rfind(kind, 0) == 0, "jitquant::", op, ": the kernel is of kind '",
              own, "'; give one that recurrent_prepack made of kind '", kind, "'");
  return *recurrent;
}

TensorList run(const char* op, Recurrent& kernel, const TensorList& inputs) {
  kernel.check(op, inputs);
  return kernel.run_several(inputs);
}

void require_states(const char* op, const TensorList& hx) {
  TORCH_CHECK(hx.size() == 2, "jitquant::", op, ": there are ", hx.size(),
              " states and an LSTM has two; give the hidden and the cell state");
}

TensorList run_padded(const char* op, const char* kind, const at::Tensor& input, const TensorList& hx,
                      const KernelPtr& kernel, bool batch_first) {
  Recurrent& recurrent = kernel_for(op, kind, kernel);
  TORCH_CHECK(input.dim() == 3, "jitquant::", op, ": the input has ", input.dim(),
              " dimensions and has to have three (steps, batch, features); unsqueeze it");
  TensorList inputs{batch_first ? input.transpose(0, 1) : input};
  inputs.insert(inputs.end(), hx.begin(), hx.end());
  TensorList results = run(op, recurrent, inputs);
  if (batch_first) {
    results[0] = results[0].transpose(0, 1);
  }
  return results;
}

TensorList run_packed(const char* op, const char* kind, const at::Tensor& data, const at::Tensor& batch_sizes,
                      const TensorList& hx, const KernelPtr& kernel) {
  Recurrent& recurrent = kernel_for(op, kind, kernel);
  TORCH_CHECK(data.dim() == 2, "jitquant::", op, ": the data has ", data.dim(),
              " dimensions and has to have two (rows, features); "
              "let torch.nn.utils.rnn.pack_padded_sequence make the sequence");
  TensorList inputs{data};
  inputs.insert(inputs.end(), hx.begin(), hx.end());
  inputs.push_back(batch_sizes);
  return run(op, recurrent, inputs);
}

// [B, features] and [B, units], or both without the batch. The new states.
TensorList run_cell(const char* op, const char* kind, const at::Tensor& input, const TensorList& hx,
                    const KernelPtr& kernel) {
  Recurrent& recurrent = kernel_for(op, kind, kernel);
  TORCH_CHECK(recurrent.is_cell(), "jitquant::", op,
              ": the kernel has several layers or directions, and a cell has one of each; "
              "give what recurrent_prepack made of one");
  TORCH_CHECK(input.dim() == 1 || input.dim() == 2, "jitquant::", op, ": the input has ", input.dim(),
              " dimensions and has to have two (batch, features), or one; give one step of a sequence");
  const bool alone = input.dim() == 1;
  auto widened = [&](const at::Tensor& tensor) {
    TORCH_CHECK(tensor.dim() == input.dim(), "jitquant::", op, ": a state has ", tensor.dim(),
                " dimensions and the input ", input.dim(), "; give both a batch, or neither");
    return alone ? tensor.unsqueeze(0).unsqueeze(0) : tensor.unsqueeze(0);
  };
  TensorList inputs{widened(input)};
  for (const auto& state : hx) {
    inputs.push_back(widened(state));
  }
  TensorList states = run(op, recurrent, inputs);
  states.erase(states.begin());
  for (auto& state : states) {
    state = alone ? state.squeeze(0).squeeze(0) : state.squeeze(0);
  }
  return states;
}

Three as_three(const TensorList& results) { return {results[0], results[1], results[2]}; }
Two as_two(const TensorList& results) { return {results[0], results[1]}; }

Three lstm(const at::Tensor& input, const TensorList& hx, const KernelPtr& kernel, bool batch_first) {
  require_states("lstm_dynamic", hx);
  return as_three(run_padded("lstm_dynamic", "lstm", input, hx, kernel, batch_first));
}

Three lstm_packed(const at::Tensor& data, const at::Tensor& batch_sizes, const TensorList& hx,
                  const KernelPtr& kernel) {
  require_states("lstm_packed_dynamic", hx);
  return as_three(run_packed("lstm_packed_dynamic", "lstm", data, batch_sizes, hx, kernel));
}

Two lstm_cell(const at::Tensor& input, const TensorList& hx, const KernelPtr& kernel) {
  require_states("lstm_cell_dynamic", hx);
  return as_two(run_cell("lstm_cell_dynamic", "lstm", input, hx, kernel));
}

Two gru(const at::Tensor& input, const at::Tensor& hx, const KernelPtr& kernel, bool batch_first) {
  return as_two(run_padded("gru_dynamic", "gru", input, {hx}, kernel, batch_first));
}

Two gru_packed(const at::Tensor& data, const at::Tensor& batch_sizes, const at::Tensor& hx,
               const KernelPtr& kernel) {
  return as_two(run_packed("gru_packed_dynamic", "gru", data, batch_sizes, {hx}, kernel));
}

at::Tensor gru_cell(const at::Tensor& input, const at::Tensor& hx, const KernelPtr& kernel) {
  return run_cell("gru_cell_dynamic", "gru", input, {hx}, kernel)[0];
}

Two rnn(const at::Tensor& input, const at::Tensor& hx, const KernelPtr& kernel, bool batch_first) {
  return as_two(run_padded("rnn_dynamic", "rnn", input, {hx}, kernel, batch_first));
}

Two rnn_packed(const at::Tensor& data, const at::Tensor& batch_sizes, const at::Tensor& hx,
               const KernelPtr& kernel) {
  return as_two(run_packed("rnn_packed_dynamic", "rnn", data, batch_sizes, {hx}, kernel));
}

at::Tensor rnn_cell(const at::Tensor& input, const at::Tensor& hx, const KernelPtr& kernel) {
  return run_cell("rnn_cell_dynamic", "rnn", input, {hx}, kernel)[0];
}

}  // namespace

void register_recurrent(torch::Library& library) {
  const std::string kernel = "__torch__.torch.classes.jitquant.Kernel";
  library.def(("recurrent_prepack(str kind, Tensor[] weights, Tensor[] weight_scales, Tensor[] biases,"
               " int num_layers, bool bidirectional) -> " +
               kernel)
                  .c_str(),
              prepack);
  auto define = [&](const std::string& arguments, const char* results, auto function) {
    library.def((arguments + kernel + " kernel" + results).c_str(), function);
  };
  const char* two = ", bool batch_first) -> (Tensor, Tensor)";
  define("lstm_dynamic(Tensor input, Tensor[] hx, ", ", bool batch_first) -> (Tensor, Tensor, Tensor)", lstm);
  define("gru_dynamic(Tensor input, Tensor hx, ", two, gru);
  define("rnn_dynamic(Tensor input, Tensor hx, ", two, rnn);
  const std::string packed = "_packed_dynamic(Tensor data, Tensor batch_sizes, Tensor";
  define("lstm" + packed + "[] hx, ", ") -> (Tensor, Tensor, Tensor)", lstm_packed);
  define("gru" + packed + " hx, ", ") -> (Tensor, Tensor)", gru_packed);
  define("rnn" + packed + " hx, ", ") -> (Tensor, Tensor)", rnn_packed);
  define("lstm_cell_dynamic(Tensor input, Tensor[] hx, ", ") -> (Tensor, Tensor)", lstm_cell);
  define("gru_cell_dynamic(Tensor input, Tensor hx, ", ") -> Tensor", gru_cell);
  define("rnn_cell_dynamic(Tensor input, Tensor hx, ", ") -> Tensor", rnn_cell);
}

}  // namespace jitquant::runtime
