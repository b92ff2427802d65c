// recurrent: all layers and directions of an LSTM, a GRU or a plain recurrent network. What comes in and, at
// each step, the hidden state are made integer with the range that each row of the batch has by itself.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <torch/library.h>

#include "csrc/runtime/kernel.h"
#include "csrc/runtime/loops.h"

namespace jitquant::runtime {

struct Direction;

class Recurrent final : public Kernel {
 public:
  explicit Recurrent(Spec given);
  ~Recurrent() override;

  // Raises in the name of an op where these are not what run_several takes: the input [T, B, features] or, of
  // a packed sequence, [rows, features]; the hidden state and, of an LSTM, the cell state, [layers *
  // directions, B, units]; of a packed sequence the batch sizes. The results are the output and the states.
  void check(const std::string& op, Tensors inputs) const;

  const std::string& kind() const { return spec_.word("kind"); }
  size_t states() const { return kind() == "lstm" ? 2 : 1; }
  bool is_cell() const { return directions_.size() == 1; }

 protected:
  void accept(Inputs& inputs) const override;
  std::shared_ptr<Plan> make_plan(Tensors inputs) override;

 private:
  void check_matrix(size_t index, int64_t features) const;
  size_t matrices() const;
  void check_biases(size_t index) const;
  void check_sequence(const std::string& op, const at::Tensor& sizes, int64_t rows) const;
  std::vector<at::Tensor> compute(Tensors inputs) const;

  std::vector<std::unique_ptr<const Direction>> directions_;  // those of the first layer come first
  int64_t gates_;
  GateLoop loop_;
  int64_t units_;
  int64_t features_;
};

// The ops that make and run these kernels.
void register_recurrent(torch::Library& library);

}  // namespace jitquant::runtime
